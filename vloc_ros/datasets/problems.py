"""What a reader does about a fault in its files: stop with a message, or skip, count and go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from vloc_ros.errors import DatasetError

__all__ = ["Problems"]

_log = logging.getLogger(__name__)


class Problems:
    """The faults found while a data set is read.

    :param keep_going: skip what is faulty and count it, instead of stopping at the first.
    :ivar counts: what was skipped, by kind (``"image cannot be decoded"``), in the order of first occurrence.
    """

    #: So many faults of a kind are told one by one, the rest by their number alone.
    TOLD = 5

    def __init__(self, keep_going: bool = False) -> None:
        self.keep_going = keep_going
        self.counts: dict[str, int] = {}

    def fault(self, kind: str, message: str) -> None:
        """Something is wrong; ``message`` says where, what was expected, what was found and what to do.

        The caller skips the thing when this returns.

        :raises DatasetError: ``message``, unless ``keep_going``.
        """
        if not self.keep_going:
            raise DatasetError(message)
        self.skip(kind, message)

    def skip(self, kind: str, message: str, count: int = 1) -> None:
        """Something is left out that is no fault (an image before the first pose): counted, never silent."""
        before = self.counts.get(kind, 0)
        self.counts[kind] = before + count
        if before < self.TOLD:
            _log.warning("%s", message)

    def since(self, before: Mapping[str, int]) -> dict[str, int]:
        """What has been skipped since ``before``, a copy of :attr:`counts` then: what one drive of several lacks."""
        return {kind: n - before.get(kind, 0) for kind, n in self.counts.items() if n > before.get(kind, 0)}

    def summary(self) -> str:
        """One line: what was left out and how often; empty when nothing was."""
        return ", ".join(f"{count} x {kind}" for kind, count in self.counts.items())
