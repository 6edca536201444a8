"""From drives to a calibrated map: one procedure for every trainer and builder.

Check the target, hold out, claim the working folder, decode each image once, fit or build, calibrate on what was held
out, and write atomically. A backend brings a :class:`Trainer`: how images are prepared, and :meth:`Trainer.make` with
its network, losses, data and files.
"""

from __future__ import annotations

import logging
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.backbones import weights_origin
from vloc_ros.localizers.base import backend_class
from vloc_ros.maps import MapBundle, MapManifest, Scene, read_map, write_map
from vloc_ros.maps.writer import check_target
from vloc_ros.resources import share_path
from vloc_ros.settings import settings_to_mapping
from vloc_ros.staging import sole_writer, staging_beside, sweep, writing
from vloc_ros.types import CameraModel
from vloc_train.frame_choice.settings import HoldOutSettings
from vloc_train.frame_choice.split import Split, held_apart, split
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.cluster import Workers, open_workers
from vloc_train.training.disk import last_checkpoint
from vloc_train.training.frames import FrameSet, cache_drives, join
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.run import RunOptions, claim, identity_of, training_device, use_half
from vloc_train.training.scenes import common_datum
from vloc_train.training.settings import RunSettings

if TYPE_CHECKING:
    import lightning

__all__ = ["Contents", "HeldOut", "Job", "Trainer", "splits_of"]

_log = logging.getLogger(__name__)

Drives = Mapping[str, Sequence[PosedSequence]]
S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True)
class HeldOut:
    """Frames that no map is made of; ``drive`` is the number of the training drive that they were taken out of."""

    frames: FrameSet
    drive: int | None = None


@dataclass
class Job(Generic[S]):
    """One run: what a backend needs to make a map.

    :ivar settings: the backend's own. :ivar device: where to compute.
    :ivar out: the map to write. :ivar work: the working folder.
    :ivar splits: the frames of every scene, parted into the map's and those that are held out.
    :ivar extractor: the map of ``--extractor``, or None.
    :ivar preprocess: how images are prepared; what :meth:`Trainer.prepare` returned.
    :ivar workers: who does independent pieces of work.
    :ivar notes: more for the map's provenance; :meth:`Trainer.make` may add to it.
    """

    settings: S
    options: RunOptions
    device: torch.device
    out: Path
    work: Path
    splits: Mapping[str, Split]
    extractor: MapBundle | None
    preprocess: Preprocess = field(init=False)
    notes: dict[str, Any] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)
    identity: dict[str, Any] = field(default_factory=dict)

    def drives(self, scene: str) -> list[PosedSequence]:
        """The drives of a scene that the map is made of, without what is held out."""
        return self.splits[scene].training

    @cached_property
    def training(self) -> list[FrameSet]:
        """Prepared frames of each drive that the map is made of, scene by scene."""
        return [
            frames
            for name, parts in self.splits.items()
            if parts.training
            for frames in cache_drives(parts.training, self.preprocess, self.work, name)
        ]

    @cached_property
    def held(self) -> list[HeldOut]:
        """Prepared frames of each drive that are held out."""
        out: list[HeldOut] = []
        before = 0
        for name, parts in self.splits.items():
            drives = parts.held_out
            found = cache_drives(drives, self.preprocess, self.work, name) if drives else []
            for frames, number in zip(found, parts.taken_from, strict=True):
                out.append(HeldOut(frames, None if number is None else before + number))
            before += len(parts.training)
        return out

    @property
    def by_scene(self) -> list[FrameSet]:
        """The map's frames, those of a scene's drives in one."""
        return [join([d for d in self.training if d.scene == name]) for name in self.splits]

    @property
    def held_by_scene(self) -> list[FrameSet]:
        """The same of held-out frames; scenes without any are left out."""
        found = [[h.frames for h in self.held if h.frames.scene == name] for name in self.splits]
        return [join(frames) for frames in found if frames]

    def common_camera(self, of: Callable[[PosedSequence], CameraModel]) -> CameraModel:
        """That of the first drive; the others, those held out included, see the same.

        :raises CameraMismatchError: they do not.
        """
        drives = [(name, drive) for name, parts in self.splits.items() for drive in parts.drives]
        first = of(drives[0][1])
        for name, drive in drives[1:]:
            try:
                self.preprocess.check(of(drive), first)
            except CameraMismatchError as problem:
                where = f"{drive.name} (scene {name}) beside {drives[0][1].name} (scene {drives[0][0]})"
                raise CameraMismatchError(f"{where}: {problem}; make a map of each") from problem
        return first

    @property
    def resumes(self) -> bool:
        """Whether an interrupted training is continued: weights to start from are in its checkpoint."""
        return self.options.resume and last_checkpoint(self.work) is not None

    def fit(
        self,
        module: lightning.LightningModule,
        data: Any,
        work: Path | None = None,
        max_minutes: float | None = None,
    ) -> float:
        """Train by the settings' ``epochs``, ``max_minutes``, ``precision`` and ``validate_every``, those it has.

        Only the first process of a distributed run returns.

        :param work: another folder for checkpoints, where a job trains more than once.
        :param max_minutes: instead of the settings'.
        :return: seconds of training, resumed parts included; their sum is noted as ``training_minutes``.
        """
        from vloc_train.training import fitting
        from vloc_train.training.module import Validate

        settings: Any = self.settings
        times = getattr(settings, "validate_every", 0)
        first, seconds = fitting.fit(
            module, data, self.options, work or self.work, epochs=settings.epochs,
            max_minutes=settings.max_minutes if max_minutes is None else max_minutes,
            half=use_half(getattr(settings, "precision", "float32"), self.device),
            callbacks=[Validate(times)] if times else [],
        )  # fmt: skip
        if not first:
            raise SystemExit(0)
        self.note_training(seconds)
        return seconds

    def note_training(self, seconds: float) -> None:
        """Add to ``training_minutes`` of the provenance."""
        self.notes["training_minutes"] = round(self.notes.get("training_minutes", 0.0) + seconds / 60.0, 3)


@dataclass(frozen=True)
class Contents:
    """What a map holds besides its covariance.

    :ivar files: tensors by file and name. :ivar settings: the manifest's settings.
    :ivar more: what else :meth:`Trainer.write` needs.
    :ivar validation: by scene, where held-out frames are tried otherwise than by localizing them.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: Any = None
    validation: Mapping[str, Any] | None = None


class Trainer(ABC, Generic[S]):
    """What a backend brings to make maps, for ``vloc train NAME`` or ``vloc map build NAME``."""

    #: The map's backend.
    backend: ClassVar[str]
    #: Its settings, with their presets.
    settings_class: ClassVar[type[RunSettings]]
    #: Whether a map is built without training: then its frames need no validation, and nothing is continued.
    builds: ClassVar[bool] = False
    #: Whether the working folder goes when the map is there, unless somebody named one.
    temporary: ClassVar[bool] = False
    #: What ``--extractor`` must be, for the message when it is missing; None: it may be left out.
    needs: ClassVar[str | None] = None
    #: The shipped map (its name in ``models/``) that is taken where ``--extractor`` names none.
    shipped_extractor: ClassVar[str | None] = None
    #: ``none``: takes no extractor; ``own``: a map of this backend; ``any``: of any that has what it needs.
    takes: ClassVar[Literal["none", "own", "any"]] = "none"
    #: Whether it calibrates on maps that lack a part of the frames each, so that its map can have them all.
    folds: ClassVar[bool] = False
    #: Whether it uses several devices.
    several_devices: ClassVar[bool] = True

    @property
    def presets(self) -> tuple[str, ...]:
        """Names of presets, the default first."""
        return tuple(self.settings_class.PRESETS)

    def settings(self, preset: str, changes: Mapping[str, Any] | None = None, where: str = "settings") -> S:
        """Settings of a preset with changes. :raises ConfigError: no such preset or setting."""
        return cast(S, self.settings_class.preset(preset, changes, where))

    @abstractmethod
    def prepare(self, job: Job[S]) -> Preprocess:
        """Check settings and extractor, and say how images are prepared. Nothing is decoded yet."""

    @abstractmethod
    def make(self, job: Job[S]) -> Contents:
        """Fit or build: the long part."""

    def encoder(self, settings: S) -> str | None:
        """The network that the setting ``pretrained`` brings weights for, by timm's name; None where it brings none."""
        return None

    def identity(self, job: Job[S]) -> dict[str, Any]:
        """What else tells this run from another one, whose checkpoints it must not continue."""
        return {"extractor": job.extractor.id} if job.extractor is not None else {}

    def camera(self, job: Job[S]) -> CameraModel:
        """The manifest's camera: that of the prepared images. :raises CameraMismatchError: drives of other lenses."""
        return job.preprocess.camera(job.common_camera(lambda drive: Rectifier(drive.camera).target))

    def calibrate(self, job: Job[S], bundle: MapBundle, contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
        """The manifest's sections ``calibration`` and ``validation``, from what is held out.

        :param bundle: the map without covariance.
        """
        with backend_class(bundle.manifest.backend).from_map(bundle, job.device) as localizer:
            return calibrate_scenes(localizer, job.held_by_scene, workers=job.workers)

    def without_held_out(self, job: Job[S], contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same sections where nothing is held out."""
        return {}, {}

    def splits(self, scenes: Drives, calibration: Drives | None, settings: HoldOutSettings) -> dict[str, Split]:
        """Every scene's frames, parted into those of the map and those that are held out.

        :param calibration: scenes with other drives here give all of theirs to the map.
        :raises DatasetError: no frames. :raises ConfigError: drives, or a builder, that do not allow this hold-out.
        """
        if settings.kind == "auto" and self.folds:
            settings = replace(settings, kind="folds")
        if settings.kind == "folds" and not self.folds:
            raise ConfigError(f"--hold-out folds: {self.doing} makes one map, not several; take --hold-out auto")
        return splits_of(scenes, calibration, settings)

    def write(self, job: Job[S], contents: Contents, manifest: MapManifest, target: Path) -> MapBundle:
        """Write the map; called twice where it is calibrated, first without covariance beside the work."""
        return write_map(target, manifest, contents.files, overwrite=target.exists())

    def scenes(self, job: Job[S], contents: Contents) -> Iterator[Scene]:
        """The manifest's scenes: the area that the map's frames cover."""
        frame_id = frame_id_of({name: parts.drives for name, parts in job.splits.items()})
        for frames in job.by_scene:
            yield scene_of(frames.scene, frames.T_map_cam[:, :3, 3], frame_id)

    def frames(self, job: Job[S], contents: Contents) -> dict[str, int]:
        """How many frames of each scene the map is made of."""
        return {name: sum(map(len, parts.training)) for name, parts in job.splits.items()}

    def run(
        self,
        scenes: Drives,
        out: Path,
        settings: S,
        options: RunOptions | None = None,
        calibration: Drives | None = None,
        work_dir: Path | None = None,
        about: Mapping[str, Any] | None = None,
        extractor: Path | None = None,
        hold_out: HoldOutSettings | str | Mapping[str, Split] = "auto",
    ) -> MapBundle:
        """Make, calibrate and write a map.

        :param scenes: drives by scene; the first one's camera is the map's.
        :param out: the map to write; an existing one is replaced at the very end only.
        :param calibration: other drives by scene to validate and calibrate on; scenes without any are parted.
        :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
        :param about: more fields for the map's provenance.
        :param extractor: a map with what was learned before, see ``takes``.
        :param hold_out: what is held out of drives (``--hold-out``), or the parts themselves.
        :raises ConfigError: an extractor, a device or a hold-out that does not fit.
        :raises TrainingError: the working folder belongs to a run with other settings.
        :raises DatasetError: no usable frames. :raises CameraMismatchError: drives of different lenses.
        :raises MapError: something else than a map is at ``out``. :raises ClusterError: no workers, or lost ones.
        """
        options = options or RunOptions()
        device = training_device(options)
        check_target(out, overwrite=True)  # now, not after the training
        start = self._extractor(extractor)
        if options.devices > 1 and not self.several_devices:
            raise ConfigError(f"{self.doing}: expected one device for a network this small, found {options.devices}")
        if isinstance(hold_out, str):
            hold_out = HoldOutSettings.named(hold_out)
        splits = self.splits(scenes, calibration, hold_out) if isinstance(hold_out, HoldOutSettings) else hold_out
        self._check(splits)
        datum = common_datum(scenes, calibration)
        if options.cluster and not self.builds:
            raise ConfigError(f"--cluster: {self.doing} shares batches among GPUs (--devices, torchrun), not work")
        with open_workers(options.cluster) as workers, self._working_folder(out, work_dir) as work:
            job = Job(settings, options, device, out, work, splits, start, workers=workers)
            job.preprocess = self.prepare(job)
            camera = self.camera(job)
            values = settings_to_mapping(job.settings)
            job.identity = identity_of(values, splits, **self.identity(job))
            if not self.builds:
                claim(work, job.identity, options.resume)
            _seed(int(getattr(settings, "seed", 0)), self.builds)
            contents = self.make(job)
            self._note_weights(job)
            made = provenance(
                {name: parts.training for name, parts in splits.items()},
                values,
                frames=self.frames(job, contents),
                **self._held_out_in_words(splits, settings),
                **job.notes,
                **(about or {}),
            )
            manifest = MapManifest(
                backend=self.backend,
                scenes=tuple(s if datum is None else replace(s, datum=datum) for s in self.scenes(job, contents)),
                camera=camera,
                preprocessing=job.preprocess.settings(),
                settings=dict(contents.settings),
                provenance=made,
            )
            if contents.validation is not None:
                manifest = replace(manifest, validation=dict(contents.validation))
            elif any(parts.held_out for parts in splits.values()):
                staged = self.write(job, contents, manifest, work / "uncalibrated")
                found, validation = self.calibrate(job, staged, contents)
                manifest = replace(manifest, calibration=found, validation=validation)
            else:
                found, validation = self.without_held_out(job, contents)
                manifest = replace(manifest, calibration=found, validation=validation)
            return self.write(job, contents, manifest, out)

    @property
    def doing(self) -> str:
        """The command, for messages."""
        return f"map build {self.backend}" if self.builds else f"train {self.backend}"

    def _note_weights(self, job: Job[S]) -> None:
        """Say in the map which public weights it began with, or the map that it took its network from."""
        name = self.encoder(job.settings)
        if job.extractor is not None:
            found = job.extractor.manifest.provenance.get("pretrained")
        else:
            found = None if name is None else weights_origin(name, getattr(job.settings, "pretrained", False))
        if found is not None:
            job.notes.setdefault("pretrained", found)

    def _extractor(self, path: Path | None) -> MapBundle | None:
        if path is None and self.shipped_extractor is not None:
            path = share_path("models", self.shipped_extractor)
            _log.info("%s: with the network of %s, which comes with the package; another: --extractor MAP",
                      self.doing, self.shipped_extractor)  # fmt: skip
        if path is None:
            if self.needs is not None:
                raise ConfigError(f"{self.doing}: expected --extractor MAP, {self.needs}, found none")
            return None
        if self.takes == "none":
            raise ConfigError(f"{self.doing}: has no extractor; leave out --extractor")
        bundle = read_map(path)
        if self.takes == "own" and bundle.manifest.backend != self.backend:
            raise MapBackendError(
                f"{path}: expected a map of backend {self.backend!r}, found one of {bundle.manifest.backend!r}"
            )
        return bundle

    def _check(self, splits: Mapping[str, Split]) -> None:
        """:raises DatasetError: too few frames."""
        if not splits:
            raise DatasetError("expected drives to make a map of, found none")
        for name, parts in splits.items():
            used, held = (sum(map(len, drives)) for drives in (parts.training, parts.held_out))
            if self.builds and not used:
                raise DatasetError(f"scene {name!r}: expected frames to make a map of, found none besides the held-out")
            if not self.builds and (used < 2 or held < 2):
                raise DatasetError(
                    f"scene {name!r}: expected at least 2 frames to train on and 2 to validate on, found {used} and "
                    f"{held} (hold-out: {parts.kind})"
                )

    def _held_out_in_words(self, splits: Mapping[str, Split], settings: S) -> dict[str, Any]:
        """Which frames did what, for the provenance."""
        held = {name: parts for name, parts in splits.items() if parts.held_out}
        out: dict[str, Any] = {
            "hold_out": {name: parts.kind for name, parts in splits.items()},
            "calibration_data": {name: [d.name for d in parts.held_out] for name, parts in held.items()},
        }
        if held:
            chooses = not self.builds and bool(getattr(settings, "validate_every", 0))
            used_for = ["choice of the weights"] if chooses else []
            out["held_out_frames"] = {
                name: {"frames": sum(map(len, parts.held_out)), **parts.figures()} for name, parts in held.items()
            }
            out["held_out_frames_used_for"] = [*used_for, "covariance", "validation"]
        return out

    @contextmanager
    def _working_folder(self, out: Path, work_dir: Path | None) -> Iterator[Path]:
        """The working folder, without what dead runs left; nobody else writes there, or the map, meanwhile."""
        with ExitStack() as stack:
            if _is_first_process():
                stack.enter_context(sole_writer(out))
            stack.enter_context(writing(out))
            if work_dir is None and self.temporary:
                yield stack.enter_context(staging_beside(out, folder=True))
                return
            work = work_dir or out.with_name(out.name + ".work")
            if _is_first_process():
                stack.enter_context(sole_writer(work))
                sweep(work)
            yield work


def _seed(seed: int, builds: bool) -> None:
    """All random numbers of a run from one seed; where something is trained, also those of Lightning's processes."""
    if not builds:
        import lightning

        lightning.seed_everything(seed, workers=True, verbose=False)
        return
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _is_first_process() -> bool:
    """Whether this is no helper of a distributed run: the first process claims the folders for all."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def splits_of(scenes: Drives, calibration: Drives | None, settings: HoldOutSettings) -> dict[str, Split]:
    """Every scene's frames, parted into those of the map and those that are held out.

    :param calibration: scenes with other drives here give all of theirs to the map.
    :raises DatasetError: no frames. :raises ConfigError: drives that do not allow this hold-out.
    """
    out = {}
    for name, drives in scenes.items():
        others = (calibration or {}).get(name)
        out[name] = held_apart(drives, others) if others else split(drives, settings)
        _log.info("%s", out[name].in_words())
    return out
