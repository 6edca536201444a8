"""What the node writes to TF, in its three modes.

``map_odom``: map -> odom at a fixed rate, stamped ``transform_tolerance`` ahead, so that look-ups between two
frames do not extrapolate. The correction changes slowly, which is what makes stamping ahead honest.
``map_base``: map -> base once per published pose, at the image's stamp. A moving body is never stamped ahead.
``none``: nothing; robot_localization publishes map -> odom itself.

Nothing is sent before the first fix, none while LOST, and no stamp twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from geometry_msgs.msg import TransformStamped

from vloc_ros.nodes.conversions import transform_message
from vloc_ros.tracking.correction import Correction
from vloc_ros.tracking.smoothing import SmoothCorrection
from vloc_ros.types import Array

__all__ = ["TF_MODES", "TfBroadcast"]

TF_MODES = ("map_odom", "map_base", "none")


class TfBroadcast:
    """Sends the transforms of one mode.

    :param send: publishes one transform.
    :param on_sent: told about each transform before it is sent.
    :param smooth: how map -> odom approaches a correction.
    """

    def __init__(
        self,
        mode: str,
        frames: tuple[str, str, str],
        send: Callable[[TransformStamped], None],
        on_sent: Callable[[TransformStamped], None],
        smooth: SmoothCorrection,
    ) -> None:
        self.mode = mode
        self._map, self._odom, self._base = frames
        self._send = send
        self._on_sent = on_sent
        self._lock = threading.Lock()
        self._known = False
        self._smooth, self._stepped_ns = smooth, 0
        self._last_stamp = 0
        #: Transforms sent so far.
        self.count = 0

    def correct(self, correction: Correction, stamp_ns: int, now_ns: int) -> bool:
        """Take over map -> odom of the frame at ``stamp_ns``, in that mode.

        After silence the first one goes out at once with the frame's own stamp, so that look-ups at the stamps of
        the frames that follow lie between two transforms.

        :returns: whether it ended a silence: then a :meth:`tick` is due, or look-ups now lie beyond the only transform.
        """
        with self._lock:
            if self.mode != "map_odom":
                return False
            first, self._known = not self._known, True
            self._step(now_ns)
            self._smooth.aim(correction, 1e-9 * (now_ns - stamp_ns))
            if first:
                self._emit(transform_message(correction.T_map_odom, self._map, self._odom, stamp_ns), stamp_ns)
            return first

    def place(self, T_map_base: Array, stamp_ns: int) -> None:
        """Send map -> base at the pose's own stamp, in that mode."""
        with self._lock:
            if self.mode == "map_base":
                self._emit(transform_message(T_map_base, self._map, self._base, stamp_ns), stamp_ns)

    def tick(self, now_ns: int, tolerance_s: float) -> None:
        """Called at the fixed rate: repeats map -> odom, stamped ``tolerance_s`` after ``now_ns``."""
        with self._lock:
            if not self._known:
                return
            T = self._step(now_ns, tolerance_s)
            stamp = now_ns + int(tolerance_s * 1e9)
            if T is not None:
                self._emit(transform_message(T, self._map, self._odom, stamp), stamp)

    def silence(self) -> None:
        """Send nothing until the next pose: the vehicle is lost."""
        with self._lock:
            self._known = False
            self._smooth.reset()

    def restart(self) -> None:
        """The clock went back: earlier stamps are new again."""
        with self._lock:
            self._known = False
            self._smooth.reset()
            self._last_stamp = self._stepped_ns = 0

    def _step(self, now_ns: int, ahead_s: float = 0.0) -> Array | None:
        seconds = max(0, now_ns - self._stepped_ns) * 1e-9 if self._stepped_ns else 0.0
        self._stepped_ns = now_ns
        return self._smooth.step(seconds, ahead_s)

    def _emit(self, message: TransformStamped, stamp: int) -> None:
        if stamp <= self._last_stamp:
            return
        self._last_stamp = stamp
        self._on_sent(message)
        self._send(message)
        self.count += 1
