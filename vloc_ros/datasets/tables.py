"""Text tables of data sets, row by row: every complaint names the file and the line.

Stamps are read as text into integer nanoseconds: a float64 of seconds since 1970 is off by up to 200 ns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES, is_file
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError, GeometryError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import nearest_rotation, quaternion_to_matrix
from vloc_ros.types import FARTHEST_M, Array, check_transform
from vloc_ros.yaml_text import parse_yaml

__all__ = [
    "EARLIEST_NS",
    "LATEST_NS",
    "Row",
    "covered_frames",
    "images_in",
    "in_order",
    "listed_frames",
    "natural_key",
    "pose_samples",
    "read_rows",
    "read_yaml",
    "stamp_in_ns",
    "stamp_of",
    "too_far",
    "track_of",
    "transform_from_matrix",
    "transform_from_quaternion",
]
#: From 1990 to 2100; a clock of another unit is far outside.
EARLIEST_NS, _NEWEST_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9
#: No stamp of any clock is above this: what an int64 holds, with room for an offset.
LATEST_NS = 2**62
#: Digits after the point of a second, by unit.
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
#: Digits of other scripts and of absurd numbers are none: int() of them fails or gives what no array holds.
_DECIMAL = re.compile(r"([0-9]{1,40})(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2}))?")
#: A number with digits behind its point, as stamps in seconds have.
_POINT = re.compile(r"[0-9]\.[0-9]")
#: Calibrations are some kB.
_LARGEST_YAML = 1 << 20
_MISSING = "listed image that is missing"
_XYZW = {"xyzw": [0, 1, 2, 3], "wxyz": [1, 2, 3, 0]}


@dataclass(frozen=True)
class Row:
    """One line of a table: its number from 1 on, and its fields as text."""

    path: Path
    number: int
    fields: tuple[str, ...]

    @property
    def where(self) -> str:
        """``path:line``, for messages."""
        return f"{self.path}:{self.number}"

    def numbers(self, problems: Problems, start: int = 0, stop: int | None = None) -> Array | None:
        """Fields ``start`` to ``stop`` as finite float64; None (a fault) where one is not."""
        fields = self.fields[start:stop]
        try:
            values = np.array([float(field) for field in fields], dtype=np.float64)
        except ValueError:
            problems.fault(
                "row with text for a number",
                f"{self.where}: expected numbers, found {_short(fields)}; correct the line, or --keep-going",
            )
            return None
        if not np.isfinite(values).all():
            problems.fault(
                "row with NaN or infinity",
                f"{self.where}: expected finite numbers, found {_short(fields)}; remove the line, or --keep-going",
            )
            return None
        return values


def read_rows(
    path: Path,
    problems: Problems,
    columns: int | Sequence[int],
    separator: str | None = None,
    header_lines: int = 0,
    comment: str = "#",
) -> Iterator[Row]:
    """The rows of a text file; empty lines and comments are passed over, rows of another length are faults.

    :param columns: how many fields a row has, or which numbers of fields are allowed.
    :param separator: ``","``, or None for white space.
    :param header_lines: so many lines at the top are no data.
    :raises DatasetError: no such file, or a faulty row (unless ``problems`` keeps going).
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    allowed = (columns,) if isinstance(columns, int) else tuple(columns)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.split(comment)[0].strip() if comment else line.strip()
            if number <= header_lines or not text:
                continue
            fields = tuple(field.strip() for field in text.split(separator))
            if len(fields) not in allowed:
                problems.fault(
                    "row of the wrong length",
                    f"{path}:{number}: expected {_numbers_of(allowed)} fields, found {len(fields)}: {_short(fields)}; "
                    "correct the line, or --keep-going",
                )
                continue
            yield Row(path, number, fields)


def _numbers_of(allowed: Sequence[int]) -> str:
    if len(allowed) > 2 and allowed[-1] - allowed[0] == len(allowed) - 1:
        return f"{allowed[0]} to {allowed[-1]}"
    return " or ".join(str(n) for n in allowed)


def _short(fields: Sequence[str]) -> str:
    text = " ".join(fields)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of a calibration. :raises DatasetError: no such file, one too large, or no YAML mapping."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it holds the calibration: complete the data set")
    if path.stat().st_size > _LARGEST_YAML:
        raise DatasetError(f"{path}: expected a calibration, found {path.stat().st_size} bytes")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if text.startswith("%YAML:"):  # as OpenCV writes it, which is no YAML
        text = text.partition("\n")[2]
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise DatasetError(f"{path}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected names with values, found {type(content).__name__}")
    return content


def stamp_in_ns(text: str, unit: str, where: str, *, since_1970: bool = True) -> int:
    """A decimal stamp in ``unit`` (s, ms, us, ns) as integer nanoseconds, without the rounding of a float.

    Seconds may have an exponent, as KITTI and evo write them; a stamp in a smaller unit has lost digits by it.

    :param since_1970: the clock counts from 1970, so that a stamp of another unit can be told; else any stamp from 0
        to :data:`LATEST_NS` is taken.
    :raises DatasetError: not a decimal number, or a stamp that another unit would explain.
    """
    text = text.strip()
    found = _DECIMAL.fullmatch(text)
    if found is None or (found[3] and unit != "s"):
        raise DatasetError(f"{where}: expected a stamp in {unit}, found {text[:40]!r}")
    stamp = _nanoseconds(found, unit)
    earliest, latest = (EARLIEST_NS, _NEWEST_NS) if since_1970 else (0, LATEST_NS)
    if not earliest <= stamp <= latest:
        fits = [u for u in _DIGITS if EARLIEST_NS <= _nanoseconds(found, u) <= _NEWEST_NS]
        hint = f"; in {fits[0]} it would be one of our time: check the unit" if fits else ""
        clock = " since 1970" if since_1970 else ""
        raise DatasetError(f"{where}: expected a stamp in {unit}{clock}, found {text[:40]!r}{hint}")
    return stamp


def _nanoseconds(found: re.Match[str], unit: str) -> int:
    """By moving the decimal point; what is behind it then is rounded."""
    digits = found[1] + (found[2] or "")
    point = len(found[1]) + int(found[3] or 0) + _DIGITS[unit]
    if point < 0:
        return 0
    return int(digits[:point].ljust(point, "0") or "0") + (digits[point : point + 1] >= "5")


def stamp_of(row: Row, problems: Problems, unit: str, column: int = 0, *, since_1970: bool = True) -> int | None:
    """The stamp in a column, ns; None (a fault) where there is none, or one of another unit."""
    try:
        return stamp_in_ns(row.fields[column], unit, row.where, since_1970=since_1970)
    except DatasetError as error:
        problems.fault("stamp that cannot be read", str(error))
        return None


def transform_from_quaternion(
    translation: Array, quaternion_xyzw: Array, where: str, problems: Problems, tolerance: float = 1e-2
) -> Array | None:
    """``T`` (4, 4) of a translation and a quaternion, normalised; None (a fault) where it is none."""
    norm = float(np.linalg.norm(quaternion_xyzw))
    if not abs(norm - 1.0) <= tolerance:
        problems.fault(
            "quaternion that is not of unit length",
            f"{where}: expected a unit quaternion, found one of length {norm:.4g}; correct the line, or --keep-going",
        )
        return None
    if too_far(translation, where, problems):
        return None
    T = np.eye(4)
    T[:3, :3] = quaternion_to_matrix(np.asarray(quaternion_xyzw, dtype=np.float64) / norm)
    T[:3, 3] = translation
    return T


def too_far(position: Array, where: str, problems: Problems) -> bool:
    """Whether a position is further away than any place is, which is a fault."""
    limit = FARTHEST_M / 2  # two places are at most FARTHEST_M apart then, whichever is the map's origin
    far = float(np.abs(position).max()) > limit
    if far:
        problems.fault(
            "position that is no place",
            f"{where}: expected a position within {limit:g} m, found {_short([f'{v:g}' for v in position])}; "
            "correct the line, or --keep-going",
        )
    return far


def transform_from_matrix(values: npt.ArrayLike, where: str) -> Array:
    """``T`` (4, 4), its rotation, which files hold with few digits, made exactly one.

    :raises DatasetError: no rigid transform; the message begins with ``where``.
    """
    try:
        T = check_transform(values, where).copy()
    except GeometryError as error:
        raise DatasetError(str(error)) from error
    T[:3, :3] = nearest_rotation(T[:3, :3])
    T[3] = 0.0, 0.0, 0.0, 1.0
    return T


def pose_samples(
    rows: Iterable[Row],
    problems: Problems,
    unit: str,
    quaternion: Literal["xyzw", "wxyz"] = "xyzw",
    *,
    since_1970: bool = True,
) -> list[tuple[int, Array, str]]:
    """``(stamp_ns, T, where)`` of rows ``stamp tx ty tz`` and a quaternion, in file order; faulty rows are left out."""
    samples = []
    for row in rows:
        stamp = stamp_of(row, problems, unit, since_1970=since_1970)
        values = None if stamp is None else row.numbers(problems, 1, 8)
        if stamp is None or values is None:
            continue
        T = transform_from_quaternion(values[:3], values[3:][_XYZW[quaternion]], row.where, problems)
        if T is not None:
            samples.append((stamp, T, row.where))
    return samples


def track_of(
    samples: Sequence[tuple[int, Array, str]], what: str, problems: Problems, max_gap_s: float = 0.5
) -> PoseTrack:
    """A track of ``(stamp_ns, T, where)`` rows in file order.

    A stamp that does not come after the one before is a fault: sorted and rid of repeats only with ``keep_going``.

    :param what: the file, for messages.
    :param max_gap_s: poses further apart are not interpolated between.
    :raises DatasetError: no rows, or stamps that do not increase.
    """
    kept: dict[int, Array] = {}
    last = -1
    for stamp, T, where in samples:
        if stamp in kept:
            problems.fault("repeated stamp", f"{where}: expected one pose a stamp, found {stamp} ns twice")
            continue
        if stamp < last:
            problems.fault(
                "stamp out of order",
                f"{where}: expected increasing stamps, found {stamp} ns after {last} ns; sort it, or --keep-going",
            )
        kept[stamp] = T
        last = max(last, stamp)
    if not kept:
        raise DatasetError(f"{what}: expected poses, found none that can be used")
    stamps = sorted(kept)
    return PoseTrack(np.array(stamps, dtype=np.int64), np.stack([kept[s] for s in stamps]), round(max_gap_s * 1e9))


def covered_frames(
    stamps_ns: npt.NDArray[np.int64], track: PoseTrack, what: str, problems: Problems
) -> tuple[npt.NDArray[np.int64], Array]:
    """Which of the images at ``stamps_ns`` (N,) have a pose, and the poses (M, 4, 4) by SLERP and linear interpolation.

    Images before the first pose, after the last, or in a gap of the track are counted as skipped.

    :raises DatasetError: not one image has a pose.
    """
    T, valid = track.many(stamps_ns)
    kept = np.flatnonzero(valid).astype(np.int64)
    if not len(kept):
        gap = "" if track.max_gap_ns is None else f" at most {track.max_gap_ns / 1e9:g} s apart"
        raise DatasetError(
            f"{what}: expected images while poses were recorded{gap}, found none: images from {int(stamps_ns[0])} to "
            f"{int(stamps_ns[-1])} ns and poses from {track.start_ns} to {track.end_ns} ns"
        )
    missing = len(stamps_ns) - len(kept)
    if missing:
        problems.skip("image without a pose", f"{what}: {missing} of {len(stamps_ns)} images have no pose", missing)
    return kept, T[kept]


def listed_frames(
    rows: Iterable[Row],
    folder: Path,
    problems: Problems,
    unit: str,
    *,
    since_1970: bool = True,
    partial: bool = False,
) -> tuple[npt.NDArray[np.int64], list[Path]]:
    """Stamps (N,) ns, increasing, and image files of rows ``stamp file``, the files relative to ``folder``.

    A repeated stamp, one out of order and a file that is not there are faults.

    :param partial: such folders are often cut down: a missing file is told and counted, but no fault, and one that
        has been encoded anew (.jpg for .png) is taken.
    :raises DatasetError: as above, or not one file is there.
    """
    found: dict[int, Path] = {}
    missing: list[str] = []
    last, listed = -1, 0
    for row in rows:
        listed += 1
        stamp = stamp_of(row, problems, unit, since_1970=since_1970)
        if stamp is None:
            continue
        if stamp in found:
            problems.fault("repeated stamp", f"{row.where}: expected one image a stamp, found {stamp} ns twice")
            continue
        if stamp < last:
            problems.fault(
                "stamp out of order",
                f"{row.where}: expected increasing stamps, found {stamp} ns after {last} ns; sort it, or --keep-going",
            )
        last = max(last, stamp)
        path = folder / row.fields[1]
        if not is_file(path) and partial and path.name:
            path = next((p for s in IMAGE_SUFFIXES if is_file(p := path.with_suffix(s))), path)
        if is_file(path):
            found[stamp] = path
            continue
        missing.append(f"{row.where}: expected the image {path}, found no file")
        if not partial:
            problems.fault(_MISSING, f"{missing[-1]}; complete the data set, or --keep-going")
    if not found:
        raise DatasetError(f"{folder}: expected images, found none of {listed} that are listed")
    if partial and missing:
        problems.skip(_MISSING, f"{missing[0]}; {len(missing)} of {listed} listed images are not there", len(missing))
    stamps = sorted(found)
    return np.array(stamps, dtype=np.int64), [found[s] for s in stamps]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name. :raises DatasetError: there are none."""
    paths = [p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise DatasetError(f"{folder}: expected images, found none")
    return sorted(paths, key=lambda path: natural_key(path.name))


def in_order(names: Sequence[str], where: str) -> list[str]:
    """Names in the order of the numbers in them.

    :raises DatasetError: numbers with a point, of different length, that are in one order as decimals (1.25 before
        1.5) and in another as counters (1.5 before 1.25): nobody can know which is meant.
    """
    ordered = sorted(names, key=natural_key)
    for before, after in pairwise(ordered):
        if before > after and _POINT.search(before) and _POINT.search(after):
            raise DatasetError(
                f"{where}: expected names in one order, found {before} and {after}, which are in another order as "
                "decimals than as counters; write as many digits in every name"
            )
    return ordered


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sorting key by which ``frame_8`` comes before ``frame_19``: digits count as numbers."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(1, int(text), text) if k % 2 else (0, 0, text) for k, text in enumerate(parts)]
