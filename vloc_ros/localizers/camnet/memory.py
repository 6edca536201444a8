"""The frames before a query, for sequences (Section 3.4): the only memory that a localizer of this package may have.

It is switched on by a setting, holds what the localizer itself has computed, and is a function of the stamps: the same
frames in the same order give the same estimates, live and offline, and asking again for the last frame gives the same
answer again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from torch import Tensor

__all__ = ["FrameMemory", "SeenFrame"]


@dataclass(frozen=True)
class SeenFrame:
    """A frame that was localized: its stamp, scene, PRP feature ``(F,)`` and estimated pose ``(7,)``."""

    stamp_ns: int
    scene: str
    feature: Tensor
    pose: Tensor


class FrameMemory:
    """The last ``length`` frames of an uninterrupted drive through one scene.

    :param length: frames that a query is compared with; 0 remembers nothing.
    :param gap_s: a longer pause ends the drive.
    """

    def __init__(self, length: int, gap_s: float) -> None:
        self.length, self._gap_ns = length, int(gap_s * 1e9)
        # One more than is used: when the last frame is asked for again, the ones before it are still there.
        self._frames: deque[SeenFrame] = deque(maxlen=length + 1 if length else 0)

    def __len__(self) -> int:
        return len(self._frames)

    def clear(self) -> None:
        """Forget everything."""
        self._frames.clear()

    def before(self, stamp_ns: int, scene: str) -> list[SeenFrame]:
        """The frames before ``stamp_ns``, oldest first, at most ``length``; a jump in time empties the memory."""
        while self._frames and self._frames[-1].stamp_ns > stamp_ns:
            self.clear()  # time went back: another drive
        last = self._frames[-1] if self._frames else None
        if last is not None and (stamp_ns - last.stamp_ns > self._gap_ns or last.scene != scene):
            self.clear()
        earlier = [frame for frame in self._frames if frame.stamp_ns < stamp_ns]
        return earlier[len(earlier) - self.length :] if len(earlier) > self.length else earlier

    def remember(self, frame: SeenFrame) -> None:
        """Add a frame; one of the same stamp is replaced."""
        if not self.length:
            return
        if self._frames and self._frames[-1].stamp_ns == frame.stamp_ns:
            self._frames.pop()
        self._frames.append(frame)
