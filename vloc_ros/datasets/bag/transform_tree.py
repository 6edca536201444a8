"""TF, offline: every transform of a bag in memory, and what tf2's buffer would answer from it.

As in tf2, each frame has one parent at a time; whether a frame is static is decided by the first transform that names
it; the newest static transform replaces the ones before it, from when it was recorded; a moving one is interpolated
between its neighbours and never extrapolated. Unlike tf2's, the memory does not end after ten seconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np

from vloc_ros.errors import BagError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.types import Array

__all__ = ["MovingFrame", "TransformTree"]


class MovingFrame:
    """Samples ``T_parent_frame`` of one frame; they may come in any order, the last of a stamp wins."""

    def __init__(self) -> None:
        self._samples: dict[int, tuple[str, Array]] = {}
        self._stamps: list[int] = []
        self._track: PoseTrack | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, stamp_ns: int, T: Array, parent: str = "") -> None:
        """One sample."""
        self._samples[stamp_ns] = parent, T
        self._track = None

    def at(self, stamp_ns: int, max_gap_ns: int | None = None, clamp: bool = False) -> tuple[str, Array] | None:
        """Parent and ``T_parent_frame`` at a stamp; None outside the samples or inside a gap.

        Between samples of different parents the earlier one counts, as in tf2.

        :param max_gap_ns: the widest interval to interpolate in; None: any.
        :param clamp: outside the samples the nearest one counts.
        """
        if not self._samples:
            return None
        if self._track is None:
            self._stamps = sorted(self._samples)
            poses = np.stack([self._samples[s][1] for s in self._stamps])
            self._track = PoseTrack(np.array(self._stamps, dtype=np.int64), poses)
        stamps = self._stamps
        if clamp:
            stamp_ns = min(max(stamp_ns, stamps[0]), stamps[-1])
        after = bisect.bisect_left(stamps, stamp_ns)
        if after < len(stamps) and stamps[after] == stamp_ns:
            return self._samples[stamp_ns]
        if after in (0, len(stamps)):
            return None
        before, behind = stamps[after - 1], stamps[after]
        if max_gap_ns is not None and behind - before > max_gap_ns:
            return None
        if self._samples[before][0] != self._samples[behind][0]:
            return self._samples[before]
        return self._samples[before][0], self._track.at(stamp_ns)


class TransformTree:
    """Static and moving transforms between named frames.

    ``max_gap_ns`` bounds how far apart two stamps may be for a moving transform to be interpolated between them.
    """

    def __init__(self, max_gap_ns: int = 500_000_000) -> None:
        self._max_gap_ns = max_gap_ns
        self._static: dict[str, list[tuple[int, str, Array]]] = {}
        self._moving: dict[str, MovingFrame] = {}
        self._known: set[tuple[str, str]] = set()
        self._connected: dict[str, set[str]] = {}

    def add_static(self, parent: str, child: str, T_parent_child: Array, time_ns: int = 0) -> None:
        """Add a transform that holds from ``time_ns`` (of recording) on."""
        self._notice(parent, child)
        if child in self._moving:
            self._moving[child].add(time_ns, T_parent_child, parent)
        else:
            bisect.insort(self._static.setdefault(child, []), (time_ns, parent, T_parent_child), key=lambda row: row[0])

    def add(self, parent: str, child: str, stamp_ns: int, T_parent_child: Array) -> None:
        """Add one sample of a moving transform."""
        self._notice(parent, child)
        if child in self._static:
            self.add_static(parent, child, T_parent_child, stamp_ns)
        else:
            self._moving.setdefault(child, MovingFrame()).add(stamp_ns, T_parent_child, parent)

    @property
    def frames(self) -> list[str]:
        """All frame names, sorted."""
        return sorted({name for edge in self._known for name in edge})

    def check_connected(self, parent: str, child: str) -> None:
        """:raises BagError: no transforms, whenever recorded, lead from one frame to the other."""
        if child not in self._reachable(parent):
            raise BagError(
                f"no transform from {child!r} to {parent!r}; /tf and /tf_static connect {self.frames or 'nothing'}"
            )

    def is_static(self, parent: str, child: str) -> bool:
        """Whether only static transforms lie between the frames.

        :raises BagError: the frames are not connected.
        """
        self.check_connected(parent, child)
        return child in self._fixed_to(parent)

    def at(
        self, parent: str, child: str, stamp_ns: int, time_ns: int | None = None, latest: bool = False
    ) -> Array | None:
        """``T_parent_child`` at a stamp, interpolated; None outside the samples or inside a gap.

        :param time_ns: static transforms that were recorded later do not count yet; None: the newest do.
        :param latest: as tf2 answers for "the latest there is": outside the samples of a moving transform the nearest
            one counts, and no gap is too wide.
        :raises BagError: the frames are not connected.
        """
        self.check_connected(parent, child)
        above = dict(self._climb(parent, stamp_ns, time_ns, latest))
        for frame, T_frame_child in self._climb(child, stamp_ns, time_ns, latest):
            if frame in above:
                out: Array = np.linalg.inv(above[frame]) @ T_frame_child
                return out
        return None

    def mountings(self, base: str) -> dict[str, Array]:
        """``T_base_frame`` of every other frame that is fixed to ``base``, by name, in sorted order."""
        out = {}
        for name in sorted(self._fixed_to(base) - {base}):
            T = self.at(base, name, 0)
            if T is not None:
                out[name] = T
        return out

    def _climb(self, frame: str, stamp_ns: int, time_ns: int | None, latest: bool) -> Iterator[tuple[str, Array]]:
        """``(frame, T_frame_start)`` of a frame and of what is above it, as far as it is known at a stamp."""
        T, seen = np.eye(4), set()
        while frame not in seen:
            seen.add(frame)
            yield frame, T
            step = self._step(frame, stamp_ns, time_ns, latest)
            if step is None:
                return
            frame, T = step[0], step[1] @ T

    def _step(self, frame: str, stamp_ns: int, time_ns: int | None, latest: bool) -> tuple[str, Array] | None:
        rows = self._static.get(frame)
        if rows is not None:
            number = len(rows) if time_ns is None else bisect.bisect_right(rows, time_ns, key=lambda row: row[0])
            _, parent, T = rows[max(number - 1, 0)]
            return parent, T
        moving = self._moving.get(frame)
        return None if moving is None else moving.at(stamp_ns, None if latest else self._max_gap_ns, latest)

    def _notice(self, parent: str, child: str) -> None:
        if (parent, child) not in self._known:
            self._known.add((parent, child))
            self._connected.clear()

    def _reachable(self, start: str) -> set[str]:
        if start not in self._connected:
            self._connected[start] = _spread(start, [(child, {parent}) for parent, child in self._known])
        return self._connected[start]

    def _fixed_to(self, base: str) -> set[str]:
        return _spread(base, [(child, {rows[-1][1]}) for child, rows in self._static.items()])


def _spread(start: str, edges: list[tuple[str, set[str]]]) -> set[str]:
    """Everything that edges, walked both ways, connect with a frame."""
    neighbours: dict[str, set[str]] = {}
    for child, parents in edges:
        neighbours.setdefault(child, set()).update(parents)
        for parent in parents:
            neighbours.setdefault(parent, set()).add(child)
    seen, waiting = {start}, [start]
    while waiting:
        new = neighbours.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen
