"""The files of COLMAP's sparse models, text and binary, record by record, as they lie on disk.

Every complaint names the file and the line or byte; nothing that a file claims is believed before it is there. World to
camera, w-first quaternions and pixel centres at one half: :mod:`~vloc_ros.datasets.colmap_model` converts them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.types import Array

__all__ = [
    "CameraRow",
    "FrameRow",
    "ImageRow",
    "RigRow",
    "read_cameras",
    "read_frames",
    "read_images",
    "read_points",
    "read_rigs",
]

Ints = npt.NDArray[np.int64]
#: The models by their number in binary files, with how many parameters they have.
MODEL_NUMBERS: tuple[tuple[str, int], ...] = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
)  # fmt: skip
#: No model has as many points.
LARGEST_ID = 2**53
#: What a binary file holds for each feature of an image.
_FEATURE = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])


class CameraRow(NamedTuple):
    """A camera: its id, COLMAP's name of its model, width and height in pixels, and its parameters."""

    number: int
    model: str
    size: tuple[int, int]
    parameters: list[float]
    where: str


class ImageRow(NamedTuple):
    """An image: ``pose`` (7,) is qw qx qy qz tx ty tz, ``pixels`` (K, 2) are where it sees the points (K,)."""

    number: int
    name: str
    camera_id: int
    pose: Array
    pixels: Array
    point_ids: Ints
    where: str


class RigRow(NamedTuple):
    """A rig: its reference sensor, and the pose (7,) of the others, sensor from rig, None where it is not known.

    Sensors are (type, id); ``CAMERA`` is type 0.
    """

    number: int
    reference: tuple[int, int]
    others: dict[tuple[int, int], Array | None]
    where: str


class FrameRow(NamedTuple):
    """A frame of a rig: ``pose`` (7,) rig from world, and the (type, id) of a sensor with each of its images."""

    number: int
    rig_id: int
    pose: Array
    data: tuple[tuple[tuple[int, int], int], ...]
    where: str


def read_cameras(path: Path, problems: Problems) -> Iterator[CameraRow]:
    """``cameras.bin`` or ``cameras.txt``.

    :raises DatasetError: damaged. :raises CameraError: a binary file with a model whose length is not known.
    """
    return _binary_cameras(path) if path.suffix == ".bin" else _text_cameras(path, problems)


def read_images(path: Path, problems: Problems, points: bool) -> Iterator[ImageRow]:
    """``images.bin`` or ``images.txt``; without ``points`` nothing of what they observe."""
    return _binary_images(path, points) if path.suffix == ".bin" else _text_images(path, problems, points)


def read_points(path: Path, problems: Problems) -> tuple[Array, Ints]:
    """``points3D.bin`` or ``points3D.txt``: positions (P, 3) and ids (P,)."""
    return _binary_points(path, problems) if path.suffix == ".bin" else _text_points(path, problems)


def read_rigs(path: Path, problems: Problems) -> Iterator[RigRow]:
    """``rigs.bin`` or ``rigs.txt``."""
    return _binary_rigs(path) if path.suffix == ".bin" else _text_rigs(path, problems)


def read_frames(path: Path, problems: Problems) -> Iterator[FrameRow]:
    """``frames.bin`` or ``frames.txt``."""
    return _binary_frames(path) if path.suffix == ".bin" else _text_frames(path, problems)


def _observed(x: Array, y: Array, ids: Ints) -> tuple[Array, Ints]:
    """Features that belong to a point: their pixels, and the points."""
    seen = ids >= 0  # -1, of 64 bits, where there is none
    return np.stack([x[seen], y[seen]], axis=1), ids[seen].astype(np.int64)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``path:line``, text) of every line that is no comment."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.startswith("#"):
                yield f"{path}:{number}", line.strip()


def _text_cameras(path: Path, problems: Problems) -> Iterator[CameraRow]:
    for where, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        try:
            number, width, height = int(fields[0]), int(fields[2]), int(fields[3])
            parameters = [float(v) for v in fields[4:]]
        except (ValueError, IndexError):
            problems.fault(
                "camera that cannot be read",
                f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS, found {line[:60]!r}: damaged",
            )
            continue
        yield CameraRow(number, fields[1], (width, height), parameters, where)


def _text_images(path: Path, problems: Problems, points: bool) -> Iterator[ImageRow]:
    rows = _lines(path)
    for where, line in rows:
        if not line:
            continue
        fields = line.split(maxsplit=9)
        where_points, features = next(rows, (where, ""))  # the second line of an image may be empty
        try:
            number, camera_id, name = int(fields[0]), int(fields[8]), fields[9]
            pose = _pose(fields[1:8])
        except (ValueError, IndexError):
            problems.fault(
                "image that cannot be read",
                f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found {line[:60]!r}: damaged; every "
                "image has two lines, the second of which may be empty but not missing",
            )
            continue
        values = features.split()
        if len(values) % 3:
            problems.fault(
                "features that cannot be read",
                f"{where_points}: expected triples X Y POINT3D_ID of the image {name}, found {len(values)} fields: "
                "damaged; every image has two lines, the second of which may be empty but not missing",
            )
            continue
        table = np.zeros((0, 3))
        if points and values:
            try:
                table = np.array(values, dtype=np.float64).reshape(-1, 3)
                if not (np.abs(table) < LARGEST_ID).all():
                    raise ValueError
            except ValueError:
                problems.fault(
                    "features that cannot be read",
                    f"{where_points}: expected numbers as features of {name}, found others: damaged",
                )
                continue
        pixels, ids = _observed(table[:, 0], table[:, 1], table[:, 2].astype(np.int64))
        yield ImageRow(number, name, camera_id, pose, pixels, ids, where)


def _text_points(path: Path, problems: Problems) -> tuple[Array, Ints]:
    points, ids = [], []
    for where, line in _lines(path):
        fields = line.split(maxsplit=4)
        if not fields:
            continue
        try:
            number = int(fields[0])
            x, y, z = (float(v) for v in fields[1:4])
            if not (0 <= number < LARGEST_ID and np.isfinite((x, y, z)).all()):
                raise ValueError
            ids.append(number)
            points.append((x, y, z))
        except ValueError:
            problems.fault(
                "point that cannot be read", f"{where}: expected POINT3D_ID X Y Z ..., found {line[:60]!r}: damaged"
            )
    return np.array(points, dtype=np.float64).reshape(-1, 3), np.array(ids, dtype=np.int64)


class _Bytes:
    """A binary file that is read from the front; what ends too early is told by its place."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        """Little-endian values."""
        size = struct.calcsize("<" + layout)
        self.need(size)
        out = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return out

    def count(self) -> int:
        """A number of things that follow."""
        return int(self.take("Q")[0])

    def text(self) -> str:
        """Up to a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            self.need(len(self.data))
        out, self.at = self.data[self.at : end].decode("utf-8", errors="replace"), end + 1
        return out

    def need(self, size: int) -> None:
        """:raises DatasetError: fewer bytes are left."""
        if self.at + size > len(self.data):
            raise DatasetError(
                f"{self.path}: byte {self.at}: expected more of the COLMAP model, found the end of the file: damaged; "
                "copy or export it again"
            )

    def end(self) -> None:
        """:raises DatasetError: something is left."""
        if self.at != len(self.data):
            raise DatasetError(f"{self.path}: expected {self.at} bytes, found {len(self.data)}: damaged")

    @property
    def where(self) -> str:
        return f"{self.path}: byte {self.at}"


def _binary_cameras(path: Path) -> Iterator[CameraRow]:
    file = _Bytes(path)
    for _ in range(file.count()):
        where = file.where
        number, kind, width, height = (int(v) for v in file.take("iiQQ"))
        if not 0 <= kind < len(MODEL_NUMBERS):
            # Its length is not known, so that nothing behind it can be read either.
            raise CameraError(
                f"{where}: expected a camera model from 0 to {len(MODEL_NUMBERS) - 1}, found {kind}; undistort the "
                "images (colmap image_undistorter) and use the model that this writes"
            )
        name, length = MODEL_NUMBERS[kind]
        yield CameraRow(number, name, (width, height), [float(v) for v in file.take(f"{length}d")], where)
    file.end()


def _binary_images(path: Path, points: bool) -> Iterator[ImageRow]:
    file = _Bytes(path)
    for _ in range(file.count()):
        where = file.where
        values = file.take("I7dI")
        name, length = file.text(), file.count()
        file.need(length * _FEATURE.itemsize)
        found = np.frombuffer(file.data, _FEATURE, length if points else 0, file.at)
        file.at += length * _FEATURE.itemsize
        pixels, ids = _observed(found["x"], found["y"], found["point"])
        pose = np.array(values[1:8], dtype=np.float64)
        yield ImageRow(int(values[0]), name, int(values[8]), pose, pixels, ids, where)
    file.end()


def _binary_points(path: Path, problems: Problems) -> tuple[Array, Ints]:
    file = _Bytes(path)
    points, ids = [], []
    for _ in range(file.count()):
        where = file.where
        number, x, y, z, _red, _green, _blue, _error, length = file.take("Q3d3BdQ")
        if number < LARGEST_ID and np.isfinite((x, y, z)).all():
            points.append((x, y, z))
            ids.append(number)
        else:
            problems.fault(
                "point that cannot be read",
                f"{where}: expected a finite point, found {number} at {x}, {y}, {z}: damaged",
            )
        file.need(int(length) * 8)
        file.at += int(length) * 8
    file.end()
    return np.array(points, dtype=np.float64).reshape(-1, 3), np.array(ids, dtype=np.int64)


_SENSORS = {"CAMERA": 0, "IMU": 1}


def _text_rigs(path: Path, problems: Problems) -> Iterator[RigRow]:
    """``RIG_ID COUNT TYPE ID`` of the reference, then ``TYPE ID HAS_POSE`` and perhaps a pose for each other sensor."""
    for where, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        try:
            number, count, reference = int(fields[0]), int(fields[1]), (_SENSORS[fields[2]], int(fields[3]))
            others: dict[tuple[int, int], Array | None] = {}
            at = 4
            while at < len(fields):
                sensor, known = (_SENSORS[fields[at]], int(fields[at + 1])), fields[at + 2] == "1"
                others[sensor] = np.array([float(v) for v in fields[at + 3 : at + 10]]) if known else None
                at += 10 if known else 3
            if len(others) != count - 1 or any(pose is not None and len(pose) != 7 for pose in others.values()):
                raise ValueError
        except (ValueError, IndexError, KeyError):
            problems.fault(
                "rig that cannot be read",
                f"{where}: expected RIG_ID NUM_SENSORS and its sensors, found {line[:60]!r}: damaged",
            )
            continue
        yield RigRow(number, reference, others, where)


def _text_frames(path: Path, problems: Problems) -> Iterator[FrameRow]:
    """``FRAME_ID RIG_ID`` and a pose, then how many data, and ``TYPE SENSOR_ID DATA_ID`` of each."""
    for where, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        try:
            number, rig_id, pose, count = int(fields[0]), int(fields[1]), _pose(fields[2:9]), int(fields[9])
            triples = [fields[at : at + 3] for at in range(10, len(fields), 3)]
            data = tuple(((_SENSORS[kind], int(sensor)), int(image)) for kind, sensor, image in triples)
            if len(data) != count:
                raise ValueError
        except (ValueError, IndexError, KeyError):
            problems.fault(
                "frame that cannot be read",
                f"{where}: expected FRAME_ID RIG_ID QW QX QY QZ TX TY TZ NUM_DATA and the data, found "
                f"{line[:60]!r}: damaged",
            )
            continue
        yield FrameRow(number, rig_id, pose, data, where)


def _pose(fields: Sequence[str]) -> Array:
    pose = np.array([float(v) for v in fields])
    if len(pose) != 7:
        raise ValueError("expected a quaternion and a translation")
    return pose


def _binary_rigs(path: Path) -> Iterator[RigRow]:
    file = _Bytes(path)
    for _ in range(file.count()):
        where = file.where
        number, count, kind, sensor = (int(v) for v in file.take("IIiI"))
        others: dict[tuple[int, int], Array | None] = {}
        for _ in range(count - 1):
            other_kind, other, known = (int(v) for v in file.take("iIB"))
            others[other_kind, other] = np.array(file.take("7d")) if known else None
        yield RigRow(number, (kind, sensor), others, where)
    file.end()


def _binary_frames(path: Path) -> Iterator[FrameRow]:
    file = _Bytes(path)
    for _ in range(file.count()):
        where = file.where
        number, rig_id, *pose, count = file.take("II7dI")
        file.need(int(count) * 16)
        rows = [file.take("iIQ") for _ in range(int(count))]
        data = tuple(((int(kind), int(sensor)), int(image)) for kind, sensor, image in rows)
        yield FrameRow(int(number), int(rig_id), np.array(pose), data, where)
    file.end()
