"""What the node costs beside the pipeline that it drives (bench/vehicle.py overhead)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.timing import quantiles
from vloc_ros.frames import Frame
from vloc_ros.images.decode import CompressedImage
from vloc_ros.localizers.base import load_localizer
from vloc_ros.pipeline import Pipeline
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import CameraModel, RgbImage

#: Between two frames (s): a processor that has been idle is up to twice as slow as one in a tight loop.
PAUSE_S = 0.15
#: Stamps of the frames: where they begin (ns), and how far they are apart.
START_NS, STEP_NS = 1_700_000_000_000_000_000, 100_000_000


def overhead(given: argparse.Namespace) -> dict[str, Any]:
    """Large images through the pipeline here, and through the node there."""
    from live_vehicle import JPEG, LiveVehicle, jpeg

    town = Town(1, 200.0)
    drive, camera = Traversal(town, given.drive[0]), default_camera(*given.size)
    renderer = Renderer(town, camera)
    images = [renderer.render(drive, i).rgb for i in range(given.frames)]
    rows: dict[str, list[float]] = {"replay": [], "at a pace": [], "live": [], "node": [], "handing": []}
    with load_localizer(given.map, "cpu") as localizer:
        localizer.warm_up()
        for pause in (0.0, PAUSE_S):
            pipeline, made = Pipeline(localizer), rows["at a pace" if pause else "replay"]
            for k, image in enumerate(images):
                time.sleep(pause)
                stamp = START_NS + k * STEP_NS
                picture = CompressedImage(JPEG, jpeg(image)) if given.jpeg else image
                result = pipeline.process(Frame(stamp, picture, camera, False, drive.T_base_cam, drive.T_odom_base[k]))
                if result.publish:
                    made.append(result.timings_ms["total"])
    settings = {"map": given.map, "diagnostics_period": 0.05, "image_transport": "compressed" if given.jpeg else "raw"}
    with LiveVehicle(camera, drive.T_base_cam, settings) as car:
        car.ready()
        for k, image in enumerate(images):
            now = car.now()
            car.odometry(now, drive.T_odom_base[k])
            before, handed = len(car.poses), car.image(now, image)
            rows["handing"].append(1e3 * (time.perf_counter() - handed))
            end = time.monotonic() + 0.6
            while len(car.poses) == before and time.monotonic() < end:
                car.spin(0.002)
            heard = len(car.poses) > before
            if heard:
                rows["live"].append(1e3 * (car.poses[-1][1] - handed))
            car.spin(PAUSE_S)
            if heard:
                rows["node"].append(float(car.values["time_total_ms"]))
    both = min(len(rows["live"]), len(rows["node"]))
    beside = [a - b for a, b in zip(rows["live"][:both], rows["node"][:both], strict=True)]
    live, paced = float(np.median(rows["live"])), float(np.median(rows["at a pace"]))
    return {
        "image": [camera.width, camera.height], "transport": settings["image_transport"],
        "frames": given.frames, "poses_live": len(rows["live"]),
        "seconds_between_frames": PAUSE_S,
        "replay_ms": quantiles(rows["replay"]), "replay_with_frames_apart_as_live_ms": quantiles(rows["at a pace"]),
        "image_to_pose_live_ms": quantiles(rows["live"]), "pipeline_in_the_node_ms": quantiles(rows["node"]),
        "publishing_the_image_ms": quantiles(rows["handing"]), "beside_the_pipeline_ms": quantiles(beside),
        "node_above_its_pipeline_ms": in_this_process(given.map, camera, drive, images),
        "live_above_replay_ms_p50": round(live - paced, 2), "map_points": without_listener(),
    }  # fmt: skip


def in_this_process(map_path: Path, camera: CameraModel, drive: Traversal, images: list[RgbImage]) -> dict[str, float]:
    """What the node does to a frame beside the pipeline (message to frame, TF, publishing), without transport, ms."""
    import rclpy
    from live_vehicle import image_messages, transform_message
    from rclpy.parameter import Parameter

    from vloc_ros.nodes.inputs import ReceivedFrame
    from vloc_ros.nodes.localizer import VlocLocalizer

    rclpy.init(args=[])
    values = {"map": str(map_path), "device": "cpu", "autostart": False, "max_image_age": 0.0}
    node = VlocLocalizer(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    beside = []
    try:
        node.trigger_configure()
        node.trigger_activate()
        engine, tf = node.engine, node.tf
        assert engine is not None and tf is not None
        tf.buffer.set_transform_static(transform_message("base_link", "camera", drive.T_base_cam, 0), "vehicle")
        for k, pixels in enumerate(images):
            stamp = START_NS + k * STEP_NS
            info, message = image_messages(camera, stamp, pixels)
            tf.buffer.set_transform(transform_message("odom", "base_link", drive.T_odom_base[k], stamp), "vehicle")
            began = time.perf_counter()
            engine.process([ReceivedFrame(message, lambda info=info: info)])
            took = 1e3 * (time.perf_counter() - began)
            result = engine.last_result
            if result is not None and result.publish:
                beside.append(took - result.timings_ms["total"])
        node.close(5.0)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return quantiles(beside)


def without_listener(ticks: int = 20_000) -> dict[str, Any]:
    """What ``~/map_points`` costs a tick of the node while nobody listens, and how often the points are made."""
    import rclpy
    from rclpy.lifecycle import LifecycleNode

    from vloc_ros.nodes.outputs import Outputs

    made: list[int] = []

    def points() -> None:
        made.append(1)

    rclpy.init(args=[])
    node = LifecycleNode("outputs")
    outputs = Outputs(node, "map")
    try:
        node.trigger_configure()
        node.trigger_activate()
        began = time.perf_counter()
        for k in range(ticks):
            outputs.map_points(points, k)
        return {"ticks": ticks, "made": len(made), "us_a_tick": round(1e6 * (time.perf_counter() - began) / ticks, 2)}
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
