"""map -> odom that approaches each correction instead of jumping to it: what controllers downstream want of TF."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import so3_exp, so3_log
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.tracking.correction import Correction
from vloc_ros.types import Array

__all__ = ["SmoothCorrection"]

#: Without a new correction the drift goes on for so long, s: whether the vehicle still moves is not known then.
DRIFT_ALONE_S = 1.0


class SmoothCorrection:
    """Follows a target exponentially, as seen at the vehicle.

    The odometry's origin may be kilometres away, where a tenth of a degree is metres: what must not jump is the base.
    So its position moves on a straight line, and the rotation on the shortest way.

    Odometry that drifts makes a target that runs away, 5 cm/s at 5 m/s and 1 %. The correction says how fast: that is
    made up for since its frame was taken, between two corrections, and for a stamp ahead.

    :param time_constant_s: after which 63 % of a correction is made; 0: at once.
    :param jump_m, jump_deg: larger corrections (a relocalization, a recovery) are made at once: on the way the
        vehicle would be in places where it never was.
    """

    def __init__(self, time_constant_s: float, jump_m: float, jump_deg: float) -> None:
        self._tau, self._jump_m, self._jump_rad = time_constant_s, jump_m, np.radians(jump_deg)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the vehicle is lost, or time starts anew."""
        self._now: Array | None = None
        self._target: Array | None = None
        #: Where the base is in the odometry's frame, how fast the target moves there, and the seconds since its frame.
        self._base, self._rate, self._since = np.zeros(3), np.zeros(6), 0.0

    def aim(self, correction: Correction, age_s: float = 0.0) -> None:
        """A new correction.

        :param age_s: seconds since its frame was taken.
        """
        self._base, self._rate, self._since = correction.T_odom_base[:3, 3], correction.rate, 0.0
        self._target = correction.T_map_odom
        self._target = self._gone(self._target, self._drifting(max(age_s, 0.0)))
        if self._now is None or self._tau <= 0.0 or self._far(self._now, self._target):
            self._now = self._target

    def step(self, seconds: float, ahead_s: float = 0.0) -> Array | None:
        """``T_map_odom`` this much later; None before the first correction.

        :param ahead_s: what it will be in so many seconds, as far as the drift says: for a transform stamped ahead.
        """
        if self._now is None or self._target is None:
            return None
        seconds = max(seconds, 0.0)
        drifted = self._drifting(seconds)
        old, new, p = self._gone(self._now, drifted), self._gone(self._target, drifted), self._base
        share = 1.0 if self._tau <= 0.0 else 1.0 - float(np.exp(-seconds / self._tau))
        R = so3_exp(share * so3_log(new[:3, :3] @ old[:3, :3].T)) @ old[:3, :3]
        before, after = old[:3, :3] @ p + old[:3, 3], new[:3, :3] @ p + new[:3, 3]
        self._now, self._target = make_transform(R, before + share * (after - before) - R @ p), new
        return self._gone(self._now, ahead_s if self._since < DRIFT_ALONE_S else 0.0)

    def _drifting(self, seconds: float) -> float:
        """How much of so many seconds the drift goes on for."""
        before = self._since
        self._since = before + seconds
        return max(0.0, min(self._since, DRIFT_ALONE_S) - before)

    def _gone(self, T: Array, seconds: float) -> Array:
        """A correction after so many seconds of the drift."""
        R, p = so3_exp(seconds * self._rate[3:]) @ T[:3, :3], self._base
        return make_transform(R, T[:3, :3] @ p + T[:3, 3] + seconds * self._rate[:3] - R @ p)

    def _far(self, old: Array, new: Array) -> bool:
        metres = np.linalg.norm((new[:3, :3] - old[:3, :3]) @ self._base + new[:3, 3] - old[:3, 3])
        turn = np.linalg.norm(so3_log(new[:3, :3] @ old[:3, :3].T))
        return bool(metres > self._jump_m or turn > self._jump_rad)
