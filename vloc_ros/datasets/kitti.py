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

import math
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES, FilesIn, FolderImages, first_usable
from vloc_ros.datasets.posed_images import START_NS, T_MAP_WORLD, World, counted_stamp
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import EARLIEST_NS, in_order, stamp_in_ns, transform_from_matrix
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.rotations import nearest_rotation
from vloc_ros.settings import ranged
from vloc_ros.types import FARTHEST_M, Array, CameraModel

__all__ = ["Options", "matches", "open_drives", "read_poses"]

Ints = npt.NDArray[np.int64]
_NUMBERED = re.compile(r"[0-9]{1,18}\.[A-Za-z]+$")
IMAGE_FOLDERS = ("image_2", "left", "rgb", "image_0", "images", "right")
#: Which projection matrix of calib.txt belongs to which image folder.
PROJECTIONS = {"image_0": "P0", "image_1": "P1", "image_2": "P2", "image_3": "P3", "left": "P0", "right": "P1"}


@dataclass(frozen=True)
class Options:
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

    layout: Literal["odometry", "flat"] | None = None
    sequence: str | None = None
    images: str | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    camera_offset: tuple[float, float, float] | None = None
    rate_hz: float = ranged(10.0, minimum=1e-3)
    world: World = "camera"


def matches(path: Path) -> bool:
    """Whether a folder has ``poses.txt``, ``sequences``, or lies in a folder of that name."""
    path = Path(path)
    return path.is_dir() and (
        (path / "poses.txt").is_file() or (path / "sequences").is_dir() or path.resolve().parent.name == "sequences"
    )


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The one drive of such a folder (its source is :class:`FolderImages`).

    Faulty lines end the reading in any case, for they are told by their number alone; of the images, those at the
    beginning that cannot be decoded are left out with ``keep_going``.

    :raises DatasetError: something is missing, malformed (with file and line) or does not fit together.
    """
    path = Path(path)
    if not path.is_dir():
        raise DatasetError(f"{path}: expected a folder, found {'a file' if path.exists() else 'nothing'}")
    before = dict(problems.counts)
    folder, poses_file = _layout(path, options)
    images = _images(folder, options)
    poses = read_poses(poses_file)
    numbers = _numbers(images, len(poses), poses_file)
    stamps = _stamps(folder, numbers, options)
    begin, size = first_usable(images, problems)
    images, numbers, stamps = images[begin:], numbers[begin:], stamps[begin:]
    camera, offset = _camera(folder, images[0], size, options)
    if not np.array_equal(numbers, np.arange(len(poses))):
        poses = poses[numbers]
    poses[:, :3, 3] += poses[:, :3, :3] @ offset
    return [
        PosedSequence(
            folder.name,
            stamps,
            T_MAP_WORLD[options.world] @ poses,
            T_BODY_OPTICAL.copy(),
            camera,
            FolderImages(images),
            dropped=problems.since(before),
        )
    ]


def read_poses(path: Path) -> Array:
    """(N, 4, 4) poses from lines of 12 or 16 values; rotations are re-orthonormalised (the files hold 7 digits).

    :raises DatasetError: names the file and the line.
    """
    # Long drives: numbers are kept as such, and arrays are worked on in place.
    values, lines = array("d"), array("q")
    for number, row in _rows(path):
        if len(row) not in (12, 16):
            raise DatasetError(f"{path}:{number}: expected 12 or 16 values, found {len(row)}")
        values.extend(row if len(row) == 16 else (*row, 0.0, 0.0, 0.0, 1.0))
        lines.append(number)
    if not lines:
        raise DatasetError(f"{path}: expected one pose a line, found an empty file")
    poses = np.frombuffer(values, dtype=np.float64).reshape(-1, 4, 4)
    for begin in range(0, len(poses), 1024):
        part = poses[begin : begin + 1024]
        R = part[:, :3, :3]
        off = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        # What is clearly a rotation need not be looked at one by one.
        doubtful = (off > 1e-5) | (np.linalg.det(R) < 0.0) | (part[:, 3] != (0.0, 0.0, 0.0, 1.0)).any(axis=1)
        doubtful |= (np.abs(part[:, :3, 3]) > FARTHEST_M).any(axis=1)
        for row_number in np.flatnonzero(doubtful):
            part[row_number] = transform_from_matrix(part[row_number], f"{path}:{lines[begin + row_number]}")
        part[:, :3, :3] = nearest_rotation(R)
    return poses


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def _rows(path: Path) -> Iterator[tuple[int, list[float]]]:
    for number, line in _lines(path):
        try:
            values = [float(v) for v in line.replace(",", " ").split()]
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: expected numbers, found {line[:40]!r}") from error
        if not all(map(math.isfinite, values)):
            raise DatasetError(f"{path}:{number}: expected finite values, found {line[:40]!r}")
        yield number, values


def _layout(source: Path, options: Options) -> tuple[Path, Path]:
    layout = options.layout or ("flat" if (source / "poses.txt").is_file() else "odometry")
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


def _images(folder: Path, options: Options) -> FilesIn:
    """In the order of the numbers in their names."""
    names = (options.images,) if options.images else IMAGE_FOLDERS
    for name in names:
        if not (folder / name).is_dir():
            continue
        with os.scandir(folder / name) as entries:
            found = [e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES]
        if found:
            return FilesIn(folder / name, tuple(in_order(found, str(folder / name))))
    raise DatasetError(f"{folder}: expected images in {' or '.join(names)}, found none; name the folder with --images")


def _number(name: str) -> int:
    return int(name.partition(".")[0])


def _numbers(images: FilesIn, poses: int, poses_file: Path) -> Ints:
    """Which line of the poses file belongs to each image: the number in its name, else its place in name order."""
    if all(_NUMBERED.match(name) for name in images.names):
        numbers = np.array([_number(name) for name in images.names], dtype=np.int64)
        repeated = np.flatnonzero(np.diff(numbers) == 0)
        if len(repeated):
            first = int(repeated[0])
            raise DatasetError(
                f"{images[first + 1]}: expected one image for each number, found {images.names[first]}, too; remove one"
            )
        if numbers[-1] < poses:
            return numbers
    if len(images) != poses:
        raise DatasetError(
            f"{poses_file}: {poses} poses for {len(images)} images in {images.folder}; "
            "expected as many, or image names that are line numbers"
        )
    return np.arange(poses, dtype=np.int64)


def _stamps(folder: Path, numbers: Ints, options: Options) -> Ints:
    files = sorted(folder.glob("times*.txt"))
    if (folder / "times.txt") in files:
        files = [folder / "times.txt"]
    if len(files) > 1:
        raise DatasetError(f"{folder}: expected one times*.txt, found {', '.join(f.name for f in files)}; keep one")
    if not files:
        return np.array([counted_stamp(int(n), options.rate_hz) for n in numbers], dtype=np.int64)
    stamps = array("q")
    for line, text in _lines(files[0]):
        if len(text.split()) != 1:
            raise DatasetError(f"{files[0]}:{line}: expected one stamp in seconds, found {len(text.split())} values")
        stamp = stamp_in_ns(text, "s", f"{files[0]}:{line}", since_1970=False)
        if stamps and stamp <= stamps[-1]:
            raise DatasetError(f"{files[0]}:{line}: expected increasing stamps, found {stamp} ns after {stamps[-1]} ns")
        stamps.append(stamp)
    if numbers[-1] >= len(stamps):
        raise DatasetError(f"{files[0]}: {len(stamps)} stamps, too few for frame {numbers[-1]}")
    begin = 0 if stamps[0] >= EARLIEST_NS else START_NS
    return begin + np.frombuffer(stamps, dtype=np.int64)[numbers]


def _camera(folder: Path, first: Path, size: tuple[int, int], options: Options) -> tuple[CameraModel, Array]:
    width, height = size
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
        if float(np.abs(offset).max()) > FARTHEST_M:
            raise DatasetError(f"{folder / 'calib.txt'}: expected a camera on the vehicle, found P {P.tolist()}")
        return _pinhole((width, height), (P[0, 0], P[1, 1], P[0, 2], P[1, 2]), folder / "calib.txt"), offset
    if (folder / "K.txt").is_file():
        rows = [values for _, values in _rows(folder / "K.txt")]
        if len(rows) != 3 or any(len(r) != 3 for r in rows):
            raise DatasetError(
                f"{folder / 'K.txt'}: expected a 3x3 matrix, found rows of {[len(r) for r in rows]} values"
            )
        return _pinhole((width, height), (rows[0][0], rows[1][1], rows[0][2], rows[1][2]), folder / "K.txt"), offset
    raise DatasetError(
        f"{folder}: expected calib.txt or K.txt, found neither; give the intrinsics: --intrinsics fx,fy,cx,cy"
    )


def _pinhole(size: tuple[int, int], intrinsics: Sequence[float], path: Path) -> CameraModel:
    """:raises DatasetError: no camera has them; it names the file."""
    try:
        fx, fy, cx, cy = map(float, intrinsics)
        return CameraModel(*size, fx, fy, cx, cy)
    except CameraError as problem:
        raise DatasetError(f"{path}: {problem}") from problem


def _projection(path: Path, images: str) -> Array:
    wanted = PROJECTIONS.get(images)
    if wanted is None:
        known = ", ".join(PROJECTIONS)
        raise DatasetError(
            f"{path}: cannot tell which line is for {images!r} (known: {known}); give --intrinsics fx,fy,cx,cy"
        )
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
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
