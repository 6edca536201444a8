"""Where the drives of a protocol come from: the synthetic town, a folder, or a data set in a layout of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.settings import ranged

__all__ = ["Drive", "FolderDrive", "SourceDrive", "TownDrive"]


@dataclass(frozen=True)
class TownDrive:
    """A drive of the synthetic town, see :class:`vloc_ros.town.Traversal`; sizes in pixels and metres."""

    seed: int = ranged(1, minimum=0)
    index: int = ranged(0, minimum=0)
    lane_offset_m: float | None = ranged(None, minimum=-20.0, maximum=20.0)
    loop_m: float = ranged(200.0, minimum=120.0, maximum=20000.0)
    width: int = ranged(240, minimum=16, maximum=4096)
    height: int = ranged(135, minimum=16, maximum=4096)
    spacing_m: float = ranged(0.5, minimum=0.02, maximum=20.0)
    laps: float = ranged(1.0, minimum=0.01, maximum=100.0)
    weave_m: float = ranged(0.3, minimum=0.0, maximum=5.0)
    traffic: float = ranged(1.0, minimum=0.0, maximum=20.0)
    light: str | None = None


@dataclass(frozen=True)
class FolderDrive:
    """A bag or data-set folder below ``--root``; the other fields are those of KITTI's and flat folders
    (:class:`vloc_ros.datasets.kitti.KittiOptions`). A folder with ``groundtruth.txt`` is one of the TUM RGB-D benchmark
    and needs ``intrinsics``. ``distortion`` (k1, k2, p1, p2 and perhaps k3) is that of the images, which stay as they
    are; ``grey`` takes the colour out of them."""

    path: str
    images: str | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    camera_offset: tuple[float, float, float] | None = None
    world: Literal["camera", "y_up", "z_up"] = "camera"
    distortion: tuple[float, ...] = ()
    grey: bool = False


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
    """Where a drive, or the drives of one source, come from: one of the three."""

    town: TownDrive | None = None
    folder: FolderDrive | None = None
    source: SourceDrive | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.town, self.folder, self.source)) != 1:
            raise ConfigError("expected either town, folder or source")

    @property
    def path(self) -> str | None:
        """The folder below ``--root``; None for a drive that is rendered."""
        given = self.folder or self.source
        return None if given is None else given.path
