"""``vloc map build camnet``: a database of other drives for the weights of a trained map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.camnet.localizer import read_network
from vloc_ros.localizers.camnet.settings import InferenceSettings
from vloc_ros.maps import MapBundle
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import ranged, settings_from_mapping, settings_to_mapping
from vloc_train.camnet.export import export_map
from vloc_train.camnet.train import calibrated_map, camnet_bundle, split_scenes
from vloc_train.training.provenance import frame_id_of, provenance
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, training_device
from vloc_train.training.settings import RunSettings

__all__ = ["BUILDER", "BuildSettings", "build_camnet"]


@dataclass(frozen=True)
class BuildSettings(RunSettings):
    """How a database is made of drives.

    :param inference: changes of the localizer's settings; what is not named stays as in the map of the weights.
    :param keyframe_every: every n-th frame goes into the database.
    :param hold_out: every n-th frame is kept out of the database for validation and calibration, when no calibration
        data is given; 0 keeps all frames, and the calibration of the map of the weights where the scene has one.
    """

    inference: dict[str, Any] = field(default_factory=dict)
    keyframe_every: int = ranged(1, minimum=1)
    hold_out: int = ranged(10, minimum=0)


def build_camnet(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: BuildSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Encode drives with the weights of the CamNet map ``extractor`` and write the map of them.

    :raises ConfigError: no ``extractor``. :raises MapBackendError: it is no CamNet map.
    :raises DatasetError: no usable frames.
    :raises CameraMismatchError: the drives' camera sees too differently from the one of the weights.
    """
    if extractor is None:
        raise ConfigError("map build camnet: expected --extractor with a trained CamNet map, found none")
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)
    source = camnet_bundle(extractor)
    network = read_network(source).eval().requires_grad_(False).to(device)
    stored = section(source.manifest.settings, "inference", f"{extractor}: settings")
    inference = settings_from_mapping(InferenceSettings, {**stored, **settings.inference}, "camnet inference")
    preprocess = Preprocess.from_settings(source.manifest.preprocessing)
    for sequences in scenes.values():
        for sequence in sequences:
            preprocess.check(sequence.camera, source.manifest.camera)
    work = work_dir or out.with_name(out.name + ".work")
    keeps_all = settings.hold_out == 0 and not calibration
    every = settings.hold_out if settings.hold_out else 1 << 62
    database, held_out, _ = split_scenes(scenes, calibration, preprocess, every, work)
    if any(not len(f) for f in database):
        raise DatasetError("expected at least one frame for the database of every scene")
    made = provenance(
        scenes,
        settings_to_mapping(settings),
        frames={f.scene: len(f) for f in database},
        extractor={"id": source.id, "data": source.manifest.provenance.get("data", {})},
        **(about or {}),
    )
    common: dict[str, Any] = {"provenance": made, "frame_id": frame_id_of(scenes)}
    if keeps_all:
        kept = {n: c for n, c in source.manifest.calibration.items() if n in scenes}
        return export_map(
            network, database, inference, preprocess, out,
            calibration=kept, keyframe_every=settings.keyframe_every, **common,
        )  # fmt: skip
    return calibrated_map(
        network, database, held_out, inference, preprocess, out, work, made, frame_id_of(scenes),
        settings.keyframe_every,
    )  # fmt: skip


BUILDER = Trainer(tuple(BuildSettings.PRESETS), BuildSettings.preset, build_camnet)
