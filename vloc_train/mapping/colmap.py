"""The one place that talks to pycolmap: its interface moved with 0.4, 0.6, 3.11, 3.13 and 4.0.

Conventions of COLMAP end here: poses are world to camera with w-first quaternions, pixel centres lie at one half, ids
begin at one. Models go in as COLMAP's text files, whose format never changed, so that rigs and frames (3.13) need no
thought; :mod:`vloc_ros.datasets.colmap_model` reads them without it.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.colmap_model import HALF, read_model
from vloc_ros.errors import CameraError, ConfigError, DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.se3 import inverse
from vloc_ros.staging import write_text
from vloc_ros.types import Array, CameraModel

__all__ = [
    "OLDEST",
    "Tracks",
    "TriangulationOptions",
    "read_model",
    "require_pycolmap",
    "sift",
    "triangulate",
    "write_text_model",
]

# The text form of COLMAP's models, written without pycolmap; :mod:`vloc_ros.datasets.colmap_model` reads them.


def write_text_model(
    folder: Path, cameras: Sequence[CameraModel], camera_index: Sequence[int], T_map_cam: Array,
    names: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """A COLMAP model of pinhole cameras and posed images without points."""
    lines = [
        f"{i + 1} PINHOLE {c.width} {c.height} {c.fx!r} {c.fy!r} {c.cx + HALF!r} {c.cy + HALF!r}"
        for i, c in enumerate(cameras)
    ]
    write_text(folder / "cameras.txt", "\n".join(lines) + "\n")
    T_cam_map = inverse(T_map_cam) if len(T_map_cam) else T_map_cam
    text = []
    for i, T in enumerate(T_cam_map):
        x, y, z, w = (float(v) for v in matrix_to_quaternion(T[:3, :3]))
        values = " ".join(repr(float(v)) for v in (w, x, y, z, *T[:3, 3]))
        name = names[i] if names is not None else f"{i:08d}.png"
        text.append(f"{i + 1} {values} {int(camera_index[i]) + 1} {name}\n\n")
    write_text(folder / "images.txt", "".join(text))
    write_text(folder / "points3D.txt", "")
    return folder


Ints = npt.NDArray[np.int64]

#: Its database can be written since then.
OLDEST = (3, 11)


def require_pycolmap() -> Any:
    """The module ``pycolmap``. It makes its own end of SIGTERM, with a stack trace: ours is put back.

    :raises ConfigError: it is not installed, or too old.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap

        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    except ImportError as error:
        raise ConfigError("structure from motion needs pycolmap: pip install 'vloc_ros[maps]'") from error
    found = str(getattr(pycolmap, "__version__", "0"))
    if version_of(found) < OLDEST:
        raise ConfigError(
            f"pycolmap: expected {'.'.join(map(str, OLDEST))} or newer, found {found}; pip install -U 'vloc_ros[maps]'"
        )
    return pycolmap


def version_of(text: str) -> tuple[int, int]:
    """The first two numbers of a version: ``3.12.5`` and ``4.0.0.dev1`` alike."""
    numbers = [*(int(n) for n in re.findall(r"\d+", text)[:2]), 0, 0]
    return numbers[0], numbers[1]


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Without COLMAP's log: it complains of every image whose colours it cannot read."""
    log = pycolmap.logging
    before = log.minloglevel
    log.minloglevel = 3  # fatal; those become exceptions
    try:
        yield
    finally:
        log.minloglevel = before


def sift(limit: int, peak: float, first_octave: int = -1) -> Any:
    """A function from a grey image (H, W) uint8 to pixels (K, 2) and RootSIFT descriptors (K, 128) of unit length.

    :param limit: features at most, the largest scales first. :param peak: contrast threshold.
    """
    pycolmap = require_pycolmap()
    if hasattr(pycolmap, "FeatureExtractionOptions"):  # 3.13
        options = pycolmap.FeatureExtractionOptions()
        values = options.sift
        options.use_gpu = False
    else:
        options = values = pycolmap.SiftExtractionOptions()
    values.max_num_features, values.peak_threshold, values.first_octave = limit, peak, first_octave
    for owner in (options, values):
        if hasattr(owner, "num_threads"):
            owner.num_threads = 1
    if hasattr(pycolmap, "keypoints_to_matrix"):  # 4.1
        with _quiet(pycolmap):
            extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)

        def extract(grey: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
            keypoints, descriptors = extractor.extract_from_uint8_array(grey)
            return pycolmap.keypoints_to_matrix(keypoints), descriptors.data
    else:
        with _quiet(pycolmap):
            sift_of = pycolmap.Sift(options, pycolmap.Device.cpu)

        def extract(grey: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
            keypoints, descriptors = sift_of.extract(grey)[:2]
            return keypoints, descriptors

    def detect(grey: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        keypoints, found = extract(np.ascontiguousarray(grey))
        pixels = np.asarray(keypoints, dtype=np.float32)[:, :2] - np.float32(HALF)
        descriptors = np.asarray(found, dtype=np.float32).reshape(-1, 128)
        return pixels, descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-12)

    return detect


@dataclass(frozen=True)
class TriangulationOptions:
    """What a triangulated point has to satisfy.

    :param minimum_angle_deg: between some two of its rays.
    :param maximum_error_px: of its reprojection.
    :param two_view: also points that two frames see and no third.
    """

    minimum_angle_deg: float = 1.5
    maximum_error_px: float = 4.0
    two_view: bool = False


@dataclass(frozen=True)
class Tracks:
    """Triangulated points and what they were made of.

    :ivar points: (P, 3). :ivar point_ids: (O,) rows of ``points``. :ivar frames: (O,). :ivar features: (O,) the number
        of the feature in its frame. :ivar T_map_cam: (R, 4, 4), as given.
    """

    points: Array
    point_ids: Ints
    frames: Ints
    features: Ints
    T_map_cam: Array


def triangulate(
    folder: Path,
    cameras: Sequence[CameraModel],
    camera_index: Sequence[int],
    T_map_cam: Array,
    features: Iterable[Array],
    matches: Iterable[tuple[int, int, npt.NDArray[np.integer[Any]]]],
    options: TriangulationOptions | None = None,
) -> Tracks:
    """COLMAP's triangulation of frames whose poses are known; poses and intrinsics stay as they are.

    :param folder: an empty place for COLMAP's database and models; it is left there, for COLMAP's own tools.
    :param cameras: pinholes.
    :param T_map_cam: (R, 4, 4).
    :param features: (K, 2) pixels of each frame, in order; free of distortion.
    :param matches: two frames and the (M, 2) numbers of their features that are the same, checked already.
    :raises CameraError: a distorted camera. :raises DatasetError: COLMAP refuses.
    """
    pycolmap = require_pycolmap()
    options = options or TriangulationOptions()
    for camera in cameras:
        if camera.is_distorted:
            raise CameraError("triangulation: expected features of pinhole cameras, found a distorted one")
    folder.mkdir(parents=True, exist_ok=True)
    given = write_text_model(folder / "given", cameras, camera_index, T_map_cam)
    with _quiet(pycolmap):
        try:
            posed = pycolmap.Reconstruction(str(given))
            sizes = _write_database(pycolmap, folder / "database.db", posed, camera_index, features, matches)
            out = folder / "sparse"
            out.mkdir(exist_ok=True)
            made = pycolmap.triangulate_points(
                posed,
                str(folder / "database.db"),
                str(folder),
                str(out),
                clear_points=True,
                options=_pipeline(pycolmap, options),
                refine_intrinsics=False,
            )
        except (RuntimeError, ValueError) as problem:
            raise DatasetError(f"triangulation: COLMAP failed: {problem}; its database lies in {folder}") from problem
    return _tracks(made, sizes, np.asarray(T_map_cam, dtype=np.float64))


def _write_database(
    pycolmap: Any,
    path: Path,
    posed: Any,
    camera_index: Sequence[int],
    features: Iterable[Array],
    matches: Iterable[tuple[int, int, npt.NDArray[np.integer[Any]]]],
) -> list[int]:
    path.unlink(missing_ok=True)
    # Opened by a static function since 3.13, by the constructor before.
    opened = pycolmap.Database.open if hasattr(pycolmap.Database, "write_rig") else pycolmap.Database
    database: Any = opened(str(path))
    sizes: list[int] = []
    try:
        for camera_id in sorted(set(int(c) + 1 for c in camera_index)):
            database.write_camera(posed.cameras[camera_id], True)
        if hasattr(database, "write_rig"):  # 3.13
            for rig_id in sorted(posed.rigs):
                database.write_rig(posed.rigs[rig_id], True)
            for frame_id in sorted(posed.frames):
                database.write_frame(posed.frames[frame_id], True)
        for number, pixels in enumerate(features):
            database.write_image(posed.images[number + 1], True)
            shifted = np.zeros((len(pixels), 4), dtype=np.float32)
            shifted[:, :2], shifted[:, 2] = np.asarray(pixels) + HALF, 1.0
            database.write_keypoints(number + 1, shifted)
            sizes.append(len(pixels))
        for first, second, pairs in matches:
            rows = np.ascontiguousarray(pairs, dtype=np.uint32).reshape(-1, 2)
            if not len(rows):
                continue
            verified = pycolmap.TwoViewGeometry()
            verified.config = int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)
            verified.inlier_matches = rows
            database.write_matches(first + 1, second + 1, rows)
            database.write_two_view_geometry(first + 1, second + 1, verified)
    finally:
        database.close()
    return sizes


def _pipeline(pycolmap: Any, options: TriangulationOptions) -> Any:
    out = pycolmap.IncrementalPipelineOptions()
    out.num_threads = 1  # several add up in any order, and the same data would make maps that differ by 1e-12 m
    out.extract_colors = False
    out.min_num_matches = 1
    out.mapper.filter_min_tri_angle = options.minimum_angle_deg
    out.mapper.filter_max_reproj_error = options.maximum_error_px
    out.triangulation.min_angle = options.minimum_angle_deg
    out.triangulation.merge_max_reproj_error = options.maximum_error_px
    out.triangulation.complete_max_reproj_error = options.maximum_error_px
    out.triangulation.ignore_two_view_tracks = not options.two_view
    for owner in (out, out.mapper, out.triangulation):  # the same data, the same map (4.0)
        if hasattr(owner, "random_seed"):
            owner.random_seed = 0
    return out


def _tracks(model: Any, sizes: Sequence[int], T_map_cam: Array) -> Tracks:
    points, ids, frames, features = [], [], [], []
    for row, number in enumerate(sorted(model.points3D)):
        point = model.points3D[number]
        points.append(point.xyz)
        for element in point.track.elements:
            ids.append(row)
            frames.append(element.image_id - 1)
            features.append(element.point2D_idx)
    made = Tracks(
        np.asarray(points, dtype=np.float64).reshape(-1, 3),
        np.asarray(ids, dtype=np.int64),
        np.asarray(frames, dtype=np.int64),
        np.asarray(features, dtype=np.int64),
        T_map_cam,
    )
    assert not len(made.frames) or bool((made.features < np.asarray(sizes)[made.frames]).all())
    return made
