"""Folders of the TUM RGB-D benchmark: colour images named by their stamps in seconds, and ``groundtruth.txt``.

``groundtruth.txt`` has lines ``stamp tx ty tz qx qy qz qw``: the colour camera (optical axes) in a world with z up, at
a rate and at moments of its own. A frame's pose is interpolated between the two lines around its stamp; a frame
without lines close enough on both sides is left out. No file holds the camera: its intrinsics are given, and its
distortion is set on the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES, FolderImages
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import quaternion_to_matrix, slerp
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives", "open_tum"]

TRUTH = "groundtruth.txt"


@dataclass(frozen=True)
class Options:
    """How to read a folder of the benchmark.

    :param intrinsics: fx, fy, cx, cy in pixels; no file holds them.
    :param distortion: k1, k2, p1, p2 and perhaps k3 of the images.
    :param images: the folder with the colour images.
    :param max_gap_s: between the two poses that a frame's own is interpolated from.
    """

    intrinsics: tuple[float, float, float, float] | None = None
    distortion: tuple[float, ...] = ()
    images: str = "rgb"
    max_gap_s: float = ranged(0.1, minimum=0.0)


def matches(path: Path) -> bool:
    """Whether a folder looks like one of the benchmark."""
    return (Path(path) / TRUTH).is_file() and not (Path(path) / "poses.txt").is_file()


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The one drive of a folder. :raises DatasetError: something is missing or malformed."""
    if options.intrinsics is None:
        raise DatasetError(f"{path}: expected the intrinsics, which no file holds; give intrinsics=[fx,fy,cx,cy]")
    sequence = open_tum(path, options.intrinsics, options.images, options.max_gap_s)
    if options.distortion:
        camera = replace(sequence.camera, distortion_model="plumb_bob", distortion=options.distortion)
        sequence = replace(sequence, camera=camera)
    return [sequence]


def open_tum(
    source: str | Path,
    intrinsics: tuple[float, float, float, float],
    images: str = "rgb",
    max_gap_s: float = 0.1,
) -> PosedSequence:
    """A folder of the benchmark as a sequence of images as the lens made them.

    :param intrinsics: fx, fy, cx, cy, pixels.
    :param images: the folder with the colour images.
    :param max_gap_s: between the two poses that a frame's own is interpolated from.
    :raises DatasetError: something is missing or malformed (with file and line).
    """
    folder = Path(source)
    paths = [p for p in (folder / images).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise DatasetError(f"{folder / images}: expected images, found none")
    named = sorted((_stamp(path), path) for path in paths)
    stamps = np.array([stamp for stamp, _ in named], dtype=np.int64)
    times, positions, quaternions = _truth(folder / TRUTH)
    after = np.searchsorted(times, stamps, side="left")
    inside = (after < len(times)) & ((after > 0) | (times[np.minimum(after, len(times) - 1)] == stamps))
    after = np.clip(after, 1, len(times) - 1)
    gap = times[after] - times[after - 1]
    kept = np.flatnonzero(inside & (gap <= round(max_gap_s * 1e9)))
    if not len(kept):
        raise DatasetError(
            f"{folder}: expected images between two poses at most {max_gap_s:g} s apart, found none; "
            f"images begin at {stamps[0]} ns, poses at {times[0]} ns"
        )
    after, gap = after[kept], gap[kept]
    share = (stamps[kept] - times[after - 1]) / gap
    T = np.tile(np.eye(4), (len(kept), 1, 1))
    T[:, :3, 3] = positions[after - 1] + share[:, None] * (positions[after] - positions[after - 1])
    T[:, :3, :3] = quaternion_to_matrix(slerp(quaternions[after - 1], quaternions[after], share))
    chosen = tuple(named[i][1] for i in kept)
    first = cv2.imread(str(chosen[0]), cv2.IMREAD_COLOR)
    if first is None:
        raise DatasetError(f"{chosen[0]}: expected an image, found a file that cannot be decoded")
    camera = CameraModel(first.shape[1], first.shape[0], *intrinsics)
    return PosedSequence(folder.name, stamps[kept], T, T_BODY_OPTICAL.copy(), camera, FolderImages(chosen))


def _stamp(path: Path) -> int:
    """Nanoseconds from a name in seconds, without the rounding of a float."""
    whole, _, fraction = path.stem.partition(".")
    if not (whole.isdigit() and (fraction.isdigit() or not fraction)) or len(whole) > 10 or len(fraction) > 9:
        raise DatasetError(f"{path}: expected a name that is a stamp in seconds, found {path.stem!r}")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0") if fraction else 0)


def _truth(path: Path) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Array, Array]:
    """Stamps (N,) ns, positions (N, 3) and quaternions (N, 4) xyzw."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    stamps: list[int] = []
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.split("#")[0].split()
        if not text:
            continue
        try:
            values = [float(v) for v in text]
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: expected numbers, found {line.strip()[:40]!r}") from error
        if len(values) != 8 or not np.isfinite(values).all() or not 0.0 <= values[0] < 1e10:
            raise DatasetError(f"{path}:{number}: expected stamp tx ty tz qx qy qz qw, found {line.strip()[:60]!r}")
        norm = float(np.linalg.norm(values[4:]))
        if not 0.99 < norm < 1.01:
            raise DatasetError(f"{path}:{number}: expected a unit quaternion, found one of length {norm:.3g}")
        stamp = round(values[0] * 1e9)
        if stamps and stamp <= stamps[-1]:
            raise DatasetError(f"{path}:{number}: expected increasing stamps, found {text[0]}")
        stamps.append(stamp)
        rows.append([*values[1:4], *(v / norm for v in values[4:])])
    if len(stamps) < 2:
        raise DatasetError(f"{path}: expected at least two poses, found {len(stamps)}")
    table = np.array(rows, dtype=np.float64)
    return np.array(stamps, dtype=np.int64), table[:, :3], table[:, 3:]
