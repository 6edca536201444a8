"""Maps of descriptors: of drives and an extractor that exists already, and more images for a map that exists."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import select_device
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.database import SECTION as DATABASE_SECTION
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, SECTION, Descriptor, preprocess_for
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_ros.localizers.retrieval.localizer import RetrievalLocalizer, RetrievalSettings
from vloc_ros.maps import MapBundle, MapManifest, read_map, write_map
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import settings_to_mapping
from vloc_train.cli import Data, More, show_progress
from vloc_train.cli_options import Truth
from vloc_train.retrieval.clusters import fit_extractor_whitening, initialise_clusters, untrained_extractor
from vloc_train.retrieval.describe import describe_frames
from vloc_train.retrieval.settings import BuildSettings, DatabaseChoice
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, cache_drives, cache_frames, hold_out, join
from vloc_train.training.provenance import commit, frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, training_device
from vloc_train.training.sources import by_scene

__all__ = [
    "BUILDER",
    "add",
    "add_images",
    "build_retrieval",
    "build_retrieval_map",
    "check_cameras",
    "database_of",
    "spaced",
]

_log = logging.getLogger(__name__)

#: Frames of equal stamps whose positions differ by less (m) are the same frame.
SAME_M = 1e-3


def spaced(T_map_cam: npt.NDArray[np.float64], choice: DatabaseChoice) -> npt.NDArray[np.int64]:
    """Numbers of the frames of a drive that moved or turned enough since the last one taken; the first is taken."""
    if choice.spacing_m == 0:
        return np.arange(len(T_map_cam))
    taken: list[int] = []
    for index, T in enumerate(T_map_cam):
        if taken:
            last = T_map_cam[taken[-1]]
            angle = np.degrees(np.arccos(np.clip((np.einsum("ij,ij->", T[:3, :3], last[:3, :3]) - 1) / 2, -1, 1)))
            moved = np.linalg.norm(T[:3, 3] - last[:3, 3]) >= choice.spacing_m
            if not moved and not (choice.spacing_deg and angle >= choice.spacing_deg):
                continue
        taken.append(index)
    return np.asarray(taken, dtype=np.int64)


def check_cameras(drives: Sequence[FrameSet], preprocess: Preprocess) -> None:
    """One extractor and one database are of one camera.

    :raises CameraMismatchError: drives of cameras that see differently.
    """
    for drive in drives[1:]:
        try:
            preprocess.check(drive.camera, drives[0].camera)
        except CameraMismatchError as problem:
            raise CameraMismatchError(f"scene {drive.scene!r} beside {drives[0].scene!r}: {problem}") from problem


def database_of(descriptor: Descriptor, drives: Sequence[FrameSet], choice: DatabaseChoice | None = None) -> Database:
    """Descriptors and poses of the frames of some drives of one scene."""
    chosen = [drive.select(spaced(drive.T_map_cam, choice or DatabaseChoice())) for drive in drives]
    return Database.of_images(
        torch.cat([describe_frames(descriptor, c) for c in chosen]),
        torch.from_numpy(np.concatenate([to_vectors(c.T_map_cam) for c in chosen])),
        torch.from_numpy(np.concatenate([c.stamps_ns for c in chosen])),
        descriptor.metric,
        descriptor.identity,
    )


def build_retrieval_map(
    out: Path,
    descriptor: Descriptor,
    drives: Sequence[FrameSet],
    held_out: Sequence[FrameSet],
    choice: DatabaseChoice,
    retrieval: RetrievalSettings,
    *,
    provenance: Mapping[str, Any],
    frame_id: str = "map",
    work: Path,
) -> MapBundle:
    """Describe drives, calibrate on held-out frames and write a retrieval map.

    :param drives: frames of each drive; drives of one scene have the same ``scene``.
    :param held_out: frames of each scene that the database does not hold.
    :param work: where an uncalibrated copy lies meanwhile.
    """
    names = list(dict.fromkeys(d.scene for d in drives))
    tensors: dict[str, torch.Tensor] = {}
    scenes = []
    for name in names:
        mine = [d for d in drives if d.scene == name]
        database = database_of(descriptor, mine, choice)
        tensors.update(database.tensors(name))
        scenes.append(scene_of(name, database.poses[:, :3].numpy(), frame_id))
    manifest = MapManifest(
        backend="retrieval",
        scenes=tuple(scenes),
        camera=drives[0].camera,
        preprocessing=descriptor.preprocess.settings(),
        settings={
            SECTION: descriptor.settings_mapping(),
            DATABASE_SECTION: database.settings(),
            "retrieval": settings_to_mapping(retrieval),
        },
        provenance=dict(provenance),
    )
    files = {EXTRACTOR_FILE: descriptor.tensors(), DATABASE_FILE: tensors}
    staged = work / "uncalibrated"
    bundle = write_map(staged, manifest, files, overwrite=staged.exists())
    with RetrievalLocalizer.from_map(bundle, descriptor.device) as localizer:
        calibration, validation = calibrate_scenes(localizer, held_out, localizer.statistics)
    manifest = replace(manifest, calibration=calibration, validation=validation)
    return write_map(out, manifest, files, overwrite=out.exists())


def build_retrieval(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: BuildSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """``vloc map build retrieval``: a map of drives with an extractor that exists already.

    :param scenes: drives by scene name; all of one camera.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene for the covariance; without them every ``settings.hold_out``-th frame is
        kept out of the database for it.
    :param extractor: a map of any backend that holds an extractor; without it ``settings.extractor`` with weights.
    :raises ConfigError: no extractor, or one without weights.
    """
    device = training_device(options or RunOptions())
    check_target(out, overwrite=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=_parent(out)) as folder:
        work = work_dir or Path(folder)
        origin: dict[str, Any] = {}
        if extractor is not None:
            bundle = read_map(extractor)
            descriptor = Descriptor.from_bundle(bundle, device)
            preprocess = descriptor.preprocess
            origin = {"extractor": {"map": bundle.path.name, "id": descriptor.identity}}
        else:
            preprocess = preprocess_for(settings.extractor)
        known: list[FrameSet] = []
        held_out: list[FrameSet] = []
        for name, sequences in scenes.items():
            drives = cache_drives(sequences, preprocess, work, name)
            if calibration and calibration.get(name):
                known += drives
                held_out.append(cache_frames(calibration[name], preprocess, work, name))
            else:
                split = [hold_out(d, settings.hold_out) for d in drives]
                known += [kept for kept, _ in split]
                held_out.append(join([held for _, held in split]))
        check_cameras([*known, *held_out], preprocess)
        for name in scenes:
            if not sum(len(d) for d in known if d.scene == name):
                raise DatasetError(f"scene {name!r}: expected frames to describe, found none besides the held-out ones")
        if extractor is None:
            descriptor = Descriptor(_public_extractor(settings, known, preprocess, device), preprocess, device)
        made = provenance(
            scenes,
            settings.to_mapping(),
            frames={name: sum(len(d) for d in known if d.scene == name) for name in scenes},
            calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
            **origin,
            **(about or {}),
        )
        return build_retrieval_map(
            out,
            descriptor,
            known,
            held_out,
            settings.database,
            settings.retrieval,
            provenance=made,
            frame_id=frame_id_of(scenes),
            work=work,
        )


def _parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _public_extractor(
    settings: BuildSettings, drives: Sequence[FrameSet], preprocess: Preprocess, device: torch.device
) -> Extractor:
    """A network with public weights; what public weights do not bring is fitted on the drives."""
    if settings.extractor.kind != "hub" and settings.pretrained is False:
        raise ConfigError(
            "map build retrieval: expected an extractor, found none; give --extractor MAP, or public weights with "
            "--set pretrained=true or --set pretrained=FILE"
        )
    extractor = untrained_extractor(settings.extractor, settings.pretrained)
    sample = (drives, preprocess, settings.fit_images, settings.seed, device)
    initialise_clusters(extractor, *sample)
    if extractor.needs_whitening and settings.extractor.whiten is not None:
        fit_extractor_whitening(extractor, settings.extractor.whiten, *sample)
    return extractor


BUILDER = Trainer(tuple(BuildSettings.PRESETS), BuildSettings.preset, build_retrieval)


def add_images(
    map_path: Path,
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path | None = None,
    device: str = "auto",
    choice: DatabaseChoice | None = None,
) -> MapBundle:
    """Add the images of drives to a map's database; nothing else is made again, and the covariance stays as it was.

    Frames that are in the database already are left out, with a warning. The map is replaced by one exchange.

    :param scenes: drives by scene of the map; in a map of one scene the name ``map`` means that one.
    :param out: another map to write instead of changing this one.
    :raises MapBackendError: the map has no descriptor database.
    :raises ConfigError: no such scene.
    :raises CameraMismatchError: a drive of another camera than the map's.
    :raises DatasetError: no frame that is not in the map.
    """
    bundle = read_map(map_path)
    target = out or bundle.path
    check_target(target, overwrite=True)
    manifest = bundle.manifest
    if manifest.file(DATABASE_FILE) is None or manifest.file(EXTRACTOR_FILE) is None:
        raise MapBackendError(
            f"{bundle.path}: expected a map with an extractor and a descriptor database, found one of backend "
            f"{manifest.backend!r} without; images can be added to retrieval and copr maps"
        )
    names = [scene.name for scene in manifest.scenes]
    named = {names[0] if name == "map" and len(names) == 1 else name: value for name, value in scenes.items()}
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ConfigError(f"scene: expected one of {', '.join(names)}, found {unknown[0]!r}; write SCENE=PATH")
    descriptor = Descriptor.from_bundle(bundle, select_device(device))
    tensors = bundle.stored_tensors(DATABASE_FILE)
    areas = {scene.name: scene for scene in manifest.scenes}
    added: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=_parent(target)) as folder:
        for name, sequences in named.items():
            for sequence in sequences:
                descriptor.preprocess.check(Rectifier(sequence.camera).target, manifest.camera)
            old = Database.read(bundle, name)
            drives = cache_drives(sequences, descriptor.preprocess, Path(folder), name)
            drives = [_new_frames(d, old, s.name) for d, s in zip(drives, sequences, strict=True)]
            drives = [d for d in drives if len(d)]
            if not drives:
                raise DatasetError(f"scene {name!r}: expected frames that the map does not hold, found none")
            new = database_of(descriptor, drives, choice)
            tensors.update(old.append(new).tensors(name))
            scene = areas[name]
            low, high = new.poses[:, :3].amin(dim=0).tolist(), new.poses[:, :3].amax(dim=0).tolist()
            areas[name] = replace(
                scene,
                area_min=tuple(map(min, scene.area_min, low)),
                area_max=tuple(map(max, scene.area_max, high)),
            )
            added[name] = {"data": [s.name for s in sequences], "frames": len(new)}
    note = {**added, "commit": commit(), "date": datetime.now(timezone.utc).date().isoformat()}
    earlier = manifest.provenance.get("added", [])
    changed = replace(
        manifest,
        scenes=tuple(areas[name] for name in names),
        provenance={**manifest.provenance, "added": [*(earlier if isinstance(earlier, list) else []), note]},
    )
    others = {entry.name: bundle.read(entry.name) for entry in manifest.files if entry.name != DATABASE_FILE}
    return write_map(target, changed, {DATABASE_FILE: tensors}, extra_files=others, overwrite=target.exists())


def _new_frames(drive: FrameSet, database: Database, name: str) -> FrameSet:
    """The frames of a drive that a database does not hold."""
    stamps, positions = np.asarray(database.stamps), np.asarray(database.poses[:, :3], dtype=np.float64)
    order = np.argsort(stamps, kind="stable")
    left = np.searchsorted(stamps[order], drive.stamps_ns, side="left")
    right = np.searchsorted(stamps[order], drive.stamps_ns, side="right")
    known = np.array(
        [
            bool((np.linalg.norm(positions[order[a:b]] - T[:3, 3], axis=1) < SAME_M).any())
            for a, b, T in zip(left, right, drive.T_map_cam, strict=True)
        ],
        dtype=bool,
    )
    if known.any():
        _log.warning("%s: %d of %d frames are in the map already and are left out", name, known.sum(), len(drive))
    return drive.select(np.flatnonzero(~known))


def add(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A retrieval or copr map.")],
    data: Data,
    more: More = None,
    out: Annotated[Path | None, typer.Option(help="Write another map instead of changing this one.")] = None,
    spacing_m: Annotated[float, typer.Option(min=0.0, help="Frames this far apart only; 0: all.")] = 0.0,
    spacing_deg: Annotated[float, typer.Option(min=0.0, help="With --spacing-m: or turned by this much.")] = 0.0,
    truth: Truth = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Add images of more drives to a map's database. Nothing is trained, and the covariance stays calibrated as it was;
    vloc map calibrate fits it anew."""
    show_progress()
    scenes = by_scene([*data, *(more or [])], truth)
    bundle = add_images(map_path, scenes, out, device, DatabaseChoice(spacing_m, spacing_deg))
    note = bundle.manifest.provenance["added"][-1]
    for name in scenes:
        scene = name if name in note else bundle.manifest.scenes[0].name
        typer.echo(f"{scene}: {note[scene]['frames']} images added; map: {bundle.path}")
