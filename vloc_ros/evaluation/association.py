"""Which pose of one trajectory belongs to which of another: by time, within a limit, one to one.

Each pose of the trajectory with fewer poses takes the one of the other that is nearest in time; of equally near ones
the earlier, of equally many poses the estimate asks. That is how evo associates, except that evo lets several poses
take the same one: here the nearest of them keeps it (of equally near ones the first) and the others are counted as
``contested``, so that no pose enters a figure twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import GeometryError

__all__ = ["Association", "associate"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Association:
    """Rows of both trajectories that belong together, (M,) int64 each, both increasing.

    ``contested`` is the number of poses that were left out because a nearer one took theirs.
    """

    estimate: Rows
    reference: Rows
    contested: int = 0

    def __len__(self) -> int:
        return len(self.estimate)


def associate(
    estimate_ns: npt.ArrayLike, reference_ns: npt.ArrayLike, max_difference_ns: int = 10_000_000, offset_ns: int = 0
) -> Association:
    """Associate two trajectories by their stamps, in integers: a float64 of seconds since 1970 is off by 200 ns.

    :param estimate_ns: (N,) strictly increasing nanoseconds.
    :param reference_ns: (M,) strictly increasing nanoseconds.
    :param max_difference_ns: stamps further apart than this do not belong together.
    :param offset_ns: added to the stamps of the estimate.
    :raises GeometryError: stamps that do not increase, or a negative limit.
    """
    estimate = _increasing(estimate_ns, "estimate") + np.int64(offset_ns)
    reference = _increasing(reference_ns, "reference")
    if max_difference_ns < 0:
        raise GeometryError(f"association: expected a limit of at least 0 ns, found {max_difference_ns}")
    swap = len(estimate) > len(reference)
    few, many = (reference, estimate) if swap else (estimate, reference)
    if not len(few):
        none = np.zeros(0, dtype=np.int64)
        return Association(none, none)
    rows, taken, contested = _nearest_once(few, many, max_difference_ns)
    return Association(taken, rows, contested) if swap else Association(rows, taken, contested)


def _nearest_once(few: Rows, many: Rows, limit_ns: int) -> tuple[Rows, Rows, int]:
    """Rows of ``few``, the rows of ``many`` that are theirs, and how many of ``few`` lost theirs to a nearer one."""
    after = np.clip(np.searchsorted(many, few, side="left"), 0, len(many) - 1)
    before = np.maximum(after - 1, 0)
    to_after, to_before = np.abs(many[after] - few), np.abs(few - many[before])
    chosen = np.where(to_before <= to_after, before, after)
    distance = np.minimum(to_before, to_after)
    rows = np.flatnonzero(distance <= limit_ns)
    # Sorted by (partner, distance, row), the first of each partner keeps it.
    order = rows[np.lexsort((rows, distance[rows], chosen[rows]))]
    partners, first = np.unique(chosen[order], return_index=True)
    return order[first].astype(np.int64), partners.astype(np.int64), len(rows) - len(first)


def _increasing(stamps_ns: npt.ArrayLike, what: str) -> Rows:
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    if stamps.ndim != 1:
        raise GeometryError(f"association: {what}: expected stamps (N,), found shape {stamps.shape}")
    backwards = np.flatnonzero(np.diff(stamps) <= 0)
    if len(backwards):
        k = int(backwards[0])
        raise GeometryError(
            f"association: {what}: expected increasing stamps, found {stamps[k + 1]} after {stamps[k]} at index {k + 1}"
        )
    return stamps
