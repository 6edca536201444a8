"""Text tables of data sets, row by row: every complaint names the file and the line.

Stamps are read as text into integer nanoseconds: a float64 of seconds since 1970 is off by up to 200 ns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError, GeometryError
from vloc_ros.geometry.rotations import nearest_rotation, quaternion_to_matrix
from vloc_ros.types import Array, check_transform

__all__ = [
    "EARLIEST_NS",
    "LATEST_NS",
    "Row",
    "read_rows",
    "stamp_in_ns",
    "stamp_of",
    "transform_from_matrix",
    "transform_from_quaternion",
]

#: Digits after the point of a second, by unit.
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
#: From 1990 to 2100; a clock of another unit is far outside.
EARLIEST_NS, _NEWEST_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9
#: No stamp of any clock is above this: what an int64 holds, with room for an offset.
LATEST_NS = 2**62
#: Digits of other scripts and of absurd numbers are none: int() of them fails or gives what no array holds.
_DECIMAL = re.compile(r"([0-9]{1,40})(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2}))?")


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
    with path.open(encoding="utf-8", errors="replace") as file:
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
    """``T`` (4, 4) of a translation and a quaternion, normalised; None (a fault) where it is no unit quaternion."""
    norm = float(np.linalg.norm(quaternion_xyzw))
    if not abs(norm - 1.0) <= tolerance:
        problems.fault(
            "quaternion that is not of unit length",
            f"{where}: expected a unit quaternion, found one of length {norm:.4g}; correct the line, or --keep-going",
        )
        return None
    T = np.eye(4)
    T[:3, :3] = quaternion_to_matrix(np.asarray(quaternion_xyzw, dtype=np.float64) / norm)
    T[:3, 3] = translation
    return T


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


def _numbers_of(allowed: Sequence[int]) -> str:
    if len(allowed) > 2 and allowed[-1] - allowed[0] == len(allowed) - 1:
        return f"{allowed[0]} to {allowed[-1]}"
    return " or ".join(str(n) for n in allowed)


def _short(fields: Sequence[str]) -> str:
    text = " ".join(fields)
    return repr(text if len(text) <= 60 else text[:57] + "...")
