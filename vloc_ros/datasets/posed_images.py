"""Images that have a pose each: what the readers of such collections share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import (
    FolderImages,
    OneLensImages,
    first_usable,
    is_file,
    scaled_to,
    stored_size,
)
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.cameras import resized, undistorted_camera
from vloc_ros.types import Array, CameraModel

__all__ = [
    "FARTHEST_M",
    "START_NS",
    "T_MAP_WORLD",
    "Shot",
    "World",
    "camera_of_images",
    "counted_stamp",
    "folder_named",
    "in_map",
    "joined_by_size",
    "one_lens",
    "size_of_images",
    "stamps_of",
    "usable_shots",
]

#: How the world of a data set's poses stands: as its first camera (x right, y down), or with y or z up.
World = Literal["camera", "y_up", "z_up"]
#: From such a world to a map frame with z up.
T_MAP_WORLD: dict[World, Array] = {
    "camera": T_BODY_OPTICAL,
    "y_up": np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
    "z_up": np.eye(4),
}
#: The first stamp of a clock that starts at 0 (KITTI's) or of none: 0 itself means "no stamp" to ROS.
START_NS = 1_000_000_000
#: Beyond this, float32 is coarser than 4 mm.
FARTHEST_M = 5e4
#: So many images, evenly taken, say that all are of another size than the calibration.
_LOOKED_AT = 5
#: Sizes that differ by no more than this share are those of one camera whose images were undistorted one by one.
_LIKE_SIZE = 0.1
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shot:
    """One image: its stamp, its file, the pose ``T_world_cam`` (4, 4) of its optical camera, and where that stands."""

    stamp_ns: int
    path: Path
    T_world_cam: Array
    where: str


def counted_stamp(number: int, rate_hz: float, begin_ns: int = START_NS) -> int:
    """The stamp of frame ``number`` of a recording that has none: regular from ``begin_ns`` (above 0) on."""
    return begin_ns + round(number * 1e9 / rate_hz)


def folder_named(name: str, data: Path) -> Path:
    """The folder that a user names: as seen from here, else from the data set at ``data``."""
    here, there = Path(name), data / name
    return there if there.is_dir() and not here.is_dir() else here


def usable_shots(shots: Sequence[Shot], problems: Problems) -> list[Shot]:
    """Those whose file is there, by stamp; a missing file and a repeated stamp are faults."""
    out: dict[int, Shot] = {}
    gone = {id(shot) for shot in shots if not is_file(shot.path)}
    advice = f"(one of {len(gone)} of {len(shots)}); complete the data, or --keep-going"
    if len(gone) == len(shots):
        advice = (
            f"as are all {len(shots)}; name the folder of the images (images=FOLDER) where the layout has that option"
        )
    for shot in shots:
        if id(shot) in gone:
            problems.fault("missing image", f"{shot.where}: expected the image {shot.path}, which is missing {advice}")
        elif shot.stamp_ns in out:
            before = out[shot.stamp_ns]
            problems.fault(
                "repeated stamp",
                f"{shot.where}: expected one image a stamp, found {shot.stamp_ns} ns twice, first at {before.where}; "
                "remove one, or --keep-going to keep the first",
            )
        else:
            out[shot.stamp_ns] = shot
    return [out[stamp] for stamp in sorted(out)]


def size_of_images(
    shots: Sequence[Shot], problems: Problems, expected: tuple[int, int] | None = None
) -> tuple[list[Shot], tuple[int, int]]:
    """Width and height of the first image that can be decoded and is as ``expected``, and the shots from it on.

    Those before it are faults.

    :raises DatasetError: there is none.
    """
    begin, size = first_usable([shot.path for shot in shots], problems, expected)
    return list(shots[begin:]), size


def camera_of_images(shots: Sequence[Shot], problems: Problems, camera: CameraModel) -> tuple[list[Shot], CameraModel]:
    """The camera of the images as they lie on disk, and the shots from the first usable image on.

    Images that were all scaled down or up after the calibration, to the pixel of the same shape, have the camera
    scaled; any others of another size are faults, as in :func:`size_of_images`.

    :raises DatasetError: no image can be used.
    """
    chosen = np.unique(np.linspace(0, len(shots) - 1, _LOOKED_AT).round().astype(int))
    sizes = {size for row in chosen if (size := stored_size(shots[row].path)) is not None}
    if len(sizes) == 1:
        camera = scaled_to(camera, *sizes.pop()) or camera
    kept, _ = size_of_images(shots, problems, camera.size)
    return kept, camera


def joined_by_size(groups: Sequence[Sequence[_Item]], camera_of: Callable[[_Item], CameraModel]) -> list[list[_Item]]:
    """Groups of images of one camera each, those of a single image joined where their images are of like size.

    Structure from motion calibrates every image for itself unless it is told that one camera took them, and images that
    it undistorts then differ by some pixels.
    """
    out: list[list[_Item]] = []
    singles: list[tuple[tuple[int, int], list[_Item]]] = []
    for group in groups:
        if len(group) > 1:
            out.append(list(group))
            continue
        size = camera_of(group[0]).size
        alike = next((g for s, g in singles if np.abs(np.subtract(s, size)).max() <= _LIKE_SIZE * max(s)), None)
        if alike is not None:
            alike.append(group[0])
        else:
            singles.append((size, list(group)))
            out.append(singles[-1][1])
    return out


def one_lens(
    shots: Sequence[Shot], camera_of: Callable[[Shot], CameraModel], problems: Problems
) -> tuple[list[Shot], CameraModel, FolderImages | OneLensImages]:
    """The shots from the first usable one on, with the camera and the images of the drive that they are.

    Those of one camera are files as they are (:func:`camera_of_images`), those of several, one lens' images.

    :raises DatasetError: no image can be used. :raises CameraError: coefficients that are no lens.
    """
    cameras = [camera_of(shot) for shot in shots]
    if len(set(cameras)) == 1:
        kept, camera = camera_of_images(shots, problems, cameras[0])
        return kept, camera, FolderImages(tuple(shot.path for shot in kept))
    kept, size = size_of_images(shots, problems)
    mine = tuple(camera_of(shot) for shot in kept)
    lens = _lens_in_the_middle(mine)
    if scaled_to(mine[0], *size) is not None:
        scale = size[0] / mine[0].width
        lens = resized(lens, round(scale * lens.width), round(scale * lens.height))
    return kept, lens, OneLensImages(tuple(shot.path for shot in kept), mine, lens)


def _lens_in_the_middle(cameras: Sequence[CameraModel]) -> CameraModel:
    """The pinhole camera with the median size and intrinsics of several, after their distortion is removed."""
    pinholes, problem = [], None
    for camera in dict.fromkeys(cameras):
        try:
            pinholes.append(undistorted_camera(camera))
        except CameraError as error:  # structure from motion bends the lens of an image that it hardly knows
            problem = error
    if problem is not None and not pinholes:
        raise problem
    values = np.median([(c.width, c.height, c.fx, c.fy, c.cx, c.cy) for c in pinholes], axis=0).tolist()
    return CameraModel(round(values[0]), round(values[1]), *values[2:])


def in_map(shots: Sequence[Shot], world: World, what: str, origin: Sequence[float] | None = None) -> Array:
    """``T_map_cam`` (N, 4, 4): the map has z up, and its origin at ``origin`` of the data set's world.

    :raises DatasetError: coordinates that no float32 map can hold.
    """
    T = np.stack([shot.T_world_cam for shot in shots])
    if origin is not None:
        T[:, :3, 3] -= np.asarray(origin, dtype=np.float64)
    far = np.abs(T[:, :3, 3]).max(axis=1)
    if float(far.max()) > FARTHEST_M:
        worst = int(far.argmax())
        place = ",".join(str(round(float(v))) for v in shots[0].T_world_cam[:3, 3])
        named = f"name the place that is to be the map's origin: origin=[{place}]"
        advice = "are these poses in metres?" if origin is None else named
        raise DatasetError(
            f"{shots[worst].where}: expected coordinates of {what} within {FARTHEST_M:g} m, found {far[worst]:.6g} m; "
            f"{advice}"
        )
    out: Array = T_MAP_WORLD[world] @ T
    return out


def stamps_of(shots: Sequence[Shot]) -> npt.NDArray[np.int64]:
    """(N,) int64."""
    return np.array([shot.stamp_ns for shot in shots], dtype=np.int64)
