"""Text tables of data sets, row by row: every complaint names the file and the line.

Stamps are read as text into integer nanoseconds: a float64 of seconds since 1970 is off by up to 200 ns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.types import Array

__all__ = ["Row", "read_rows", "stamp_in_ns", "transform_from_quaternion"]

#: Digits after the point of a second, by unit.
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
#: From 1990 to 2100; a clock of another unit is far outside.
_EARLIEST_NS, _LATEST_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9


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
            problems.fault("row with text for a number", f"{self.where}: expected numbers, found {_short(fields)}")
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
                wanted = " or ".join(str(n) for n in allowed)
                problems.fault(
                    "row of the wrong length",
                    f"{path}:{number}: expected {wanted} fields, found {len(fields)}: {_short(fields)}",
                )
                continue
            yield Row(path, number, fields)


def stamp_in_ns(text: str, unit: str, where: str, *, since_1970: bool = True) -> int:
    """A decimal stamp in ``unit`` (s, ms, us, ns) as integer nanoseconds, without the rounding of a float.

    :param since_1970: the clock counts from 1970, so that a stamp of another unit can be told; else any stamp above
        or at 0 is taken.
    :raises DatasetError: not a decimal number, or a stamp that another unit would explain.
    """
    digits = _DIGITS[unit]
    whole, _, fraction = text.strip().partition(".")
    if not whole.isdigit() or not whole.isascii() or (fraction and not (fraction.isdigit() and fraction.isascii())):
        raise DatasetError(f"{where}: expected a stamp in {unit}, found {text.strip()[:40]!r}")
    kept, rest = fraction[:digits].ljust(digits, "0"), fraction[digits:]
    stamp = int(whole + kept) + (1 if rest and int(rest[0]) >= 5 else 0)
    if since_1970 and not _EARLIEST_NS <= stamp <= _LATEST_NS:
        fits = [u for u, d in _DIGITS.items() if whole and _EARLIEST_NS <= int(whole) * 10**d <= _LATEST_NS]
        hint = f"; in {fits[0]} it would be one of our time: check the unit" if fits else ""
        raise DatasetError(f"{where}: expected a stamp in {unit} since 1970, found {text.strip()[:40]!r}{hint}")
    return stamp


def transform_from_quaternion(
    translation: Array, quaternion_xyzw: Array, where: str, problems: Problems, tolerance: float = 1e-2
) -> Array | None:
    """``T`` (4, 4) of a translation and a quaternion, normalised; None (a fault) where it is no unit quaternion."""
    norm = float(np.linalg.norm(quaternion_xyzw))
    if not abs(norm - 1.0) <= tolerance:
        problems.fault(
            "quaternion that is not of unit length",
            f"{where}: expected a unit quaternion, found one of length {norm:.4g}",
        )
        return None
    T = np.eye(4)
    T[:3, :3] = quaternion_to_matrix(np.asarray(quaternion_xyzw, dtype=np.float64) / norm)
    T[:3, 3] = translation
    return T


def _short(fields: Sequence[str]) -> str:
    text = " ".join(fields)
    return repr(text if len(text) <= 60 else text[:57] + "...")
