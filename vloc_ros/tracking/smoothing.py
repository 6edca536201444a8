"""map -> odom that approaches each correction instead of jumping to it: what controllers downstream want of TF."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import so3_exp, so3_log
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.types import Array

__all__ = ["SmoothCorrection"]

#: The drift is a mean over about this many metres driven; more than this share of them is no drift.
DRIFT_OVER_M, MOST_DRIFT = 20.0, 0.1
#: Without a new correction the drift goes on for so long, s: whether the vehicle still moves is not known then.
DRIFT_ALONE_S = 1.0


class SmoothCorrection:
    """Follows a target exponentially, as seen at the vehicle.

    The odometry's origin may be kilometres away, where a tenth of a degree is metres: what must not jump is the base.
    So its position moves on a straight line, and the rotation on the shortest way.

    Wheels that measure 1 % too much make a target that runs away, 5 cm/s at 5 m/s, and what follows it exponentially
    stays behind by the time constant times that. So the drift a metre is learned, in the vehicle's axes, and is made
    up for between two corrections.

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
        #: The odometry's pose at the last correction, and the seconds since.
        self._T_odom_base: Array | None = None
        self._since = 0.0
        #: Metres of correction a metre driven, in the base's axes; what that makes a second, and has made, the map's.
        self._drift, self._velocity, self._made = np.zeros(3), np.zeros(3), np.zeros(3)

    def aim(self, T_map_odom: Array, T_odom_base: Array | None = None) -> None:
        """A new correction.

        :param T_odom_base: (4, 4) the odometry at its frame. None: the frame corrected nothing; the base is taken to
            be where it was, at first at the odometry's origin.
        """
        before, old, since = self._T_odom_base, self._target, self._since
        self._target, self._since, self._made = T_map_odom, 0.0, np.zeros(3)
        if T_odom_base is not None:
            self._T_odom_base = np.asarray(T_odom_base, dtype=np.float64)
        if self._now is None or old is None or self._tau <= 0.0:
            self._now = T_map_odom
            return
        metres, turn = self._apart()
        if metres > self._jump_m or turn > self._jump_rad:
            self._now, self._velocity = T_map_odom, np.zeros(3)
        elif T_odom_base is not None and before is not None and since > 0.0:
            self._learn(T_map_odom, old, before, since)

    def step(self, seconds: float, ahead_s: float = 0.0) -> Array | None:
        """``T_map_odom`` this much later; None before the first correction.

        :param ahead_s: what it will be in so many seconds, as far as the drift says: for a transform stamped ahead.
        """
        if self._now is None or self._target is None:
            return None
        seconds = max(seconds, 0.0)
        drift = self._velocity if self._since < DRIFT_ALONE_S else np.zeros(3)
        gone = seconds * drift
        self._since += seconds
        self._made = self._made + gone
        share = 1.0 if self._tau <= 0.0 else 1.0 - float(np.exp(-seconds / self._tau))
        old, new, p = self._now, self._target, self._base()
        R = so3_exp(share * so3_log(new[:3, :3] @ old[:3, :3].T)) @ old[:3, :3]
        before, after = old[:3, :3] @ p + old[:3, 3] + gone, new[:3, :3] @ p + new[:3, 3] + self._made
        self._now = make_transform(R, before + share * (after - before) - R @ p)
        return make_transform(R, self._now[:3, 3] + ahead_s * drift)

    def _base(self) -> Array:
        return np.zeros(3) if self._T_odom_base is None else self._T_odom_base[:3, 3]

    def _learn(self, new: Array, old: Array, before: Array, seconds: float) -> None:
        """:param old: the correction at the odometry's pose ``before``, so many seconds ago."""
        assert self._T_odom_base is not None
        R, p = new[:3, :3] @ self._T_odom_base[:3, :3], self._base()
        drifted = R.T @ ((new[:3, :3] - old[:3, :3]) @ p + new[:3, 3] - old[:3, 3])
        driven = float(np.linalg.norm((inverse(before) @ self._T_odom_base)[:3, 3]))
        self._drift += (drifted - driven * self._drift) / max(DRIFT_OVER_M, driven)
        length = float(np.linalg.norm(self._drift))
        self._drift *= min(1.0, MOST_DRIFT / length) if length > 0.0 else 1.0
        self._velocity = R @ self._drift * (driven / seconds)

    def _apart(self) -> tuple[float, float]:
        assert self._now is not None and self._target is not None
        old, new, p = self._now, self._target, self._base()
        metres = np.linalg.norm((new[:3, :3] @ p + new[:3, 3]) - (old[:3, :3] @ p + old[:3, 3]))
        return float(metres), float(np.linalg.norm(so3_log(new[:3, :3] @ old[:3, :3].T)))
