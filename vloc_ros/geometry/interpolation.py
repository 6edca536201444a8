"""Poses between stamps: linear in translation, SLERP in rotation, never across a gap or beyond the ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import GeometryError, InterpolationError
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, slerp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = ["PoseTrack"]


class PoseTrack:
    """A sequence of stamped poses of one frame in another.

    :param stamps_ns: [N] int64, strictly increasing.
    :param T: [N, 4, 4] rigid transforms.
    :param max_gap_ns: the widest interval between neighbours to interpolate in; None: no limit. The poses
        at the two ends of a wider gap are still valid at exactly their stamps.
    :raises GeometryError: no poses, sizes that disagree, or stamps that do not increase.
    """

    def __init__(self, stamps_ns: npt.ArrayLike, T: npt.ArrayLike, max_gap_ns: int | None = None) -> None:
        self.stamps_ns = np.asarray(stamps_ns, dtype=np.int64)
        self.T = np.asarray(T, dtype=np.float64)
        self.max_gap_ns = max_gap_ns
        count = self.stamps_ns.size
        if self.stamps_ns.ndim != 1 or count == 0 or self.T.shape != (count, 4, 4):
            raise GeometryError(
                f"pose track: expected N >= 1 stamps and [N, 4, 4] poses, found shapes {self.stamps_ns.shape} "
                f"and {self.T.shape}"
            )
        if not np.isfinite(self.T).all():
            raise GeometryError("pose track: expected finite poses, found NaN or infinity")
        backwards = np.flatnonzero(np.diff(self.stamps_ns) <= 0)
        if backwards.size:
            k = int(backwards[0])
            raise GeometryError(
                f"pose track: expected strictly increasing stamps, found {self.stamps_ns[k + 1]} after "
                f"{self.stamps_ns[k]} at index {k + 1}; sort the poses and drop repeats"
            )
        self._q = matrix_to_quaternion(self.T[:, :3, :3])

    def __len__(self) -> int:
        return int(self.stamps_ns.size)

    @property
    def start_ns(self) -> int:
        """The first stamp."""
        return int(self.stamps_ns[0])

    @property
    def end_ns(self) -> int:
        """The last stamp."""
        return int(self.stamps_ns[-1])

    def _locate(self, stamps: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The index at or before each stamp (clipped), and whether the track covers it."""
        i = np.searchsorted(self.stamps_ns, stamps, side="right") - 1
        inside = (stamps >= self.stamps_ns[0]) & (stamps <= self.stamps_ns[-1])
        i = np.clip(i, 0, len(self) - 1)
        if self.max_gap_ns is not None:
            after = self.stamps_ns[np.minimum(i + 1, len(self) - 1)]
            inside &= (stamps == self.stamps_ns[i]) | (after - self.stamps_ns[i] <= self.max_gap_ns)
        return i, inside

    def covers(self, stamp_ns: int) -> bool:
        """Whether :meth:`at` has an answer."""
        return bool(self._locate(np.asarray([stamp_ns], dtype=np.int64))[1][0])

    def many(self, stamps_ns: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Poses at many stamps: ([M, 4, 4], [M] valid); where not valid, the nearest end of the interval."""
        stamps = np.atleast_1d(np.asarray(stamps_ns, dtype=np.int64))
        i, valid = self._locate(stamps)
        j = np.minimum(i + 1, len(self) - 1)
        # The differences are taken in integers: stamps in float64 would lose 100s of nanoseconds.
        span = np.maximum(self.stamps_ns[j] - self.stamps_ns[i], 1)
        f = np.clip((stamps - self.stamps_ns[i]) / span, 0.0, 1.0)
        f = np.where(valid, f, 0.0)
        t = (1 - f)[:, None] * self.T[i, :3, 3] + f[:, None] * self.T[j, :3, 3]
        out = make_transform(quaternion_to_matrix(slerp(self._q[i], self._q[j], f)), t)
        exact = (f == 0) | (f == 1)
        out[exact] = np.where((f == 1)[:, None, None], self.T[j], self.T[i])[exact]
        return out, valid

    def at(self, stamp_ns: int) -> Array:
        """The pose [4, 4] at a stamp.

        :raises InterpolationError: before the first pose, after the last, or inside a gap.
        """
        T, valid = self.many([stamp_ns])
        if valid[0]:
            return np.asarray(T[0])
        if stamp_ns < self.start_ns or stamp_ns > self.end_ns:
            early = stamp_ns < self.start_ns
            side, end = ("before the first", self.start_ns) if early else ("after the last", self.end_ns)
            raise InterpolationError(
                f"pose track: stamp {stamp_ns} is {abs(stamp_ns - end) / 1e9:.3f} s {side} pose ({end}); "
                "poses are never extrapolated"
            )
        i = int(np.searchsorted(self.stamps_ns, stamp_ns, side="right")) - 1
        raise InterpolationError(
            f"pose track: stamp {stamp_ns} lies in a gap of {(self.stamps_ns[i + 1] - self.stamps_ns[i]) / 1e9:.3f} s, "
            f"longer than the limit of {(self.max_gap_ns or 0) / 1e9:.3f} s"
        )
