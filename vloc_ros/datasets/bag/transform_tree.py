"""TF, offline: every transform of a bag in memory, looked up at any stamp."""

from __future__ import annotations

from collections import deque

import numpy as np

from vloc_ros.errors import BagError, InterpolationError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.types import Array

__all__ = ["TransformTree"]


class TransformTree:
    """Static and moving transforms between named frames.

    ``max_gap_ns`` bounds how far apart two stamps may be for a moving transform to be interpolated between them.
    """

    def __init__(self, max_gap_ns: int = 500_000_000) -> None:
        self._max_gap_ns = max_gap_ns
        self._static: dict[tuple[str, str], Array] = {}
        self._moving: dict[tuple[str, str], dict[int, Array]] = {}
        self._tracks: dict[tuple[str, str], PoseTrack] = {}

    def add_static(self, parent: str, child: str, T_parent_child: Array) -> None:
        """Add a transform that never changes."""
        self._static[parent, child] = T_parent_child

    def add(self, parent: str, child: str, stamp_ns: int, T_parent_child: Array) -> None:
        """Add one sample of a moving transform; samples may come in any order, the last of a stamp wins."""
        self._moving.setdefault((parent, child), {})[stamp_ns] = T_parent_child
        self._tracks.pop((parent, child), None)

    @property
    def frames(self) -> list[str]:
        """All frame names, sorted."""
        return sorted({name for edge in (*self._static, *self._moving) for name in edge})

    def path(self, parent: str, child: str) -> list[tuple[tuple[str, str], bool]]:
        """The edges from ``parent`` to ``child``, each with whether it is walked downwards; fewest edges first.

        :raises BagError: the frames are not connected.
        """
        edges: dict[str, list[tuple[str, tuple[str, str], bool]]] = {}
        for edge in (*self._static, *self._moving):
            edges.setdefault(edge[0], []).append((edge[1], edge, True))
            edges.setdefault(edge[1], []).append((edge[0], edge, False))
        queue: deque[tuple[str, list[tuple[tuple[str, str], bool]]]] = deque([(parent, [])])
        seen = {parent}
        while queue:
            frame, path = queue.popleft()
            if frame == child:
                return path
            for name, edge, down in edges.get(frame, []):
                if name not in seen:
                    seen.add(name)
                    queue.append((name, [*path, (edge, down)]))
        raise BagError(
            f"no transform from {child!r} to {parent!r}; /tf and /tf_static connect {self.frames or 'nothing'}"
        )

    def is_static(self, parent: str, child: str) -> bool:
        """Whether only static transforms lie between the frames.

        :raises BagError: the frames are not connected.
        """
        return all(edge in self._static for edge, _ in self.path(parent, child))

    def static(self, parent: str, child: str) -> Array:
        """``T_parent_child`` over static transforms only.

        :raises BagError: not connected, or only over a moving transform.
        """
        T = np.eye(4)
        for edge, down in self.path(parent, child):
            if edge not in self._static:
                raise BagError(
                    f"{child!r} moves relative to {parent!r} (by {edge[0]} -> {edge[1]}); expected a fixed mounting"
                )
            step = self._static[edge]
            T = T @ (step if down else np.linalg.inv(step))
        return T

    def mountings(self, base: str) -> dict[str, Array]:
        """``T_base_frame`` of every other frame that is fixed to ``base``, by name, in sorted order."""
        fixed: dict[str, Array] = {base: np.eye(4)}
        queue = deque([base])
        while queue:
            frame = queue.popleft()
            for (parent, child), T in self._static.items():
                for name, other, step in ((parent, child, T), (child, parent, np.linalg.inv(T))):
                    if name == frame and other not in fixed:
                        fixed[other] = fixed[frame] @ step
                        queue.append(other)
        return {name: fixed[name] for name in sorted(fixed) if name != base}

    def at(self, parent: str, child: str, stamp_ns: int) -> Array | None:
        """``T_parent_child`` at a stamp, interpolated; None outside the samples or inside a gap.

        :raises BagError: the frames are not connected.
        """
        T = np.eye(4)
        for edge, down in self.path(parent, child):
            if edge in self._static:
                step = self._static[edge]
            else:
                try:
                    step = self._track(edge).at(stamp_ns)
                except InterpolationError:
                    return None
            T = T @ (step if down else np.linalg.inv(step))
        return T

    def _track(self, edge: tuple[str, str]) -> PoseTrack:
        if edge not in self._tracks:
            samples = sorted(self._moving[edge].items())
            stamps = np.array([stamp for stamp, _ in samples], dtype=np.int64)
            self._tracks[edge] = PoseTrack(stamps, np.stack([T for _, T in samples]), self._max_gap_ns)
        return self._tracks[edge]
