"""Faults of cameras and odometry, and how soon the pipeline notices and recovers.

Drives through the synthetic town with the shipped map, frame by frame through the pipeline, with and without odometry;
in each one thing goes wrong four seconds after the start, and is over four seconds later. Prints for each fault

* ``wrong``: LOCALIZED poses that are more than 5 m from the truth, and the largest error of a LOCALIZED pose;
* ``named``: seconds until the diagnostics are at ERROR; ``silent``: until the last pose that was published during the
  fault; ``lost``: until the state is LOST;
* ``recovered``: seconds from the end of the fault to the next LOCALIZED pose.

    python bench/camera_faults.py
    python bench/camera_faults.py --live --out bench/results/camera_faults_live.json     (with a sourced ROS 2)

Live every pose that the node publishes counts, at the stamp of its frame; it has a second to come after the last frame.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vloc_ros.diagnostics import Level, diagnose
from vloc_ros.frames import Frame
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.pipeline import Pipeline
from vloc_ros.types import Array, CameraModel, LocalizationState, RgbImage

#: A pose further off than this (m) is wrong.
WRONG_M = 5.0
#: Seconds at which a fault begins, is over, and the drive ends.
FIRST_S, LAST_S, END_S = 4.0, 8.0, 14.0


@dataclass(frozen=True)
class Drive:
    """What a fault is made of: pictures, true poses and odometry of a vehicle that goes on and on.

    :ivar picture: the picture of frame k, for k up to ``len(truth)``.
    :ivar truth: (N, 4, 4) T_map_base. :ivar odometry: (N, 4, 4) T_odom_base.
    """

    picture: Callable[[int], RgbImage]
    truth: Array
    odometry: Array
    camera: CameraModel
    T_base_cam: Array
    rate_hz: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """Seconds since the fault began (``recovered``: since it ended); None: never. See the module's text."""

    wrong: int
    largest_m: float
    localized: int
    named_s: float | None
    silent_s: float | None
    lost_s: float | None
    recovered_s: float | None


def _noisy(image: RgbImage, seed: int, sigma: float = 2.0) -> RgbImage:
    noise = np.random.default_rng(seed).normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _recompressed(image: RgbImage, seed: int) -> RgbImage:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60 + seed % 35])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _random(image: RgbImage, seed: int) -> RgbImage:
    return np.random.default_rng(seed).integers(0, 256, image.shape, dtype=np.uint8)


#: By name: which frame's picture is sent at frame k of a fault that began with frame ``a``, and what becomes of it.
PICTURES: dict[str, tuple[Callable[[int, int], int], Callable[[RgbImage, int], RgbImage]]] = {
    "frozen": (lambda k, a: a - 1, lambda image, k: image),
    "frozen, noise added": (lambda k, a: a - 1, _noisy),
    "frozen, recompressed": (lambda k, a: a - 1, _recompressed),
    "the last four in turn": (lambda k, a: a - 4 + (k - a) % 4, lambda image, k: image),
    "every picture twice": (lambda k, a: k - (k - a) % 2, lambda image, k: image),
    "black": (lambda k, a: k, lambda image, k: np.zeros_like(image)),
    "noise": (lambda k, a: k, _random),
}
#: By name: the odometry's step at frame k of a fault, from its true one.
STEPS: dict[str, Callable[[Array], Array]] = {
    "wheels spin": lambda step: step @ step @ step,
    "wheels locked": lambda step: np.eye(4),
    "odometry restarts": lambda step: make_transform(np.eye(3), [500.0, 0.0, 0.0]),
}
FAULTS = (*PICTURES, *STEPS, "carried away", "stands")
#: What shows at 30 Hz.
FINE = ("every picture twice", "stands")
#: Frames by which a vehicle is carried forward.
CARRIED = 60


@dataclass(frozen=True)
class Moment:
    """What a vehicle has at one frame: seconds since its start, picture, odometry, true pose."""

    at_s: float
    image: RgbImage
    T_odom_base: Array
    truth: Array


def moments(drive: Drive, fault: str, live_noise: float = 1.0) -> Iterator[Moment]:
    """A drive in which a fault begins at ``FIRST_S`` and is over at ``LAST_S``.

    :param live_noise: of the sensor, in grey levels, added to every picture before anything happens to it.
    """
    a, b, n = (round(s * drive.rate_hz) for s in (FIRST_S, LAST_S, END_S))
    at = list(range(n))
    if fault == "carried away":
        at = [k if k < a else k + CARRIED for k in at]
    if fault == "stands":
        speed, at = 1.0, [0]
        progress = 0.0
        for k in range(1, n):  # as a share of its speed: to a stop in 1.2 s, and back
            speed = min(1.0, max(0.0, speed + (-1 if a <= k < b else 1) / (1.2 * drive.rate_hz)))
            progress += speed
            at.append(int(progress))

    @functools.lru_cache(maxsize=8)
    def seen(k: int) -> RgbImage:
        return _noisy(drive.picture(at[k]), k, live_noise)

    T_odom = drive.odometry[0]
    for k in range(n):
        during = a <= k < b
        step = np.eye(4) if k == 0 else inverse(drive.odometry[at[k - 1]]) @ drive.odometry[at[k]]
        if fault == "carried away" and k == a:
            step = inverse(drive.odometry[a - 1]) @ drive.odometry[a]  # it notices nothing
        if during and fault in STEPS and (fault != "odometry restarts" or k == a):
            step = STEPS[fault](step)
        T_odom = T_odom @ step
        image = seen(k)
        if during and fault in PICTURES:
            which, change = PICTURES[fault]
            image = change(seen(which(k, a)), k)
        yield Moment(k / drive.rate_hz, image, T_odom, drive.truth[at[k]])


class Watch:
    """Counts what a drive's results say; see the module's text."""

    def __init__(self) -> None:
        self.wrong = self.localized = 0
        self.largest_m = 0.0
        self.named_s: float | None = None
        self.silent_s: float | None = None
        self.lost_s: float | None = None
        self.recovered_s: float | None = None

    def believed(self, at_s: float, error_m: float) -> None:
        """A LOCALIZED pose of a frame."""
        self.localized += 1
        self.wrong += error_m > WRONG_M
        self.largest_m = max(self.largest_m, error_m)
        if at_s >= LAST_S and self.recovered_s is None:
            self.recovered_s = at_s - LAST_S

    def published(self, at_s: float) -> None:
        """A pose of a frame, in any state."""
        if FIRST_S <= at_s < LAST_S:
            self.silent_s = at_s - FIRST_S

    def bad(self, at_s: float, error: bool, lost: bool) -> None:
        """What diagnostics and state say at a moment."""
        if FIRST_S <= at_s < LAST_S:
            if error and self.named_s is None:
                self.named_s = at_s - FIRST_S
            if lost and self.lost_s is None:
                self.lost_s = at_s - FIRST_S

    def outcome(self) -> Outcome:
        """All of it."""
        return Outcome(**self.__dict__)


def run(drive: Drive, fault: str, pipeline: Pipeline, odometry: bool, live_noise: float = 1.0) -> Outcome:
    """One drive with one fault through the pipeline."""
    watch = Watch()
    for moment in moments(drive, fault, live_noise):
        T_odom = moment.T_odom_base if odometry else None
        frame = Frame(round(1e9 + moment.at_s * 1e9), moment.image, drive.camera, False, drive.T_base_cam, T_odom)
        result = pipeline.process(frame)
        if result.T_map_base is not None and result.state is LocalizationState.LOCALIZED:
            watch.believed(moment.at_s, float(np.linalg.norm((result.T_map_base - moment.truth)[:3, 3])))
        if result.publish:
            watch.published(moment.at_s)
        ill = diagnose(pipeline.snapshot()).level is Level.ERROR
        watch.bad(moment.at_s, ill, result.state is LocalizationState.LOST)
    return watch.outcome()


def run_live(drive: Drive, fault: str, car: Any, odometry: bool) -> Outcome:
    """The same through the node, in real time.

    :param car: a ``LiveVehicle``, whose node is active; its tracker is told to forget the drive before.
    """
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    car.call("reset")
    watch, truth = Watch(), dict[int, tuple[float, Array]]()
    diagnosed, seen = car.hear(DiagnosticArray, "/diagnostics"), len(car.poses)
    began = time.monotonic()
    for moment in moments(drive, fault):
        car.spin(max(0.001, began + moment.at_s - time.monotonic()))
        now = car.now()
        truth[now] = moment.at_s, moment.truth
        if odometry:
            car.odometry(now, moment.T_odom_base)
        car.image(now, moment.image)
        for array in diagnosed:
            for status in array.status:
                if status.name.endswith("localization"):
                    bad = status.level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)
                    watch.bad(moment.at_s, bad, bool(car.states) and car.states[-1] == "LOST")
        diagnosed.clear()
    car.spin(1.0)
    for stamp, _, T, _ in car.poses[seen:]:
        at_s, true = truth[stamp]
        watch.published(at_s)
        watch.believed(at_s, float(np.linalg.norm((T - true)[:3, 3])))
    return watch.outcome()


def town_drive(rate_hz: float = 10.0, speed_mps: float = 5.0) -> Drive:
    """The demo's drive, at another rate where asked for."""
    from vloc_ros.town import Renderer, Town, Traversal, default_camera

    town = Town(1, 200.0)
    renderer = Renderer(town, default_camera(240, 135))
    traversal = Traversal(town, 5, spacing_m=speed_mps / rate_hz)
    picture = functools.lru_cache(maxsize=500)(lambda k: renderer.render(traversal, k).rgb)
    return Drive(picture, traversal.T_map_base, traversal.T_odom_base, renderer.camera, traversal.T_base_cam, rate_hz)


def main() -> None:
    from vloc_ros.resources import share_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, default=share_path("models", "town_demo"))
    parser.add_argument("--live", action="store_true", help="through the node, in real time (with a sourced ROS 2)")
    parser.add_argument("--only", nargs="*", choices=FAULTS, default=FAULTS, metavar="FAULT")
    parser.add_argument("--out", type=Path, default=Path("bench/results/camera_faults.json"))
    options = parser.parse_args()
    ordinary, fast = town_drive(), town_drive(30.0)
    if options.live:  # a renderer beside the node would make it late
        for drive in (ordinary, fast):
            for k in range(round(END_S * drive.rate_hz) + CARRIED):
                drive.picture(k)
    rows = []
    print("| fault | odometry | wrong | largest, m | named, s | silent, s | lost, s | recovered, s |")
    print("|---|---|---|---|---|---|---|---|")
    with runner(options, ordinary) as tried:
        for fault in options.only:
            for odometry in (True, False):
                if fault in STEPS and not odometry:
                    continue
                drive = fast if fault in FINE else ordinary
                found = tried(drive, fault, odometry)
                rows.append({"fault": fault, "odometry": odometry, **found.__dict__})
                times = (found.named_s, found.silent_s, found.lost_s, found.recovered_s)
                told = " | ".join("-" if t is None else f"{t:.1f}" for t in times)
                with_it = "yes" if odometry else "no"
                counts = f"{found.wrong} of {found.localized} | {found.largest_m:.2f}"
                print(f"| {fault} | {with_it} | {counts} | {told} |", flush=True)
    found = {"map": options.map.name, "rate_hz": 10.0, "live": options.live, "rows": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


@contextmanager
def runner(options: argparse.Namespace, drive: Drive) -> Iterator[Callable[[Drive, str, bool], Outcome]]:
    """What tries a drive with a fault, with or without odometry: the pipeline, or the node."""
    if options.live:
        from live_vehicle import LiveVehicle

        with LiveVehicle(drive.camera, drive.T_base_cam, {"map": options.map}) as car:
            car.ready()
            yield lambda drive, fault, odometry: run_live(drive, fault, car, odometry)
        return
    from vloc_ros import load_localizer

    with load_localizer(options.map, device="cpu") as localizer:
        yield lambda drive, fault, odometry: run(drive, fault, Pipeline(localizer), odometry)


if __name__ == "__main__":
    main()
