"""One training run of CamNet, from recorded drives to a calibrated map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError, MapBackendError, TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.camnet.localizer import CamNetLocalizer, read_network
from vloc_ros.localizers.camnet.network import CamNetNetwork
from vloc_ros.localizers.camnet.settings import InferenceSettings
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.maps.writer import check_target
from vloc_train.camnet.data import KeyedGroups, Place
from vloc_train.camnet.export import export_map
from vloc_train.camnet.mining import mine
from vloc_train.camnet.module import CamNetModule
from vloc_train.camnet.settings import TrainSettings
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.depth import depth_grids, has_depth
from vloc_train.training.frames import FrameSet, cache_frames, is_held_out
from vloc_train.training.provenance import frame_id_of, provenance
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, checked_pretrained, claim, fit, identity_of, training_device, use_half
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER", "calibrated_map", "camnet_bundle", "split_scenes", "train_camnet"]


def camnet_bundle(path: Path) -> MapBundle:
    """A CamNet map. :raises MapBackendError: a map of another backend."""
    bundle = read_map(path)
    if bundle.manifest.backend != "camnet":
        raise MapBackendError(f"{path}: expected a map of backend 'camnet', found one of {bundle.manifest.backend!r}")
    return bundle


def split_scenes(
    scenes: Mapping[str, Sequence[PosedSequence]],
    calibration: Mapping[str, Sequence[PosedSequence]] | None,
    preprocess: Preprocess,
    every: int,
    work: Path,
) -> tuple[list[FrameSet], list[FrameSet], list[npt.NDArray[np.int64]]]:
    """Frames to use, frames to validate and calibrate on, and the numbers of the former among all frames of a scene."""
    used, held_out, numbers = [], [], []
    for name, sequences in scenes.items():
        frames = cache_frames(sequences, preprocess, work, name)
        number = np.arange(len(frames))
        if calibration and calibration.get(name):
            held = cache_frames(calibration[name], preprocess, work, name)
        else:
            apart = is_held_out(number, every)
            held, number = frames.select(number[apart]), number[~apart]
        used.append(frames.select(number))
        held_out.append(held)
        numbers.append(number)
    return used, held_out, numbers


def _places(
    scenes: Mapping[str, Sequence[PosedSequence]],
    training: Sequence[FrameSet],
    numbers: Sequence[npt.NDArray[np.int64]],
    settings: TrainSettings,
    work: Path,
) -> list[Place]:
    out = []
    for (_, sequences), frames, number in zip(scenes.items(), training, numbers, strict=True):
        drive = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])[number]
        kind = settings.mining.similarity
        wants_depth = kind == "depth" or (kind == "auto" and has_depth(sequences))
        depth = depth_grids(sequences, settings.mining.grid)[number] if wants_depth else None
        out.append(Place(frames, drive, mine(frames, settings.mining, settings.seed, work, depth)))
    return out


def train_camnet(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Train, encode the training drives as the database, calibrate, and write the map.

    :param scenes: drives by scene name; the first scene's camera is the map's.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th frame is kept out of training and database for it.
    :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
    :param about: more fields for the map's provenance.
    :param extractor: a CamNet map whose weights to start from.
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    start = camnet_bundle(extractor) if extractor is not None else None
    work = work_dir or out.with_name(out.name + ".work")
    more = {"extractor": start.id} if start is not None else {}
    claim(work, identity_of(settings.to_mapping(), scenes, calibration, **more), options.resume)
    preprocess = preprocess_of(settings.network.backbone, settings.image_width, settings.image_height)
    training, held_out, numbers = split_scenes(scenes, calibration, preprocess, settings.hold_out, work)
    if training and any(len(f) < 2 for f in (*training, *held_out)):
        raise DatasetError("expected at least 2 frames to train on and 2 to validate on in every scene")
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    groups = KeyedGroups(_places(scenes, training, numbers, settings, work), settings)
    resumes = (work / "last.ckpt").exists() and options.resume
    module = CamNetModule(
        settings, groups, preprocess, False if resumes or start else checked_pretrained(settings.pretrained)
    )
    if start is not None and not resumes:
        _start_from(module, read_network(start), str(extractor))
    half = use_half(settings.precision, device)
    data = TrainingData(groups, options.workers)
    first, seconds = fit(
        module, data, options, work, epochs=settings.epochs, max_minutes=settings.max_minutes, half=half
    )
    if not first:  # another process than the first of a distributed run
        raise SystemExit(0)
    made = provenance(
        scenes,
        settings.to_mapping(),
        frames={f.scene: len(f) for f in training},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        training_minutes=round(seconds / 60.0, 2),
        **more,
        **(about or {}),
    )
    return calibrated_map(
        module.exported.to(device), training, held_out, settings.inference, preprocess, out, work, made,
        frame_id_of(scenes), settings.keyframe_every,
    )  # fmt: skip


def calibrated_map(
    network: CamNetNetwork,
    database: Sequence[FrameSet],
    held_out: Sequence[FrameSet],
    inference: InferenceSettings,
    preprocess: Preprocess,
    out: Path,
    work: Path,
    made: dict[str, Any],
    frame_id: str,
    keyframe_every: int,
) -> MapBundle:
    """Write the map of a network and its database, with the covariance fitted on held-out frames."""
    common: dict[str, Any] = {"provenance": made, "frame_id": frame_id, "keyframe_every": keyframe_every}
    device = next(network.parameters()).device
    staged = export_map(network, database, inference, preprocess, work / "uncalibrated", **common)
    with CamNetLocalizer.from_map(staged, device) as localizer:
        calibration, validation = calibrate_scenes(localizer, held_out, localizer.statistics)
    return export_map(
        network, database, inference, preprocess, out,
        validation=validation, calibration=calibration, **common,
    )  # fmt: skip


def _start_from(module: CamNetModule, network: CamNetNetwork, where: str) -> None:
    if network.settings != module.settings.network:
        raise TrainingError(f"{where}: expected the network settings of this run, found others: {network.settings}")
    for part in (module.network, module.averaged):
        if part is not None:
            part.load_state_dict(network.state_dict())


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, train_camnet)
