"""KITTI odometry, and the flat folders that people cut from it: images, ``poses.txt``, ``times.txt``, intrinsics.

Layout ``odometry``: ``sequences/NN/{image_0..3/*.png, times.txt, calib.txt}`` with ``poses/NN.txt``; SRC is the
folder above ``sequences`` (then name the sequence) or ``sequences/NN`` itself.
Layout ``flat``: one folder with an image folder (``left``, ``rgb``, ``image_2``, ``images``, ``right``),
``poses.txt``, optionally ``times*.txt``, and ``calib.txt`` or ``K.txt`` unless the intrinsics are given.

Poses are lines of 12 (3x4) or 16 (4x4) values, camera 0 to world, OpenCV axes. KITTI's world is its first camera
(z forward); the map frame is that world turned to REP-103 axes (x forward, y left, z up). Flat folders of other
devices say where their world has its vertical: ``world="y_up"`` (HoloLens, ARKit) or ``"z_up"``. There is no vehicle in
such a data set: ``base_link`` is at the camera, with body axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES, FolderImages
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.errors import DatasetError, GeometryError
from vloc_ros.types import Array, CameraModel, check_transform

__all__ = ["START_NS", "KittiOptions", "Options", "matches", "open_drives", "open_kitti"]

#: Added to every stamp: KITTI's clock starts at 0, which ROS reads as "no stamp".
START_NS = 1_000_000_000
IMAGE_FOLDERS = ("image_2", "left", "rgb", "image_0", "images", "right")
#: From the world of the poses to a map frame with z up.
T_MAP_WORLD: dict[str, Array] = {
    "camera": T_BODY_OPTICAL,
    "y_up": np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
    "z_up": np.eye(4),
}
#: Which projection matrix of calib.txt belongs to which image folder.
PROJECTIONS = {"image_0": "P0", "image_1": "P1", "image_2": "P2", "image_3": "P3", "left": "P0", "right": "P1"}


@dataclass(frozen=True)
class KittiOptions:
    """How to read a folder; None means: find out.

    :param layout: odometry or flat.
    :param sequence: of a folder above ``sequences``, for example ``"00"``.
    :param images: the image folder: image_2, left, right, rgb, ...
    :param intrinsics: fx, fy, cx, cy in pixels of the images on disk; default: calib.txt or K.txt.
    :param camera_offset: where the images' camera sits in the axes of the camera that the poses are of (metres, x
        right, y down, z forward); default: from calib.txt, or zero.
    :param rate_hz: makes stamps where there is no times file.
    :param world: how the poses' world stands: as its first camera does (x right, y down), or with y or z up.
    """

    layout: str | None = None
    sequence: str | None = None
    images: str | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    camera_offset: tuple[float, float, float] | None = None
    rate_hz: float = 10.0
    world: Literal["camera", "y_up", "z_up"] = "camera"


#: The options of this layout, for :mod:`vloc_ros.datasets.formats`.
Options = KittiOptions


def matches(path: Path) -> bool:
    """Whether a folder has ``poses.txt``, ``sequences``, or lies in a folder of that name."""
    path = Path(path)
    return path.is_dir() and (
        (path / "poses.txt").is_file() or (path / "sequences").is_dir() or path.resolve().parent.name == "sequences"
    )


def open_drives(path: Path, options: KittiOptions, problems: Problems) -> list[PosedSequence]:
    """The one drive of such a folder; faults end the reading in any case, for lines are told by their number alone."""
    return [open_kitti(path, options)]


def open_kitti(source: str | Path, options: KittiOptions | None = None) -> PosedSequence:
    """A KITTI odometry sequence or a flat folder as a :class:`PosedSequence` (its source is :class:`FolderImages`).

    :raises DatasetError: something is missing, malformed (with file and line) or does not fit together.
    """
    options = options or KittiOptions()
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"{source}: expected a folder, found {'a file' if source.exists() else 'nothing'}")
    folder, poses_file = _layout(source, options)
    images = _images(folder, options)
    world = read_poses(poses_file)
    numbers = _numbers(images, len(world), poses_file)
    stamps = _stamps(folder, numbers, options)
    camera, offset = _camera(folder, images[0], options)
    T_camera0_camera = np.eye(4)
    T_camera0_camera[:3, 3] = offset
    if options.world not in T_MAP_WORLD:
        raise DatasetError(f"world: expected {', '.join(T_MAP_WORLD)}, found {options.world!r}")
    T_map_cam = T_MAP_WORLD[options.world] @ world[numbers] @ T_camera0_camera
    return PosedSequence(folder.name, stamps, T_map_cam, T_BODY_OPTICAL.copy(), camera, FolderImages(tuple(images)))


def read_poses(path: Path) -> Array:
    """(N, 4, 4) poses from lines of 12 or 16 values; rotations are re-orthonormalised (the files hold 7 digits).

    :raises DatasetError: names the file and the line.
    """
    poses = []
    for number, values in _rows(path):
        if len(values) not in (12, 16):
            raise DatasetError(f"{path}:{number}: expected 12 or 16 values, found {len(values)}")
        T = np.vstack([np.reshape(values[:12], (3, 4)), [0.0, 0.0, 0.0, 1.0]])
        try:
            check_transform(T, f"{path}:{number}")
        except GeometryError as error:
            raise DatasetError(str(error)) from error
        u, _, vt = np.linalg.svd(T[:3, :3])
        T[:3, :3] = u @ vt
        poses.append(T)
    if not poses:
        raise DatasetError(f"{path}: expected one pose a line, found an empty file")
    return np.stack(poses)


def _rows(path: Path) -> Iterator[tuple[int, list[float]]]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                values = [float(v) for v in line.replace(",", " ").split()]
            except ValueError as error:
                raise DatasetError(f"{path}:{number}: expected numbers, found {line.strip()[:40]!r}") from error
            if not np.isfinite(values).all():
                raise DatasetError(f"{path}:{number}: expected finite values, found {line.strip()[:40]!r}")
            yield number, values


def _layout(source: Path, options: KittiOptions) -> tuple[Path, Path]:
    layout = options.layout
    if layout not in (None, "odometry", "flat"):
        raise DatasetError(f"layout: expected odometry or flat, found {layout!r}")
    if layout is None:
        layout = "flat" if (source / "poses.txt").is_file() else "odometry"
    if layout == "flat":
        return source, source / "poses.txt"
    if (source / "sequences").is_dir():
        known = sorted(p.name for p in (source / "sequences").iterdir() if p.is_dir())
        name = options.sequence or (known[0] if len(known) == 1 else None)
        if name not in known:
            raise DatasetError(f"{source}: name one sequence with --sequence; found {', '.join(known) or 'none'}")
        folder, root = source / "sequences" / name, source
    else:
        folder, root = source, source.parent.parent
    poses = root / "poses" / f"{folder.name}.txt"
    if not poses.is_file():
        raise DatasetError(
            f"{source}: expected poses at {poses} (layout odometry) or {source / 'poses.txt'} (layout flat), "
            "found neither; sequences 11 to 21 have no published poses"
        )
    return folder, poses


def _images(folder: Path, options: KittiOptions) -> list[Path]:
    names = (options.images,) if options.images else IMAGE_FOLDERS
    for name in names:
        paths = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if paths:
            return paths
    raise DatasetError(f"{folder}: expected images in {' or '.join(names)}, found none; name the folder with --images")


def _numbers(images: list[Path], poses: int, poses_file: Path) -> list[int]:
    """Which line of the poses file belongs to each image: the number in its name, else its place in name order."""
    if all(p.stem.isdigit() for p in images) and int(images[-1].stem) < poses:
        return [int(p.stem) for p in images]
    if len(images) != poses:
        raise DatasetError(
            f"{poses_file}: {poses} poses for {len(images)} images in {images[0].parent}; "
            "expected as many, or image names that are line numbers"
        )
    return list(range(poses))


def _stamps(folder: Path, numbers: list[int], options: KittiOptions) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    files = sorted(folder.glob("times*.txt"))
    if not files:
        if not 0 < options.rate_hz < float("inf"):
            raise DatasetError(f"rate: expected frames per second above 0, found {options.rate_hz}")
        return np.array([START_NS + round(n * 1e9 / options.rate_hz) for n in numbers], dtype=np.int64)
    seconds: list[float] = []
    for line, values in _rows(files[0]):
        if len(values) != 1:
            raise DatasetError(f"{files[0]}:{line}: expected one stamp in seconds, found {len(values)} values")
        if seconds and values[0] <= seconds[-1]:
            raise DatasetError(f"{files[0]}:{line}: expected increasing stamps, found {values[0]} after {seconds[-1]}")
        seconds.append(values[0])
    if numbers[-1] >= len(seconds):
        raise DatasetError(f"{files[0]}: {len(seconds)} stamps, too few for frame {numbers[-1]}")
    return np.array([START_NS + round(seconds[n] * 1e9) for n in numbers], dtype=np.int64)


def _camera(folder: Path, first: Path, options: KittiOptions) -> tuple[CameraModel, Array]:
    image = cv2.imread(str(first), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"{first}: expected an image, found a file that cannot be decoded")
    height, width = image.shape[:2]
    offset = np.zeros(3) if options.camera_offset is None else np.array(options.camera_offset, dtype=np.float64)
    if options.intrinsics is not None:
        return CameraModel(width, height, *options.intrinsics), offset
    if (folder / "calib.txt").is_file():
        P = _projection(folder / "calib.txt", first.parent.name)
        if options.camera_offset is None:
            # P = K [I | t] with x_camera = x_camera0 + t: the camera's centre is at -t in camera 0.
            try:
                offset = np.asarray(-np.linalg.solve(P[:, :3], P[:, 3]), dtype=np.float64)
            except np.linalg.LinAlgError as error:
                raise DatasetError(f"{folder / 'calib.txt'}: expected P = K [I | t], found a singular K") from error
        return CameraModel(width, height, float(P[0, 0]), float(P[1, 1]), float(P[0, 2]), float(P[1, 2])), offset
    if (folder / "K.txt").is_file():
        rows = [values for _, values in _rows(folder / "K.txt")]
        if len(rows) != 3 or any(len(r) != 3 for r in rows):
            raise DatasetError(
                f"{folder / 'K.txt'}: expected a 3x3 matrix, found rows of {[len(r) for r in rows]} values"
            )
        return CameraModel(width, height, rows[0][0], rows[1][1], rows[0][2], rows[1][2]), offset
    raise DatasetError(
        f"{folder}: expected calib.txt or K.txt, found neither; give the intrinsics: --intrinsics fx,fy,cx,cy"
    )


def _projection(path: Path, images: str) -> Array:
    wanted = PROJECTIONS.get(images)
    if wanted is None:
        known = ", ".join(PROJECTIONS)
        raise DatasetError(
            f"{path}: cannot tell which line is for {images!r} (known: {known}); give --intrinsics fx,fy,cx,cy"
        )
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name, _, rest = line.partition(":")
        if name.strip() == wanted:
            try:
                values = [float(v) for v in rest.split()]
            except ValueError as error:
                raise DatasetError(
                    f"{path}:{number}: expected numbers after {wanted}:, found {rest.strip()[:40]!r}"
                ) from error
            if len(values) != 12:
                raise DatasetError(f"{path}:{number}: expected 12 values of {wanted}, found {len(values)}")
            return np.reshape(values, (3, 4))
    raise DatasetError(f"{path}: expected a line {wanted}: for the images in {images}, found none")
