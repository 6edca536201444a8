"""The cameras of a rig: which images belong to one moment, and which camera has none to give. Imports no ROS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vloc_ros.types import Array

__all__ = ["CameraSpec", "Moments", "Turns"]

T = TypeVar("T")


@dataclass(frozen=True)
class CameraSpec:
    """One camera as the parameters have it.

    :ivar name: on the rig; empty where there is one camera.
    :ivar image, camera_info: topics, relative to the node; an empty camera_info is the image's sibling.
    :ivar frame: its optical frame; empty takes the image's. :ivar T_base_cam: its place, instead of TF's.
    """

    name: str
    image: str
    camera_info: str
    transport: str
    frame: str
    T_base_cam: Array | None


@dataclass
class _Camera(Generic[T]):
    """What is known of one camera: its pending image, when it was heard, when it was last part of a moment."""

    pending: tuple[int, T] | None = None
    heard: float | None = None
    joined: float | None = None
    moment: int = -1
    apart_s: float = 0.0


class Moments(Generic[T]):
    """Images whose stamps are near each other become one moment (approximate synchronisation).

    A moment is complete when each camera that can be waited for has an image within the tolerance. A camera's *next*
    image ends the wait for those that are missing, so that a camera that fails costs one frame's delay and no frame.
    After ``timeout_s`` without an image, or without one that fits, a camera is not waited for any more; as soon as one
    fits it is part of a moment again.

    :param names: of the cameras, the first in a moment first. :param tolerance_s: between stamps of one moment.
    :param emit: is given the images of a moment, in the order of the names.
    """

    def __init__(
        self,
        names: Sequence[str],
        tolerance_s: float,
        timeout_s: float,
        emit: Callable[[list[T]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cameras: dict[str, _Camera[T]] = {name: _Camera() for name in names}
        self._tolerance_ns, self._tolerance_s, self._timeout = int(tolerance_s * 1e9), tolerance_s, timeout_s
        self._emit, self._clock = emit, clock
        self._last_ns = 0
        self._started = clock()

    def add(self, name: str, stamp_ns: int, item: T) -> None:
        """An image has come."""
        now, camera = self._clock(), self._cameras[name]
        if stamp_ns < self._last_ns - 1_000_000_000:  # the clock went back: earlier stamps are new again
            self.clear()
        camera.heard = now
        if camera.pending is not None:
            self._close(now)
        if camera.moment != self._last_ns and abs(stamp_ns - self._last_ns) <= self._tolerance_ns:
            camera.joined = now  # too late for its moment, and the next one waits for it
            return
        if 0 < stamp_ns <= self._last_ns:
            camera.apart_s = (self._last_ns - stamp_ns) * 1e-9
            return
        camera.pending = (stamp_ns, item)
        if self._complete(stamp_ns, now):
            self._close(now)

    def clear(self) -> None:
        """Forget what is pending, and which stamps are over."""
        self._last_ns = 0
        for camera in self._cameras.values():
            camera.pending = None

    def absent(self) -> dict[str, str]:
        """The cameras that are not waited for, and why."""
        now, out = self._clock(), {}
        for name, camera in self._cameras.items():
            if camera.heard is None:
                if now - self._started > self._timeout:
                    out[name] = "no image has come"
            elif now - camera.heard > self._timeout:
                out[name] = f"no image for {now - camera.heard:.1f} s"
            elif not self._waited_for(name, now):
                out[name] = (
                    f"its stamps are {camera.apart_s:.3f} s from those of the others, expected at most "
                    f"{self._tolerance_s:g} s (rig_tolerance): synchronise the cameras, or use rig_mode in_turn"
                )
        return out

    def _heard(self, name: str, now: float) -> bool:
        heard = self._cameras[name].heard
        return now - (self._started if heard is None else heard) <= self._timeout

    def _waited_for(self, name: str, now: float) -> bool:
        """Whether a moment without this camera is incomplete. Of cameras that never meet the first at work stands."""
        joined = self._cameras[name].joined
        first = next((n for n in self._cameras if self._heard(n, now)), name)
        recently = now - (self._started if joined is None else joined) <= self._timeout
        return self._heard(name, now) and (name == first or recently)

    def _complete(self, stamp_ns: int, now: float) -> bool:
        for name, camera in self._cameras.items():
            fits = camera.pending is not None and abs(camera.pending[0] - stamp_ns) <= self._tolerance_ns
            if not fits and self._waited_for(name, now):
                return False
        return True

    def _close(self, now: float) -> None:
        """Make one moment of what is pending, around the newest image; older ones have missed theirs."""
        pending = {name: c.pending for name, c in self._cameras.items() if c.pending is not None}
        newest = max(stamp for stamp, _ in pending.values())
        fitting = {n: p for n, p in pending.items() if newest - p[0] <= self._tolerance_ns}
        # Around the newest, unless more of them lie together around another: a camera that runs ahead waits.
        for stamp, _ in pending.values():
            around = {n: p for n, p in pending.items() if 0 <= stamp - p[0] <= self._tolerance_ns}
            if len(around) > len(fitting):
                fitting = around
        self._last_ns = max(stamp for stamp, _ in fitting.values())
        for name, (stamp, _) in pending.items():
            camera = self._cameras[name]
            if name in fitting:
                if len(fitting) > 1:
                    camera.joined = now
                camera.pending, camera.moment = None, self._last_ns
            elif stamp <= self._last_ns:
                camera.apart_s, camera.pending = (self._last_ns - stamp) * 1e-9, None
            else:
                camera.apart_s = (stamp - self._last_ns) * 1e-9
        self._emit([fitting[name][1] for name in self._cameras if name in fitting])


class Turns(Generic[T]):
    """The cameras in turn: whenever the localizer is free, the newest image of the camera that waited longest."""

    def __init__(self, names: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._newest: dict[str, tuple[int, T] | None] = dict.fromkeys(names)
        self._heard: dict[str, float] = {}
        self._order = list(names)
        self._clock, self._started = clock, clock()

    def add(self, name: str, stamp_ns: int, item: T) -> None:
        """An image has come; it replaces the camera's last one."""
        self._newest[name] = (stamp_ns, item)
        self._heard[name] = self._clock()

    def take(self, after_ns: int) -> T | None:
        """The next image, none that is older than one that was taken; None where there is none."""
        for name in self._order:
            newest = self._newest[name]
            if newest is not None and (newest[0] > after_ns or newest[0] < after_ns - 1_000_000_000):
                self._newest[name] = None
                self._order.remove(name)
                self._order.append(name)
                return newest[1]
        return None

    def clear(self) -> None:
        """Forget all images."""
        self._newest = dict.fromkeys(self._newest)

    def absent(self, timeout_s: float) -> dict[str, str]:
        """The cameras without images, and for how long."""
        now, out = self._clock(), {}
        for name in self._newest:
            silent = now - self._heard.get(name, self._started)
            if silent > timeout_s:
                out[name] = f"no image for {silent:.1f} s" if name in self._heard else "no image has come"
        return out
