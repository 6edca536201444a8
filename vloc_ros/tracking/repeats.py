"""Is this picture news? A picture is evidence once, however often the camera sends it.

A driver that hangs sends its last picture with ever new stamps; one that runs faster than its sensor sends each picture
twice; a ring of buffers that nobody fills sends the same few in turn. A localizer answers all of them as confidently as
it did the first time, with the place where the picture was taken. So every picture is compared with those used before.

What equal pictures mean depends on how the vehicle moved between them:

* *The odometry says that it moved.* The picture should have changed. Pictures that are equal but for noise and
  compression say nothing: driving :data:`NEAR_M` or turning :data:`NEAR_DEG` changes any picture of a place many times
  as much.
* *The odometry says that it stands.* Then equal pictures are what a camera without noise (a simulated one) sends, and
  a stuck one's are true as well: they are evidence as any picture of a standing vehicle is.
  :attr:`PictureMemory.repeated_s` tells how long it goes on. The motion is counted from the picture's first use:
  creeping adds up.
* *There is no odometry.* Two pictures of a live camera differ by the noise of its sensor, even behind JPEG; equal ones
  (:data:`SAME_RMS`) are one picture and say nothing. A vehicle that stops keeps its pose, since its pictures go on
  differing a little. Behind a camera without any noise a vehicle that stands without odometry cannot be told from a
  stuck camera: its pose is given up in the usual time, and found again as soon as pictures change. A picture that
  stays but for noise contradicts a vehicle that was moving: no brakes (:data:`BRAKING_MPS2`) stop it between two
  frames. (A stuck camera whose pictures keep changing by noise, on a vehicle slower than 2 m/s without odometry, looks
  like a vehicle that stopped, and is taken for one.)

Decisions depend on pictures, stamps and odometry alone: live and replay agree.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.rotations import so3_log
from vloc_ros.geometry.se3 import inverse
from vloc_ros.tracking.settings import TrackerSettings
from vloc_ros.types import Array, RgbImage

__all__ = ["STUCK_S", "PictureMemory"]

#: Repeats for longer than this (s of stamps) are a stuck camera; shorter ones a camera published faster than it looks.
STUCK_S = 0.5
#: Equal pictures: root mean square difference of single pixels in grey levels (of 255). A sensor with a noise of half a
#: level leaves 0.6 and more, behind JPEG too; the same picture has 0.
SAME_RMS = 0.25
#: Motion (m, deg) since the first use of an equal picture, beyond the odometry's drift, that makes it a repeat.
SAME_M, SAME_DEG = 0.02, 0.2
#: Pictures that are equal but for noise and compression: 98 % of the cells of a 32x24 thumbnail differ by no more than
#: this share of its contrast, at least ``NEAR_LEAST`` and at most ``NEAR_LEVELS`` grey levels. Noise of two levels, or
#: JPEG of quality 60, stays below (0.5 to 2.7 levels on streets); driving 0.3 m in a street is above (12 and more).
NEAR_SHARE, NEAR_LEAST, NEAR_LEVELS = 0.12, 0.5, 4.0
#: The motion (m, deg) that such a picture contradicts.
NEAR_M, NEAR_DEG = 0.3, 3.0
#: Deceleration on dry asphalt, m / s^2: without odometry a vehicle moves on at least as far as this lets it.
BRAKING_MPS2 = 8.0
#: A picture that stays is measured against its first use, and after so many seconds in which it was believed anew:
#: odometry drifts while a vehicle stands.
ANCHOR_S = 10.0

_MEMORY = 32
_CELLS = (32, 24)
_SAMPLES_A_SIDE = 160

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Picture:
    """A used picture: thumbnail (24, 32) float32, single grey pixels, first use, the odometry then."""

    cells: npt.NDArray[np.float32]
    pixels: Grey
    stamp_ns: int
    T_odom_base: Array | None
    #: m/s, the least that the track said when the next picture came; None before.
    speed_mps: float | None = None


class PictureMemory:
    """The pictures that were used, and whether a new one adds to them.

    :param settings: its odometry drift is allowed for.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self.clear()

    def clear(self) -> None:
        """Forget all pictures: the stamps start anew."""
        self._used: deque[_Picture] = deque(maxlen=_MEMORY)
        self._anchor: _Picture | None = None
        self._since_ns: int | None = None
        self._last_ns = 0
        #: Whether the repeats that go on are those of a vehicle that stands, by its odometry.
        self.standing = False

    @property
    def repeated_s(self) -> float:
        """For how long the camera has sent nothing new, in seconds of stamps; 0.0 where the last picture was new."""
        return 0.0 if self._since_ns is None else (self._last_ns - self._since_ns) * 1e-9

    @property
    def stuck(self) -> bool:
        """Whether nothing new has come for longer than :data:`STUCK_S`."""
        return self.repeated_s > STUCK_S

    def judge(self, image: RgbImage, stamp_ns: int, T_odom_base: Array | None, speed_mps: float = 0.0) -> str | None:
        """None where the picture may be used; it is remembered then. Otherwise a sentence that says why it may not.

        :param image: (H, W, 3) uint8, as it came from the camera.
        :param T_odom_base: odometry at the stamp, 4x4; None when unknown.
        :param speed_mps: the speed that the track had at least after the last picture.
        """
        cells, pixels = _thumbnail(image), _pixels(image)
        self._last_ns = stamp_ns
        if self._anchor is not None and self._anchor.speed_mps is None:
            self._anchor = replace(self._anchor, speed_mps=speed_mps)
        same = next((p for p in reversed(self._used) if _same(p, cells, pixels)), None)
        near = self._anchor if self._anchor is not None and _near(self._anchor, cells) else None

        problem = None
        if same is not None:
            problem = self._repeated(same, stamp_ns, T_odom_base)
        if problem is None and near is not None:
            problem = self._contradicted(near, stamp_ns, T_odom_base)
        if same is None and problem is None:
            self._since_ns = None
        else:
            first = min(p.stamp_ns for p in (same, near) if p is not None)
            self._since_ns = first if self._since_ns is None else min(first, self._since_ns)
        self.standing = problem is None
        if problem is None:
            new = _Picture(cells, pixels, stamp_ns, T_odom_base)
            if same is None:
                self._used.append(new)
            if near is None or stamp_ns - near.stamp_ns > ANCHOR_S * 1e9:
                self._anchor = new
        return problem

    def _repeated(self, before: _Picture, stamp_ns: int, T_odom_base: Array | None) -> str | None:
        age = f"{(stamp_ns - before.stamp_ns) * 1e-9:.2f} s"
        if before.T_odom_base is None or T_odom_base is None:
            return f"the picture of {age} ago came again, and no odometry says that the vehicle stands"
        moved = self._moved(before, stamp_ns, T_odom_base, SAME_M, SAME_DEG)
        return f"the picture of {age} ago came again, and the vehicle {moved} since" if moved else None

    def _contradicted(self, before: _Picture, stamp_ns: int, T_odom_base: Array | None) -> str | None:
        age = (stamp_ns - before.stamp_ns) * 1e-9
        told = f"but for noise the picture is that of {age:.2f} s ago"
        if before.T_odom_base is not None and T_odom_base is not None:
            moved = self._moved(before, stamp_ns, T_odom_base, NEAR_M, NEAR_DEG)
            return f"{told}, and the vehicle {moved} since" if moved else None
        speed = before.speed_mps or 0.0
        braking = min(age, speed / BRAKING_MPS2)
        if speed * braking - 0.5 * BRAKING_MPS2 * braking**2 <= NEAR_M:
            return None
        return f"{told}, and nothing stops a vehicle of {speed:.1f} m/s so fast"

    def _moved(self, before: _Picture, stamp_ns: int, T_odom_base: Array, least_m: float, least_deg: float) -> str:
        """How far the vehicle has moved since, in words; empty where that is no more than ``least`` and drift."""
        assert before.T_odom_base is not None
        step = inverse(before.T_odom_base) @ T_odom_base
        metres, degrees = float(np.linalg.norm(step[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(step[:3, :3]))))
        root = 3.0 * np.sqrt(max(0.0, (stamp_ns - before.stamp_ns) * 1e-9))
        if metres > least_m + root * self._settings.odometry_idle_m:
            return f"moved {metres:.2f} m"
        return f"turned {degrees:.1f} deg" if degrees > least_deg + root * self._settings.odometry_idle_deg else ""


def _thumbnail(image: RgbImage) -> npt.NDArray[np.float32]:
    """(24, 32) float32 mean grey levels: noise averages out. What whole cells do not fill is left out, for speed."""
    (height, width), (columns, rows) = image.shape[:2], _CELLS
    whole = image[: max(height - height % rows, rows), : max(width - width % columns, columns)]
    small = cv2.resize(whole, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(small.mean(axis=2), dtype=np.float32)


def _pixels(image: RgbImage) -> Grey:
    """At most 320x320 green pixels of the full resolution, where a sensor's noise shows."""
    sy, sx = max(1, image.shape[0] // _SAMPLES_A_SIDE), max(1, image.shape[1] // _SAMPLES_A_SIDE)
    return np.ascontiguousarray(image[sy // 2 :: sy, sx // 2 :: sx, 1])


def _same(before: _Picture, cells: npt.NDArray[np.float32], pixels: Grey) -> bool:
    if before.pixels.shape != pixels.shape or float(np.abs(before.cells - cells).max()) > 2.0:
        return False
    return bool(cv2.norm(before.pixels, pixels, cv2.NORM_L2) <= SAME_RMS * np.sqrt(pixels.size))


def _near(before: _Picture, cells: npt.NDArray[np.float32]) -> bool:
    limit = min(NEAR_LEVELS, max(NEAR_LEAST, NEAR_SHARE * float(before.cells.std())))
    return float(np.percentile(np.abs(before.cells - cells), 98)) <= limit
