"""map -> odom that approaches each correction instead of jumping to it: what controllers downstream want of TF."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import so3_exp, so3_log
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = ["SmoothCorrection"]


class SmoothCorrection:
    """Follows a target exponentially, as seen at the vehicle.

    The odometry's origin may be kilometres away, where a tenth of a degree is metres: what must not jump is the base.
    So its position moves on a straight line, and the rotation on the shortest way.

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
        self._base = np.zeros(3)

    def aim(self, T_map_odom: Array, p_odom_base: Array) -> None:
        """A new correction. :param p_odom_base: (3,) where the base is in the odometry's frame."""
        self._target, self._base = T_map_odom, np.asarray(p_odom_base, dtype=np.float64)
        if self._now is None or self._tau <= 0.0:
            self._now = T_map_odom
            return
        metres, turn = self._apart()
        if metres > self._jump_m or turn > self._jump_rad:
            self._now = T_map_odom

    def step(self, seconds: float) -> Array | None:
        """``T_map_odom`` this much later; None before the first correction."""
        if self._now is None or self._target is None:
            return None
        share = 1.0 if self._tau <= 0.0 else 1.0 - float(np.exp(-max(seconds, 0.0) / self._tau))
        old, new, p = self._now, self._target, self._base
        R = so3_exp(share * so3_log(new[:3, :3] @ old[:3, :3].T)) @ old[:3, :3]
        before, after = old[:3, :3] @ p + old[:3, 3], new[:3, :3] @ p + new[:3, 3]
        self._now = make_transform(R, before + share * (after - before) - R @ p)
        return self._now

    def _apart(self) -> tuple[float, float]:
        assert self._now is not None and self._target is not None
        old, new, p = self._now, self._target, self._base
        metres = np.linalg.norm((new[:3, :3] @ p + new[:3, 3]) - (old[:3, :3] @ p + old[:3, 3]))
        return float(metres), float(np.linalg.norm(so3_log(new[:3, :3] @ old[:3, :3].T)))
