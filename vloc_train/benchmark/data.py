"""What a protocol says of its data: where each drive comes from, and which of its frames are meant."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_train.benchmark.lens import Lens
from vloc_train.training.town import TownDrive

__all__ = ["LEFT_OUT", "MAP", "QUERY_LEFT_OUT", "SITES", "SPECIAL", "Drive", "FolderDrive", "Selection", "SourceDrive"]

#: The data sets of the layouts and where they are given out, by the layout's name.
SITES = {
    "robotcar": "Oxford RobotCar, https://robotcar-dataset.robots.ox.ac.uk",
    "robotcar_seasons": "RobotCar Seasons, https://www.visuallocalization.net/datasets/",
    "fourseasons": "4Seasons, https://www.4seasons-dataset.com",
    "seven_scenes": "7-Scenes, https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    "cambridge": "Cambridge Landmarks, https://www.repository.cam.ac.uk (search for PoseNet)",
    "apolloscape": "ApolloScape self-localization, https://apolloscape.auto/self_localization.html",
    "kitti": "KITTI odometry, https://www.cvlibs.net/datasets/kitti/eval_odometry.php",
    "tum": "TUM RGB-D, https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
    "euroc": "EuRoC MAV, https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets",
}


@dataclass(frozen=True)
class FolderDrive:
    """A bag or data-set folder below ``--root``; the other fields are options of its layout, for the most part those of
    KITTI's and flat folders (:class:`vloc_ros.datasets.kitti.Options`).

    :param distortion: k1, k2, p1, p2 and perhaps k3 of the images, which stay as they are.
    :param grey: take the colour out of the images.
    """

    path: str
    images: str | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    camera_offset: tuple[float, float, float] | None = None
    world: Literal["camera", "y_up", "z_up"] = "camera"
    distortion: tuple[float, ...] = ()
    grey: bool = False

    def options(self, images: str) -> dict[str, Any]:
        """What is said of it, as options of its layout. :param images: what the layout calls the choice of images."""
        given: dict[str, Any] = {
            images: self.images,
            "intrinsics": self.intrinsics,
            "camera_offset": self.camera_offset,
        }
        given |= {"world": None if self.world == "camera" else self.world, "distortion": self.distortion or None}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class SourceDrive:
    """A data set below ``--root`` in any layout that ``vloc convert`` reads; it may hold several drives.

    :param path: below ``--root``.
    :param format: a name of :data:`vloc_ros.datasets.formats.FORMATS`; empty: found out from the folder.
    :param options: of the layout; checked when the data is opened.
    :param queries: the images that the data set's list of queries names, whose poses nobody has; they can be localized
        and submitted, not counted.
    :param grey: take the colour out of the images.
    :param get: where to get the data, where the layout alone does not say.
    """

    path: str
    format: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    queries: bool = False
    grey: bool = False
    get: str = ""


@dataclass(frozen=True)
class Drive:
    """Where a drive, or the drives of one source, come from: one of the three.

    :param lens: that its images are seen by instead of their own.
    """

    town: TownDrive | None = None
    folder: FolderDrive | None = None
    source: SourceDrive | None = None
    lens: Lens | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.town, self.folder, self.source)) != 1:
            raise ConfigError("expected either town, folder or source")

    @property
    def path(self) -> str | None:
        """The folder below ``--root``; None for a drive that is rendered."""
        given = self.folder or self.source
        return None if given is None else given.path


#: The frames that the split at hand has its map from.
MAP = "$map"
#: The frames of the same drives that a fold leaves out of its map because they are too close to its queries.
LEFT_OUT = "$left_out"
#: The frames of the query drives at the moments of those, which are queries of other folds.
QUERY_LEFT_OUT = "$query_left_out"
#: Names that stand for other frames in every fold.
SPECIAL = (MAP, LEFT_OUT, QUERY_LEFT_OUT)
_NAME = r"\$map|\$left_out|\$query_left_out|[A-Za-z_][A-Za-z0-9_]*"
_NUMBER = r"-?\d{1,9}"
_PATTERN = re.compile(rf"({_NAME})(?:#(\d{{1,6}}))?(?:\[({_NUMBER})?:({_NUMBER})?(?::({_NUMBER})?)?\])?")


@dataclass(frozen=True)
class Selection:
    """Frames of the drive ``name``, by a slice as Python has it but forwards only.

    :param drive: one of the drives of a source that has several, counted from 0; None: all.
    :raises ConfigError: a step that is not positive.
    """

    name: str
    start: int | None = None
    stop: int | None = None
    step: int | None = None
    drive: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 1:
            raise ConfigError(f"{self.name}: expected a step of at least 1, found {self.step}")

    @classmethod
    def parse(cls, text: object, where: str) -> Selection:
        """Read ``name``, ``name[start:stop]`` or ``name[start:stop:step]``. :raises ConfigError: it is something else.

        :param where: the place to name in messages.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(
                f"{where}: expected NAME or NAME[START:STOP:STEP], or NAME#DRIVE before the bracket, found {text!r}"
            )
        drive, start, stop, step = (None if group is None else int(group) for group in found.groups()[1:])
        if drive is not None and found[1] in SPECIAL:
            raise ConfigError(f"{where}: expected {found[1]} without a number, found {text!r}")
        try:
            return cls(found[1], start, stop, step, drive)
        except ConfigError as problem:
            raise ConfigError(f"{where}: {problem}") from problem

    def __str__(self) -> str:
        name = self.name if self.drive is None else f"{self.name}#{self.drive}"
        if (self.start, self.stop, self.step) == (None, None, None):
            return name
        start, stop = ("" if v is None else v for v in (self.start, self.stop))
        return f"{name}[{start}:{stop}{'' if self.step is None else f':{self.step}'}]"

    def rows(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers of the frames in a drive of ``count``. :raises ConfigError: none is left."""
        rows = np.arange(count, dtype=np.int64)[self.start : self.stop : self.step]
        if not len(rows):
            raise ConfigError(f"{self}: expected at least one frame, found none of the drive's {count}")
        return rows
