"""A vehicle that drives itself round the synthetic town on the localizer's pose and nothing else.

    python examples/closed_loop.py models/town_demo_features --laps 1

A base with drifting wheel odometry follows waypoints in the map. What it knows of its place is map -> odom, corrected
by the pipeline's estimates as they come, times its odometry: exactly what TF gives a controller. The follower (pure
pursuit) looks that up fifty times a second; the camera takes ten images a second, each known a latency later. The
errors of that chain, of the single frames, and the distance from the path are printed at the end.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field

import numpy as np

from vloc_ros.frames import Frame
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.localizers.base import load_localizer
from vloc_ros.pipeline import Pipeline
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.tracking.smoothing import SmoothCorrection
from vloc_ros.types import Array

#: The controller's rate and the camera's, Hz; the vehicle's speed, m/s, and how far ahead it aims, m.
RATE, CAMERA_RATE, SPEED, AHEAD = 50, 10, 5.0, 6.0
START_NS = 1_700_000_000_000_000_000


class Follower:
    """Pure pursuit on a closed path (N, 2) of the map: the curvature that leads to a point ahead on it."""

    def __init__(self, path: Array, ahead_m: float = AHEAD) -> None:
        self._path, self._ahead = path, ahead_m
        self._arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])

    def curvature(self, T_map_base: Array) -> float:
        """1/m, positive to the left, for a base that believes to be here."""
        nearest = int(np.argmin(np.linalg.norm(self._path - T_map_base[:2, 3], axis=1)))
        goal = (self._arc[nearest] + self._ahead) % self._arc[-1]
        target = np.array([np.interp(goal, self._arc, self._path[:, axis]) for axis in (0, 1)])
        offset = T_map_base[:2, :2].T @ (target - T_map_base[:2, 3])
        return float(2.0 * offset[1] / max(float(offset @ offset), 1e-6))

    def distance(self, position: Array) -> float:
        """Metres from a position (2,) to the path."""
        start, step = self._path[:-1], np.diff(self._path, axis=0)
        share = np.clip(((position - start) * step).sum(1) / np.maximum((step**2).sum(1), 1e-12), 0.0, 1.0)
        return float(np.linalg.norm(start + share[:, None] * step - position, axis=1).min())


@dataclass
class Vehicle:
    """A base on the town's ground, with wheel odometry that errs in scale and heading."""

    town: Town
    x: float
    y: float
    yaw: float
    scale: float
    turn_rad_m: float
    T_odom_base: Array = field(default_factory=lambda: np.eye(4))

    @property
    def T_map_base(self) -> Array:
        """(4, 4) where it is."""
        terrain, c, s = self.town.terrain, np.cos(self.yaw), np.sin(self.yaw)
        gx, gy = (float(v[0]) for v in terrain.gradient(np.array([self.x]), np.array([self.y])))
        up = np.array([-gx, -gy, 1.0]) / np.sqrt(gx**2 + gy**2 + 1.0)
        ahead = np.array([c, s, gx * c + gy * s])
        ahead /= np.linalg.norm(ahead)
        height = float(terrain.height(np.array([self.x]), np.array([self.y]))[0])
        return make_transform(np.stack([ahead, np.cross(up, ahead), up], 1), [self.x, self.y, height])

    def move(self, metres: float, curvature: float) -> None:
        """Roll on, and measure it as wheels do."""
        before = self.T_map_base
        self.x += metres * np.cos(self.yaw)
        self.y += metres * np.sin(self.yaw)
        self.yaw += metres * curvature
        step = inverse(before) @ self.T_map_base
        drift = self.turn_rad_m * metres
        turn = make_transform(
            [[np.cos(drift), -np.sin(drift), 0], [np.sin(drift), np.cos(drift), 0], [0, 0, 1]], [0] * 3
        )
        step[:3, 3] *= self.scale
        self.T_odom_base = self.T_odom_base @ step @ turn


def drive(map_path: str, laps: float, latency_s: float = 0.1, smoothing_s: float = 0.1, index: int = 5) -> dict:
    """The figures of a drive of so many laps."""
    town = Town(1, 200.0)
    plan = Traversal(town, index, spacing_m=0.5, weave_m=0.0)
    path = np.concatenate([plan.T_map_base[:, :2, 3], plan.T_map_base[:1, :2, 3]])
    follower, renderer = Follower(path), Renderer(town, default_camera())
    T = plan.T_map_base[0]
    vehicle = Vehicle(
        town, *T[:2, 3], float(np.arctan2(T[1, 0], T[0, 0])), scale=1.01, turn_rad_m=np.radians(1.5) / 100
    )
    smooth, waiting = SmoothCorrection(smoothing_s, 2.0, 20.0), []
    frame_errors, base_errors, path_errors, silent, driven, stopped = [], [], [], 0, 0.0, 0
    with load_localizer(map_path, "auto") as localizer:
        pipeline = Pipeline(localizer)
        for tick in range(int((laps * follower._arc[-1] / SPEED + 30.0) * RATE)):
            now = START_NS + tick * 1_000_000_000 // RATE
            truth = vehicle.T_map_base
            if tick % (RATE // CAMERA_RATE) == 0:
                nearest = int(np.argmin(np.linalg.norm(plan.T_map_base[:, :2, 3] - truth[:2, 3], axis=1)))
                # Every frame has its own noise: standing pictures differ, as a camera's do.
                image = renderer.render_at(plan, (nearest + tick) % len(plan), truth @ plan.T_base_cam).rgb
                frame = Frame(now, image, renderer.camera, True, plan.T_base_cam, vehicle.T_odom_base)
                result = pipeline.process(frame)
                waiting.append((now + int(latency_s * 1e9), result))
                if result.publish:
                    frame_errors.append(float(np.linalg.norm(result.T_map_base[:3, 3] - truth[:3, 3])))
                silent += not result.publish
            smooth.step(1.0 / RATE)
            while waiting and waiting[0][0] <= now:
                _, result = waiting.pop(0)
                if result.T_map_odom is None:
                    smooth.reset()
                elif result.correction is not None:
                    smooth.aim(result.correction, latency_s)
            T_map_odom = smooth.step(0.0)
            if T_map_odom is None:  # nothing is known: stand
                stopped += 1
                continue
            believed = T_map_odom @ vehicle.T_odom_base
            base_errors.append(float(np.linalg.norm(believed[:3, 3] - truth[:3, 3])))
            path_errors.append(follower.distance(truth[:2, 3]))
            vehicle.move(SPEED / RATE, float(np.clip(follower.curvature(believed), -0.3, 0.3)))
            driven += SPEED / RATE
            if driven >= laps * follower._arc[-1]:
                break
    return {
        "laps": driven / float(follower._arc[-1]), "frames": len(frame_errors) + silent, "without_pose": silent,
        "stood_s": stopped / RATE, "frame_median_m": float(np.median(frame_errors)),
        "map_base_p95_m": float(np.quantile(base_errors, 0.95)), "map_base_max_m": max(base_errors),
        "path_p95_m": float(np.quantile(path_errors, 0.95)), "path_max_m": max(path_errors),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "map", help="a map of the town of seed 1, loop 200 m: models/town_demo, models/town_demo_features"
    )
    parser.add_argument("--laps", type=float, default=1.0)
    parser.add_argument("--smoothing", type=float, default=0.1, help="seconds, as tf_smoothing of the node")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds from an image to its pose")
    given = parser.parse_args()
    print(json.dumps(drive(given.map, given.laps, given.latency, given.smoothing), indent=2))
