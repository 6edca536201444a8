"""Faults of cameras and odometry, and how soon the pipeline notices and recovers.

Drives through the synthetic town with the shipped map, frame by frame through the pipeline, with and without odometry;
in each one thing goes wrong four seconds after the start, and is over four seconds later. Prints for each fault

* ``wrong``: LOCALIZED poses that are more than 5 m from the truth, and the largest error of a LOCALIZED pose;
* ``named``: seconds until the diagnostics are at ERROR; ``silent``: until the last pose that was published during the
  fault; ``lost``: until the state is LOST;
* ``recovered``: seconds from the end of the fault to the next LOCALIZED pose.

    python bench/camera_faults.py
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.diagnostics import Level, diagnose
from vloc_ros.frames import Frame
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.pipeline import Pipeline
from vloc_ros.types import Array, CameraModel, LocalizationState, RgbImage

#: A pose further off than this (m) is wrong.
WRONG_M = 5.0


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


def run(drive: Drive, fault: str, pipeline: Pipeline, odometry: bool, first_s: float = 4.0, last_s: float = 8.0,
        end_s: float = 14.0, live_noise: float = 1.0) -> Outcome:  # fmt: skip
    """One drive with one fault between ``first_s`` and ``last_s``.

    :param live_noise: of the sensor, in grey levels, added to every picture before anything happens to it.
    """
    a, b, n = (round(s * drive.rate_hz) for s in (first_s, last_s, end_s))
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
    wrong = localized = 0
    largest, named, silent, lost, recovered = 0.0, None, None, None, None
    for k in range(n):
        during = a <= k < b
        since, now = (k - a) / drive.rate_hz, round(1e9 + k / drive.rate_hz * 1e9)
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
        frame = Frame(now, image, drive.camera, False, drive.T_base_cam, T_odom if odometry else None)
        result = pipeline.process(frame)
        if result.T_map_base is not None and result.state is LocalizationState.LOCALIZED:
            error = float(np.linalg.norm((result.T_map_base - drive.truth[at[k]])[:3, 3]))
            localized += 1
            wrong += error > WRONG_M
            largest = max(largest, error)
        if during:
            if named is None and diagnose(pipeline.snapshot()).level is Level.ERROR:
                named = since
            silent = since if result.publish else silent
            lost = since if lost is None and result.state is LocalizationState.LOST else lost
        if k >= b and recovered is None and result.publish and result.state is LocalizationState.LOCALIZED:
            recovered = (k - b) / drive.rate_hz
    return Outcome(wrong, largest, localized, named, silent, lost, recovered)


def town_drive(rate_hz: float = 10.0, speed_mps: float = 5.0) -> Drive:
    """The demo's drive, at another rate where asked for."""
    from vloc_ros.town import Renderer, Town, Traversal, default_camera

    town = Town(1, 200.0)
    renderer = Renderer(town, default_camera(240, 135))
    traversal = Traversal(town, 5, spacing_m=speed_mps / rate_hz)
    picture = functools.lru_cache(maxsize=500)(lambda k: renderer.render(traversal, k).rgb)
    return Drive(picture, traversal.T_map_base, traversal.T_odom_base, renderer.camera, traversal.T_base_cam, rate_hz)


def main() -> None:
    from vloc_ros import load_localizer
    from vloc_ros.resources import share_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, default=share_path("models", "town_demo"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/camera_faults.json"))
    options = parser.parse_args()
    ordinary, fast = town_drive(), town_drive(30.0)
    rows = []
    print("| fault | odometry | wrong | largest, m | named, s | silent, s | lost, s | recovered, s |")
    print("|---|---|---|---|---|---|---|---|")
    with load_localizer(options.map, device="cpu") as localizer:
        for fault in FAULTS:
            for odometry in (True, False):
                if fault in STEPS and not odometry:
                    continue
                drive = fast if fault in FINE else ordinary
                found = run(drive, fault, Pipeline(localizer), odometry)
                rows.append({"fault": fault, "odometry": odometry, **found.__dict__})
                times = (found.named_s, found.silent_s, found.lost_s, found.recovered_s)
                told = " | ".join("-" if t is None else f"{t:.1f}" for t in times)
                with_it = "yes" if odometry else "no"
                counts = f"{found.wrong} of {found.localized} | {found.largest_m:.2f}"
                print(f"| {fault} | {with_it} | {counts} | {told} |", flush=True)

    options.out.write_text(json.dumps({"map": options.map.name, "rate_hz": 10.0, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
