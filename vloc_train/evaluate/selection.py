"""``name[start:stop:step]``: some frames of a named drive, as protocols write it.

A source may hold several drives. ``name`` is all of them, one after the other in the reader's order, and a slice counts
through them; ``name#2`` is the third alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError

__all__ = ["LEFT_OUT", "MAP", "QUERY_LEFT_OUT", "SPECIAL", "Selection"]

#: The frames that the split at hand has its map from.
MAP = "$map"
#: The frames of the same drives that a fold leaves out of its map because they are too close to its queries.
LEFT_OUT = "$left_out"
#: The frames of the query drives at the moments of those, which are queries of other folds.
QUERY_LEFT_OUT = "$query_left_out"
#: Names that stand for other frames in every fold.
SPECIAL = (MAP, LEFT_OUT, QUERY_LEFT_OUT)
_NAME = r"\$map|\$left_out|\$query_left_out|[A-Za-z_][A-Za-z0-9_]*"
_NUMBER = r"-?\d{1,9}"
_PATTERN = re.compile(rf"({_NAME})(?:#(\d{{1,6}}))?(?:\[({_NUMBER})?:({_NUMBER})?(?::({_NUMBER})?)?\])?")


@dataclass(frozen=True)
class Selection:
    """Frames of the drive ``name``, by a slice as Python has it but forwards only.

    :param drive: one of the drives of a source that has several, counted from 0; None: all.
    :raises ConfigError: a step that is not positive.
    """

    name: str
    start: int | None = None
    stop: int | None = None
    step: int | None = None
    drive: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 1:
            raise ConfigError(f"{self.name}: expected a step of at least 1, found {self.step}")

    @classmethod
    def parse(cls, text: object, where: str) -> Selection:
        """Read ``name``, ``name[start:stop]`` or ``name[start:stop:step]``. :raises ConfigError: it is something else.

        :param where: the place to name in messages.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(
                f"{where}: expected NAME or NAME[START:STOP:STEP], or NAME#DRIVE before the bracket, found {text!r}"
            )
        drive, start, stop, step = (None if group is None else int(group) for group in found.groups()[1:])
        if drive is not None and found[1] in SPECIAL:
            raise ConfigError(f"{where}: expected {found[1]} without a number, found {text!r}")
        try:
            return cls(found[1], start, stop, step, drive)
        except ConfigError as problem:
            raise ConfigError(f"{where}: {problem}") from problem

    def __str__(self) -> str:
        name = self.name if self.drive is None else f"{self.name}#{self.drive}"
        if (self.start, self.stop, self.step) == (None, None, None):
            return name
        start, stop = ("" if v is None else v for v in (self.start, self.stop))
        return f"{name}[{start}:{stop}{'' if self.step is None else f':{self.step}'}]"

    def rows(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers of the frames in a drive of ``count``. :raises ConfigError: none is left."""
        rows = np.arange(count, dtype=np.int64)[self.start : self.stop : self.step]
        if not len(rows):
            raise ConfigError(f"{self}: expected at least one frame, found none of the drive's {count}")
        return rows
