"""The localizer's poses in robot_localization, beside wheel odometry and a gyroscope; needs a sourced ROS 2 with it.

A vehicle goes round the town; its node sends no TF, and the filter of ``config/robot_localization_ekf.yaml`` makes
map -> odom from the poses, from wheels that measure 1 % too much, and from a gyroscope with a bias. What the filter
says (``odometry/filtered``) is compared with the truth, and its covariance with that error.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.timing import quantiles
from vloc_ros.geometry.se3 import inverse, nees, pose_error, se3_log
from vloc_ros.messages import transform
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import Array

SECOND, RATE, CAMERA_RATE, SPEED = 1_000_000_000, 50, 10, 5.0
START_NS = 1_700_000_000_000_000_000
CONFIG = Path(__file__).resolve().parents[1] / "config" / "robot_localization_ekf.yaml"
#: One standard deviation of the wheels' velocities (m/s, rad/s) and of the gyroscope (rad/s); its bias, rad/s.
WHEELS_MPS, WHEELS_RADS, GYRO_RADS, BIAS_RADS = 0.03, 0.01, 0.003, 0.002
#: What the wheels measure too much.
SCALE = 1.01
#: The filter knows its place when it says that it is better than this (m).
KNOWN_M = 10.0
#: 95 % of chi-square with six degrees of freedom.
INSIDE = 12.59


def fused(given: argparse.Namespace) -> dict[str, Any]:
    """The filter's errors beside those of the single frames."""
    import rclpy
    import tf2_ros
    from live_vehicle import LiveVehicle, stamp_ns
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import Imu

    town, rng = Town(1, 200.0), np.random.default_rng(0)
    spacing = SPEED / RATE
    drive = Traversal(town, given.drive[0], spacing_m=spacing, weave_m=0.0)
    count = min(len(drive) - 1, int(given.laps * len(drive)))
    renderer = Renderer(town, default_camera())
    settings = {"map": given.map, "tf_mode": "none", "max_image_age": 5.0}
    truth: dict[int, Array] = {}
    in_tf, missing = [], 0
    T_odom_base = np.eye(4)
    config = given.config or CONFIG
    command = ["ros2", "run", "robot_localization", "ekf_node", "--ros-args", "--params-file", str(config)]
    command += ["-r", "__node:=ekf_filter_node_map", "-p", "use_sim_time:=true"]
    given.work.mkdir(parents=True, exist_ok=True)
    with (given.work / "ekf.log").open("wb") as log:
        ekf = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            with LiveVehicle(renderer.camera, drive.T_base_cam, settings, given.pace) as car:
                wheels = car.node.create_publisher(Odometry, "/odometry", 10)
                gyro = car.node.create_publisher(Imu, "/imu", 10)
                filtered: list[Odometry] = car.hear(Odometry, "/odometry/filtered")
                car.ready()
                began = time.monotonic()
                for tick in range(count):
                    now, here = START_NS + tick * SECOND // RATE, drive.T_map_base[tick]
                    twist = se3_log(inverse(here) @ drive.T_map_base[tick + 1]) * RATE
                    truth[now] = here
                    car.tick(now)
                    car.odometry(now, T_odom_base)
                    message = Odometry(child_frame_id="base_link")
                    message.header.frame_id, message.header.stamp = "odom", rclpy.time.Time(nanoseconds=now).to_msg()
                    seen = twist * [SCALE, 1, 1, 1, 1, 1] + rng.normal(size=6) * _sigmas(WHEELS_MPS, WHEELS_RADS)
                    _set(message.twist.twist.linear, seen[:3])
                    _set(message.twist.twist.angular, seen[3:])
                    # What is said of them holds their scale, too.
                    said = _sigmas(np.hypot(WHEELS_MPS, (SCALE - 1) * SPEED), WHEELS_RADS)
                    message.twist.covariance = np.diag(said**2).ravel().tolist()
                    wheels.publish(message)
                    turned = Imu(header=message.header, orientation_covariance=[-1.0] + [0.0] * 8)
                    turned.header.frame_id = "base_link"
                    _set(turned.angular_velocity, twist[3:] + BIAS_RADS + rng.normal(size=3) * GYRO_RADS)
                    turned.angular_velocity_covariance = (np.eye(3) * (GYRO_RADS**2 + BIAS_RADS**2)).ravel().tolist()
                    turned.linear_acceleration_covariance = [-1.0] + [0.0] * 8
                    gyro.publish(turned)
                    if tick % (RATE // CAMERA_RATE) == 0:
                        car.image(now, renderer.render(drive, tick).rgb)
                    step = inverse(here) @ drive.T_map_base[tick + 1]
                    step[:3, 3] *= SCALE
                    T_odom_base = T_odom_base @ step
                    car.spin(max(0.001, began + (tick + 1) / RATE / given.pace - time.monotonic()))
                    try:
                        found = car.buffer.lookup_transform("map", "base_link", rclpy.time.Time())
                        at = truth.get(stamp_ns(found))
                        if at is not None:
                            in_tf.append(float(np.linalg.norm(transform(found)[:3, 3] - at[:3, 3])))
                    except tf2_ros.TransformException:
                        missing += 1
                poses, values = list(car.poses), dict(car.values)
        finally:
            _end(ekf)
    frames = [(T, truth[s], P) for s, _, T, P in poses if s in truth]
    # The filter's outputs lie between the ticks of the truth.
    stamps = np.array(sorted(truth))
    outputs, unknown = [], 0
    for message in filtered:
        s = stamp_ns(message)
        near = int(np.argmin(np.abs(stamps - s)))
        covariance = np.reshape(message.pose.covariance, (6, 6))
        if abs(int(stamps[near]) - s) > SECOND // RATE:
            continue
        if float(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])) > KNOWN_M:
            unknown += 1
            continue
        at = truth[int(stamps[near])].copy()
        at[:3, 3] += at[:3, 0] * (s - int(stamps[near])) / SECOND * SPEED
        outputs.append((transform(message), at, covariance))
    return {
        "config": config.name, "laps": count / len(drive), "pace": given.pace, "frames": count * CAMERA_RATE // RATE,
        "poses": len(frames), "frames_dropped": values.get("frames_dropped"),
        "frame": _figures(frames),
        "filter": {"outputs": len(outputs), "outputs_before_it_knew": unknown, **_figures(outputs)},
        "map_base_in_tf_m": quantiles(in_tf), "look_ups_without_transform": missing,
    }  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """With what it started: ``ros2 run`` does not pass signals on."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _sigmas(metres: float, radians: float) -> Array:
    return np.repeat([metres, radians], 3)


def _set(vector: Any, values: Array) -> None:
    vector.x, vector.y, vector.z = map(float, values)


def _figures(found: list[tuple[Array, Array, Array]]) -> dict[str, Any]:
    errors = [pose_error(T, true) for T, true, _ in found]
    inside = [float(nees(e, P)) for e, (_, _, P) in zip(errors, found, strict=True)]
    return {
        "error_m": quantiles([float(np.linalg.norm(e[:3])) for e in errors]),
        "error_deg": quantiles([float(np.degrees(np.linalg.norm(e[3:]))) for e in errors]),
        "nees_median": float(np.median(inside)),
        "share_in_95": float(np.mean([value <= INSIDE for value in inside])),
    }  # fmt: skip
