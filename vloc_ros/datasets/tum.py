"""Folders of the TUM RGB-D benchmark: colour images by their stamps in seconds, ``groundtruth.txt``, perhaps depth.

``groundtruth.txt`` has lines ``stamp tx ty tz qx qy qz qw``: the colour camera (optical axes) in a world with z up, at
a rate and at moments of its own. A frame's pose is interpolated between the two lines around its stamp; a frame
without lines close enough on both sides is left out. ``rgb.txt`` lists ``stamp file``; without it the files' names
are their stamps. ``depth.txt`` does so for depth images, which are registered to the colour images and belong to the
nearest of them within 20 ms. No file holds the camera: it is known by the folder's name (``freiburg1`` or ``fr1``, 2,
3), or given. There is no vehicle: ``base_link`` is at the camera, with body axes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.depth_images import DepthImages
from vloc_ros.datasets.image_files import FolderImages, first_usable
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import (
    covered_frames,
    images_in,
    listed_frames,
    pose_samples,
    read_rows,
    stamp_in_ns,
    track_of,
)
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.settings import ranged
from vloc_ros.types import CameraModel

__all__ = ["CAMERAS", "Options", "known_camera", "matches", "open_drives", "open_tum"]

TRUTH = "groundtruth.txt"
#: The colour cameras as the benchmark publishes them; the images of the third are free of distortion already.
CAMERAS = {
    1: CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    2: CameraModel(640, 480, 520.9, 521.0, 325.1, 249.7, "plumb_bob", (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    3: CameraModel(640, 480, 535.4, 539.2, 320.1, 247.6),
}
#: Grey levels of a depth image a metre.
DEPTH_SCALE = 5000.0
_DEPTH_WITHIN_NS = 20_000_000
_Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """How to read a folder of the benchmark.

    :param intrinsics: fx, fy, cx, cy in pixels; None: those published, by the folder's name.
    :param distortion: k1, k2, p1, p2 and perhaps k3 of the images; None: none, or those published with the intrinsics.
    :param images: the folder with the colour images.
    :param max_gap_s: between the two poses that a frame's own is interpolated from.
    """

    intrinsics: tuple[float, float, float, float] | None = None
    distortion: tuple[float, ...] | None = None
    images: str = "rgb"
    max_gap_s: float = ranged(0.1, minimum=0.0)


def matches(path: Path) -> bool:
    """Whether a folder looks like one of the benchmark."""
    return (Path(path) / TRUTH).is_file() and not (Path(path) / "poses.txt").is_file()


def known_camera(folder: Path) -> CameraModel | None:
    """The published colour camera, by a folder's name such as ``rgbd_dataset_freiburg1_xyz`` or ``fr1_xyz``."""
    named = re.search(r"(?:freiburg|(?<![a-z])fr)([123])(?!\d)", folder.resolve().name.lower())
    return CAMERAS[int(named[1])] if named else None


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The one drive of a folder. :raises DatasetError: something is missing or malformed."""
    sequence = open_tum(path, options.intrinsics, options.images, options.max_gap_s, problems=problems)
    if options.distortion is not None:
        model = "plumb_bob" if options.distortion else "none"
        try:
            camera = replace(sequence.camera, distortion_model=model, distortion=options.distortion)
        except CameraError as error:
            raise DatasetError(f"{path}: distortion: {error}") from error
        sequence = replace(sequence, camera=camera)
    return [sequence]


def open_tum(
    source: str | Path,
    intrinsics: tuple[float, float, float, float] | None = None,
    images: str = "rgb",
    max_gap_s: float = 0.1,
    *,
    problems: Problems | None = None,
) -> PosedSequence:
    """A folder of the benchmark as a sequence of images as the lens made them.

    :param intrinsics: fx, fy, cx, cy, pixels, of a camera without distortion; None: the published camera.
    :param images: the folder with the colour images.
    :param max_gap_s: between the two poses that a frame's own is interpolated from.
    :raises DatasetError: something is missing or malformed (with file and line).
    """
    problems = problems or Problems()
    before = dict(problems.counts)
    folder = Path(source)
    stamps, paths = _frames(folder, images, problems)
    begin, size = first_usable(paths, problems)
    stamps, paths = stamps[begin:], paths[begin:]
    truth = folder / TRUTH
    # Not since 1970: cut and replayed recordings begin at any second.
    samples = pose_samples(read_rows(truth, problems, 8), problems, "s", since_1970=False)
    track = track_of(samples, str(truth), problems, max_gap_s)
    if len(track) < 2:
        raise DatasetError(f"{truth}: expected at least two poses, found {len(track)}")
    kept, T_map_cam = covered_frames(stamps, track, str(folder), problems)
    chosen = tuple(paths[i] for i in kept)
    camera = _camera(folder, paths[0], size, intrinsics)
    dropped = problems.since(before)
    depths = _depths(folder, stamps[kept], problems)
    files = DepthImages(chosen, depths, camera, None, DEPTH_SCALE, (0,)) if depths else FolderImages(chosen)
    return PosedSequence(
        folder.resolve().name, stamps[kept], T_map_cam, T_BODY_OPTICAL.copy(), camera, files, dropped=dropped
    )


def _frames(folder: Path, images: str, problems: Problems) -> tuple[_Stamps, list[Path]]:
    listed = folder / f"{images}.txt"
    if listed.is_file():
        # Drives are cut down by deleting images, and the list stays as it was.
        rows = read_rows(listed, problems, 2)
        return listed_frames(rows, folder, problems, "s", since_1970=False, partial=True)
    found: dict[int, Path] = {}
    for path in images_in(folder / images):
        try:
            stamp = stamp_in_ns(path.stem, "s", f"{path}: name", since_1970=False)
        except DatasetError as error:
            problems.fault(
                "image whose name is no stamp", f"{error}; list the images with their stamps in {listed.name}"
            )
            continue
        if stamp in found:
            problems.fault("repeated stamp", f"{path}: expected one image a stamp, found {found[stamp].name}, too")
        else:
            found[stamp] = path
    if not found:
        raise DatasetError(f"{folder / images}: expected images named by their stamps in seconds, found none")
    stamps = sorted(found)
    return np.array(stamps, dtype=np.int64), [found[s] for s in stamps]


def _camera(
    folder: Path, image: Path, size: tuple[int, int], intrinsics: tuple[float, float, float, float] | None
) -> CameraModel:
    if intrinsics is not None:
        return CameraModel(*size, *intrinsics)
    camera = known_camera(folder)
    if camera is None:
        raise DatasetError(
            f"{folder}: expected the intrinsics, which no file holds and the folder's name (freiburg1, 2, 3) does not "
            "tell; give intrinsics=[fx,fy,cx,cy]"
        )
    if size != camera.size:
        raise DatasetError(
            f"{image}: expected {camera.width}x{camera.height} pixels, for which the intrinsics are published, found "
            f"{size[0]}x{size[1]}; give intrinsics=[fx,fy,cx,cy] and distortion=[...] of these images"
        )
    return camera


def _depths(folder: Path, stamps: _Stamps, problems: Problems) -> tuple[Path | None, ...]:
    """The depth file of each frame; empty where the folder has no depth."""
    listed = folder / "depth.txt"
    if not listed.is_file():
        return ()
    rows = read_rows(listed, problems, 2)
    times, paths = listed_frames(rows, folder, problems, "s", since_1970=False, partial=True)
    after = np.searchsorted(times, stamps).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(np.abs(times[before] - stamps) <= np.abs(times[after] - stamps), before, after)
    near = np.abs(times[nearest] - stamps) <= _DEPTH_WITHIN_NS
    if not near.all():
        first = int(np.flatnonzero(~near)[0])
        problems.skip(
            "frame without a depth image",
            f"{listed}: no depth image within 20 ms of frame {first} at {int(stamps[first])} ns, and "
            f"{int((~near).sum()) - 1} more; all of their depth is unknown",
            int((~near).sum()),
        )
    return tuple(paths[row] if ok else None for row, ok in zip(nearest.tolist(), near.tolist(), strict=True))
