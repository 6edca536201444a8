"""COLMAP's sparse models as they lie on disk, text and binary, read without COLMAP.

COLMAP's conventions end here: poses are world to camera with w-first quaternions, pixel centres lie at one half.
``rigs`` and ``frames``, which newer releases write too, say nothing that ``images`` does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import transform_from_quaternion
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = [
    "FILES",
    "HALF",
    "MODEL_NUMBERS",
    "ColmapImage",
    "ColmapModel",
    "camera_of_parameters",
    "find_model",
    "model_suffix",
    "parameter_count",
    "read_model",
]


# COLMAP's camera models, which kapture has taken over: what their parameters are called and what they become here.


#: COLMAP's pixel centres lie at one half.
HALF = 0.5
#: COLMAP's camera model: how its parameters read (f for both focal lengths) and what distortion that is here.
_MODELS: dict[str, tuple[str, str, int]] = {
    "SIMPLE_PINHOLE": ("f cx cy", "none", 0),
    "PINHOLE": ("fx fy cx cy", "none", 0),
    "SIMPLE_RADIAL": ("f cx cy k", "plumb_bob", 4),
    "RADIAL": ("f cx cy k k", "plumb_bob", 4),
    "OPENCV": ("fx fy cx cy k k k k", "plumb_bob", 4),
    "FULL_OPENCV": ("fx fy cx cy k k k k k k k k", "rational_polynomial", 8),
    "OPENCV_FISHEYE": ("fx fy cx cy k k k k", "equidistant", 4),
    "SIMPLE_RADIAL_FISHEYE": ("f cx cy k", "equidistant", 4),
    "RADIAL_FISHEYE": ("f cx cy k k", "equidistant", 4),
}
#: The models by their number in binary files, with how many parameters they have.
MODEL_NUMBERS: tuple[tuple[str, int], ...] = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
)  # fmt: skip


def parameter_count(name: str) -> int | None:
    """How many parameters a model has; None where it is not supported."""
    return len(_MODELS[name][0].split()) if name in _MODELS else None


def camera_of_parameters(
    name: str, width: int, height: int, parameters: Sequence[float], where: str = "COLMAP"
) -> CameraModel:
    """The camera of a model's name and parameters.

    :raises CameraError: the model is not supported, has another number of parameters, or its values are no lens.
    """
    if name not in _MODELS:
        raise CameraError(
            f"{where}: expected a camera model out of {', '.join(_MODELS)}, found {name}; undistort the images "
            "(colmap image_undistorter) and use the model that this writes"
        )
    layout, distortion, count = _MODELS[name]
    keys = layout.split()
    if len(parameters) != len(keys):
        raise CameraError(f"{where}: expected {len(keys)} parameters of {name}, found {len(parameters)}")
    named: dict[str, float] = {}
    k: list[float] = []
    for key, value in zip(keys, parameters, strict=True):
        if key == "k":
            k.append(float(value))
        else:
            named[key] = float(value)
    try:
        return CameraModel(
            width,
            height,
            named.get("fx", named.get("f", 0.0)),
            named.get("fy", named.get("f", 0.0)),
            named["cx"] - HALF,
            named["cy"] - HALF,
            distortion,
            tuple(k + [0.0] * (count - len(k))),
        )
    except CameraError as problem:
        raise CameraError(f"{where}: {problem}") from problem


Ints = npt.NDArray[np.int64]

FILES = ("cameras", "images", "points3D")
#: Where a project keeps its model.
FOLDERS = ("", "sparse/0", "sparse", "sfm")
#: No model has as many points.
LARGEST_ID = 2**53
#: What a binary file holds for each feature of an image.
_FEATURE = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])


@dataclass(frozen=True)
class ColmapImage:
    """One image of a model: ``pixels`` (K, 2) of the points (K,) that it observes, centres at integers.

    ``where`` is the file and line, or byte, for messages.
    """

    name: str
    camera_id: int
    T_map_cam: Array
    pixels: Array
    point_ids: Ints
    where: str = ""


@dataclass(frozen=True)
class ColmapModel:
    """A model as COLMAP wrote it, in the conventions of this package.

    :ivar cameras: by COLMAP's id. :ivar images: those with a pose, by name.
    :ivar points: (P, 3). :ivar point_ids: (P,) COLMAP's ids, rising.
    """

    cameras: dict[int, CameraModel]
    images: tuple[ColmapImage, ...]
    points: Array
    point_ids: Ints


def model_suffix(folder: Path, points: bool = True) -> str | None:
    """``.bin`` or ``.txt`` if a folder holds a model in that form (binary first), else None.

    :param points: its points have to be there.
    """
    needed = FILES if points else FILES[:2]
    kinds = [e for e in (".bin", ".txt") if all((folder / f"{n}{e}").is_file() for n in needed)]
    return kinds[0] if kinds else None


def find_model(folder: Path, points: bool = True) -> Path:
    """The model in a folder: there, or in ``sparse/0``, ``sparse`` or ``sfm`` below. :raises DatasetError: none."""
    for below in FOLDERS:
        if model_suffix(folder / below, points):
            return folder / below
    raise DatasetError(
        f"{folder}: expected a COLMAP model ({', '.join(FILES if points else FILES[:2])} as .bin or .txt) there, in "
        "sparse/0, sparse or sfm, found none"
    )


def read_model(folder: Path, problems: Problems | None = None, points: bool = True) -> ColmapModel:
    """Read a COLMAP or hloc model (``cameras``, ``images``, ``points3D``; ``.bin`` or ``.txt``).

    :param points: also the points and what the images observe of them; drives need neither.
    :raises DatasetError: no model, or a damaged one (names the file and the line or byte).
    :raises CameraError: a camera model that is not supported.
    """
    problems = problems or Problems()
    suffix = model_suffix(folder, points)
    if suffix is None:
        wanted = ", ".join(FILES if points else FILES[:2])
        raise DatasetError(f"{folder}: expected a COLMAP model ({wanted} as .bin or .txt), found none")
    binary = suffix == ".bin"
    read_cameras, read_images = (_binary_cameras, _binary_images) if binary else (_text_cameras, _text_images)
    cameras: dict[int, CameraModel] = {}
    for number, name, size, parameters, where in read_cameras(folder / f"cameras{suffix}", problems):
        count = parameter_count(name)
        if count is not None and count != len(parameters):
            problems.fault(
                "camera that cannot be read",
                f"{where}: expected {count} parameters of {name}, found {len(parameters)}: damaged",
            )
            continue
        try:
            camera = camera_of_parameters(name, *size, parameters, f"{where}: camera {number}")
        except CameraError as problem:
            if not problems.keep_going:
                raise
            problems.skip("camera that is not supported", str(problem))
            continue
        if number in cameras:
            problems.fault("repeated camera", f"{where}: expected one camera {number}, found a second: damaged")
            continue
        cameras[number] = camera
    images: dict[str, ColmapImage] = {}
    for name, camera_id, quaternion_wxyz, t, pixels, ids, where in read_images(
        folder / f"images{suffix}", problems, points
    ):
        if camera_id not in cameras:
            problems.fault("image of no camera", f"{where}: expected camera {camera_id} of {name}, found none: damaged")
            continue
        if not (np.isfinite(quaternion_wxyz).all() and np.isfinite(t).all()):
            problems.fault("pose with NaN or infinity", f"{where}: expected a pose of {name}, found NaN or infinity")
            continue
        T = transform_from_quaternion(t, quaternion_wxyz[[1, 2, 3, 0]], f"{where}: {name}", problems)
        if T is None:
            continue
        if name in images:
            problems.fault("repeated image", f"{where}: expected one image {name}, found a second: damaged")
            continue
        images[name] = ColmapImage(name, camera_id, inverse(T), pixels, ids, where)
    xyz, point_ids = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    if points:
        file = folder / f"points3D{suffix}"
        xyz, point_ids = (_binary_points if binary else _text_points)(file, problems)
        order = np.argsort(point_ids, kind="stable")
        xyz, point_ids = xyz[order], point_ids[order]
        images = {name: _observing(image, point_ids, problems) for name, image in images.items()}
    return ColmapModel(cameras, tuple(images[name] for name in sorted(images)), xyz, point_ids)


def _observing(image: ColmapImage, known: Ints, problems: Problems) -> ColmapImage:
    """An image without observations of points that the model lacks, which are a fault."""
    there = np.isin(image.point_ids, known)
    if there.all():
        return image
    problems.fault(
        "image that observes points which are not there",
        f"{image.where}: expected the point {int(image.point_ids[~there][0])} that {image.name} observes, found none "
        "in points3D: damaged",
    )
    return ColmapImage(
        image.name, image.camera_id, image.T_map_cam, image.pixels[there], image.point_ids[there], image.where
    )


_Camera = tuple[int, str, tuple[int, int], list[float], str]
_Image = tuple[str, int, Array, Array, Array, Ints, str]


def _observed(x: Array, y: Array, ids: Ints) -> tuple[Array, Ints]:
    """Features that belong to a point: pixels with centres at integers, and the points."""
    seen = ids >= 0  # -1, of 64 bits, where there is none
    return np.stack([x[seen], y[seen]], axis=1) - HALF, ids[seen].astype(np.int64)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``path:line``, text) of every line that is no comment."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.startswith("#"):
                yield f"{path}:{number}", line.strip()


def _text_cameras(path: Path, problems: Problems) -> Iterator[_Camera]:
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
        yield number, fields[1], (width, height), parameters, where


def _text_images(path: Path, problems: Problems, points: bool) -> Iterator[_Image]:
    rows = _lines(path)
    for where, line in rows:
        if not line:
            continue
        fields = line.split(maxsplit=9)
        where_points, features = next(rows, (where, ""))  # the second line of an image may be empty
        try:
            pose, camera_id, name = np.array([float(v) for v in fields[1:8]]), int(fields[8]), fields[9]
            if len(pose) != 7:
                raise ValueError
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
        yield name, camera_id, pose[:4], pose[4:], pixels, ids, where


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


def _binary_cameras(path: Path, problems: Problems) -> Iterator[_Camera]:
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
        yield number, name, (width, height), [float(v) for v in file.take(f"{length}d")], where
    file.end()


def _binary_images(path: Path, problems: Problems, points: bool) -> Iterator[_Image]:
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
        yield name, int(values[8]), pose[:4], pose[4:], pixels, ids, where
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
