"""Drives of the synthetic town by name, with depth: ``town:seed=2,index=0,width=640,height=384``.

Bags hold no depth. A drive that is named like this is rendered when it is first used, images and depths alike, and
kept: in ``$VLOC_CACHE``, or in ``vloc_ros`` below the user's cache folder.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets import PosedSequence
from vloc_ros.datasets.formats import option_values
from vloc_ros.settings import ranged, settings_from_mapping
from vloc_ros.staging import replacing, staging_beside, writing
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import CameraModel, RgbImage
from vloc_train.training.disk import new_array

__all__ = ["PREFIX", "TownDrive", "cache_folder", "open_town", "town_drive"]

#: What tells such a name from a path.
PREFIX = "town:"
#: Raise when the town's pictures change, so that no old ones are used.
_RENDERING = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TownDrive:
    """A drive of the synthetic town, see :class:`vloc_ros.town.Traversal`; sizes in pixels and metres, ``fov_deg`` the
    camera's horizontal field of view."""

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
    fov_deg: float = ranged(75.0, minimum=20.0, maximum=140.0)

    @property
    def camera(self) -> CameraModel:
        """A pinhole."""
        return default_camera(self.width, self.height, self.fov_deg)


def cache_folder() -> Path:
    """Where rendered drives are kept."""
    chosen = os.environ.get("VLOC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vloc_ros"


def open_town(name: str, cache: Path | None = None) -> PosedSequence:
    """The drive that ``town:FIELD=VALUE,...`` names; the fields are those of :class:`TownDrive`.

    :param cache: where rendered drives are kept; default :func:`cache_folder`.
    :raises ConfigError: no such field, or a value out of range.
    """
    fields = option_values(filter(None, name.removeprefix(PREFIX).split(",")), name)
    return town_drive(settings_from_mapping(TownDrive, fields, name), cache or cache_folder(), _log.info)[0]


@dataclass(frozen=True)
class _Rendered:
    """Rendered images, and how far everything in them is, in files that are read where they are asked for."""

    file: Path
    depths: Path

    def image(self, index: int) -> RgbImage:
        return np.array(np.load(self.file, mmap_mode="r")[index])

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        images = np.load(self.file, mmap_mode="r")
        for index in range(len(images)):
            yield index, np.array(images[index])

    def depth(self, index: int) -> npt.NDArray[np.float32]:
        """(H, W) metres along the optical axis, infinite in the sky."""
        return np.asarray(np.load(self.depths, mmap_mode="r")[index], dtype=np.float32)


def town_drive(drive: TownDrive, cache: Path, report: Callable[[str], None]) -> tuple[PosedSequence, str]:
    """A drive of the town, rendered where the cache does not hold it, and a digest that stands for it.

    :param report: told before something is rendered.
    """
    # A field that came later does not change the names of drives that do without it.
    said = {name: value for name, value in asdict(drive).items() if (name, value) != ("fov_deg", 75.0)}
    text = repr((_RENDERING, sorted(said.items())))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"town{drive.seed}_{drive.index}"
    images, depths, poses = (cache / f"{name}-{digest}{end}" for end in (".npy", "-depth.npy", ".npz"))
    if not all(file.exists() for file in (images, depths, poses)):
        report(f"rendering town {drive.seed}, drive {drive.index}")
        _render(drive, images, depths, poses)
    with np.load(poses, allow_pickle=False) as stored:
        fields = {key: stored[key] for key in ("stamps_ns", "T_map_cam", "T_base_cam", "T_odom_base")}
    odometry = fields.pop("T_odom_base")
    return PosedSequence(
        name, camera=drive.camera, source=_Rendered(images, depths), T_odom_base=odometry, **fields
    ), digest


@functools.lru_cache(maxsize=1)  # drives of one town follow each other; a town takes seconds to lay out
def _town(seed: int, loop_m: float) -> Town:
    return Town(seed, loop_m)


def _render(drive: TownDrive, images: Path, depths: Path, poses: Path) -> None:
    town = _town(drive.seed, drive.loop_m)
    renderer = Renderer(town, drive.camera)
    made = Traversal(
        town,
        drive.index,
        spacing_m=drive.spacing_m,
        laps=drive.laps,
        light=drive.light,
        lane_offset_m=drive.lane_offset_m,
        weave_m=drive.weave_m,
        traffic=drive.traffic,
    )
    shape = (len(made), drive.height, drive.width)
    with (
        writing(images),
        staging_beside(images, folder=False) as one,
        staging_beside(depths, folder=False) as other,
    ):
        colours = new_array(one, np.uint8, (*shape, 3))
        metres = new_array(other, np.float16, shape)
        for index in range(len(made)):
            frame = renderer.render(made, index)
            colours[index], metres[index] = frame.rgb, frame.depth
        for written, staging, file in ((colours, one, images), (metres, other, depths)):
            written.flush()
            staging.rename(file)
    with replacing(poses) as stream:
        np.savez(
            stream,
            stamps_ns=made.stamps_ns,
            T_map_cam=made.T_map_cam,
            T_base_cam=made.T_base_cam,
            T_odom_base=made.T_odom_base,
        )
