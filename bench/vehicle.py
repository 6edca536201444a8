"""What a vehicle gets from the localizer, measured in the synthetic town.

    python bench/vehicle.py loop models/town_demo --laps 3 --drive 5 6 7 --out bench/results/vehicle/loop_imposing.json
    python bench/vehicle.py live models/town_demo --laps 1 --pace 0.5 --out FILE     # the rest needs a sourced ROS 2
    python bench/vehicle.py start MAP --places 12 --out FILE
    python bench/vehicle.py maps --work out --out FILE
    python bench/vehicle.py overhead MAP --out FILE
    python bench/vehicle.py fused MAP --laps 0.5 --out FILE                          # and robot_localization

``loop``: a vehicle drives itself on map -> odom (examples/closed_loop.py), without ROS. ``live``: the same through the
node and TF: looked up fifty times a second on a clock that runs at ``--pace``. ``start``: from a satellite fix 5 m off
to the first pose, in real time, beside starts without one. ``maps``: two towns and the road between them, driven
through there and back with a map of each. ``overhead``: what the node costs beside the pipeline. ``fused``: the poses
with wheels and a gyroscope in robot_localization (bench/fused_vehicle.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import closed_loop
from closed_loop import AHEAD, CAMERA_RATE, RATE, SPEED, START_NS, Follower, Vehicle

from bench.fused_vehicle import fused
from bench.node_cost import overhead
from bench.timing import quantiles
from bench.two_towns import TwoTowns
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.se3 import inverse
from vloc_ros.localizers.device import device_name
from vloc_ros.messages import transform
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import Array

SECOND = 1_000_000_000
DATUM = Datum(48.0, 11.0, 500.0)
#: A published pose that is further off than this (m) is a wrong one.
WRONG_M = 1.0


# Round the town


def loop(given: argparse.Namespace) -> dict[str, Any]:
    """Laps without ROS; the file keeps the rows of other drives."""
    rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"] if given.out.exists() else []
    rows = [row for row in rows if row["drive"] not in given.drive]
    for index in given.drive:
        began = time.process_time()
        row = {"drive": index, "smoothing_s": given.smoothing}
        row |= closed_loop.drive(str(given.map), given.laps, smoothing_s=given.smoothing, index=index)
        row["p95_per_frame_median"] = row["map_base_p95_m"] / row["frame_median_m"]
        row["cpu_s"] = round(time.process_time() - began, 1)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"laps": sum(row["laps"] for row in rows), "rows": rows}


def live(given: argparse.Namespace) -> dict[str, Any]:
    """Laps through the node and TF."""
    import rclpy
    import tf2_ros
    from live_vehicle import LiveVehicle

    town = Town(1, 200.0)
    plan = Traversal(town, given.drive[0], spacing_m=0.5, weave_m=0.0)
    path = np.concatenate([plan.T_map_base[:, :2, 3], plan.T_map_base[:1, :2, 3]])
    follower, renderer, T = Follower(path), Renderer(town, default_camera()), plan.T_map_base[0]
    vehicle = Vehicle(town, *T[:2, 3], float(np.arctan2(T[1, 0], T[0, 0])), 1.01, np.radians(1.5) / 100)
    truth: dict[int, Array] = {}
    base, off, failed, missing, driven, stood, tick = [], [], [], 0, 0.0, 0, 0
    settings = {"map": given.map, "tf_smoothing": given.smoothing, "transform_tolerance": given.tolerance}
    settings["max_image_age"] = 5.0
    with LiveVehicle(renderer.camera, plan.T_base_cam, settings, given.pace) as car:
        car.ready()
        began = time.monotonic()
        while driven < given.laps * follower._arc[-1] and time.monotonic() - began < 60 * given.minutes:
            now = START_NS + tick * SECOND // RATE
            here = vehicle.T_map_base
            car.tick(now)
            car.odometry(now, vehicle.T_odom_base)
            if tick % (RATE // CAMERA_RATE) == 0:
                truth[now] = here
                near = int(np.argmin(np.linalg.norm(plan.T_map_base[:, :2, 3] - here[:2, 3], axis=1)))
                image = renderer.render_at(plan, (near + tick) % len(plan), here @ plan.T_base_cam).rgb
                car.image(now, image)
            tick += 1
            car.spin(max(0.001, began + tick / RATE / given.pace - time.monotonic()))
            try:
                found = car.buffer.lookup_transform("map", "base_link", rclpy.time.Time(nanoseconds=now))
            except tf2_ros.ExtrapolationException as problem:
                failed.append(f"{(now - START_NS) / SECOND:.2f} s: {problem}")
                stood += 1
                continue
            except tf2_ros.TransformException:
                # Before the first fix, and where the vehicle was lost: there is no map -> odom.
                missing += 1
                stood += 1
                continue
            believed = transform(found)
            base.append(float(np.linalg.norm(believed[:3, 3] - here[:3, 3])))
            off.append(follower.distance(here[:2, 3]))
            vehicle.move(SPEED / RATE, float(np.clip(follower.curvature(believed), -0.3, 0.3)))
            driven += SPEED / RATE
        values, states, code = dict(car.values), list(car.states), car.end()
        errors = [float(np.linalg.norm(T[:3, 3] - truth[s][:3, 3])) for s, _, T, _ in car.poses if s in truth]
    row = {
        "laps": driven / float(follower._arc[-1]), "pace": given.pace, "tolerance_s": given.tolerance,
        "frames": len(truth), "poses": len(errors),
        "look_ups": tick, "extrapolation_errors": len(failed), "before_the_first_fix": missing,
        "stood_s": stood / RATE, "frame_m": quantiles(errors), "map_base_m": quantiles(base), "path_m": quantiles(off),
        "p95_per_frame_median": float(np.quantile(base, 0.95) / np.median(errors)),
        "states": states, "frames_dropped": values.get("frames_dropped"), "exit_code": code,
        "failed": failed[:5], "aim_m": AHEAD,
    }  # fmt: skip
    return row


# A start beside a satellite fix


def with_datum(map_path: Path, folder: Path) -> Path:
    """A copy of a map that lies at :data:`DATUM`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(map_path, folder)
    manifest = yaml.safe_load((folder / "map.yaml").read_text(encoding="utf-8"))
    for scene in manifest["scenes"]:
        scene["datum"] = {"latitude_deg": DATUM.latitude_deg, "longitude_deg": DATUM.longitude_deg,
                          "altitude_m": DATUM.altitude_m}  # fmt: skip
    (folder / "map.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return folder


def start(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the first image to the first LOCALIZED pose, at many places, with a fix and without."""
    from live_vehicle import LiveVehicle
    from sensor_msgs.msg import NavSatFix

    town, rng = Town(1, 200.0), np.random.default_rng(0)
    drive, camera = Traversal(town, given.drive[0]), default_camera()
    renderer = Renderer(town, camera)
    places = np.linspace(0, len(drive) - 40, given.places).astype(int)
    images = {i: renderer.render(drive, i).rgb for p in places for i in range(p, p + given.frames)}
    map_path = with_datum(given.map, given.work / "with_datum")
    starts: dict[str, list[dict[str, float]]] = {"fix 5 m off": [], "no fix": []}
    earth, poses, tracked = [], [], []
    with LiveVehicle(camera, drive.T_base_cam, {"map": map_path}, log=given.work / "start.log") as car:
        fixes = car.hear(NavSatFix, "/vloc_localizer/fix")
        car.ready()
        for place in places:
            for how, rows in starts.items():
                assert car.call("reset")
                car.spin(0.3)
                car.poses.clear()
                fixes.clear()
                truth, states = {}, len(car.states)
                began, shift, first = time.perf_counter(), car.now(), None
                for k in range(given.frames):
                    due = began + k / given.rate
                    car.spin(max(0.0, due - time.perf_counter()))
                    stamp, T = shift + int(k / given.rate * SECOND), drive.T_map_base[place + k]
                    car.odometry(stamp, drive.T_odom_base[place + k])
                    if k == 0 and how != "no fix":
                        away = rng.normal(size=2)
                        off = T[:3, 3] + np.append(5.0 * away / np.linalg.norm(away), 0.0)
                        car.fix(stamp, np.array(DATUM.to_geodetic(off)).ravel(), 5.0)
                        car.spin(0.05)
                    truth[stamp] = T, car.image(stamp, images[place + k])
                car.spin(1.0)
                found = [(s, at, T) for s, at, T, _ in car.poses if s in truth]
                if found:
                    first = found[0][1] - truth[min(truth)][1]
                    tracked += [at - truth[s][1] for s, at, _ in found[1:]]
                rows.append({"place": int(place), "seconds": first,
                             "localized": "LOCALIZED" in car.states[states:],
                             "first_error_m": float(np.linalg.norm(found[0][2][:3, 3] - truth[found[0][0]][0][:3, 3]))
                             if found else None})  # fmt: skip
                print(how, rows[-1], flush=True)
                poses += [float(np.linalg.norm(T[:3, 3] - truth[s][0][:3, 3])) for s, _, T in found]
                for message in fixes:
                    s = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
                    if s in truth:
                        enu = DATUM.to_enu(message.latitude, message.longitude, message.altitude)
                        d = np.asarray(enu).ravel() - truth[s][0][:3, 3]
                        P = np.reshape(message.position_covariance, (3, 3))
                        earth.append((float(np.linalg.norm(d)), float(d @ np.linalg.solve(P, d))))
    tracked_s = float(np.median(tracked))
    out: dict[str, Any] = {"rate_hz": given.rate, "tracked_frame_ms_p50": round(1e3 * tracked_s, 1)}
    for how, rows in starts.items():
        seconds = [r["seconds"] for r in rows if r["seconds"] is not None]
        within = sum(s <= tracked_s + 1.0 for s in seconds)
        out[how] = {"starts": len(rows), "with_pose": len(seconds), "seconds": quantiles(seconds),
                    "within_a_tracked_frame_and_1_s": within, "rows": rows}  # fmt: skip
    out["pose_m"] = quantiles(poses)
    out["fix_topic"] = {"messages": len(earth), "error_m": quantiles([e for e, _ in earth]),
                        "share_in_95": float(np.mean([m <= 7.815 for _, m in earth]))}  # fmt: skip
    return out


# Two towns


def maps(given: argparse.Namespace) -> dict[str, Any]:
    """Driven through live."""
    from live_vehicle import LiveVehicle

    towns = TwoTowns()
    names = towns.maps(given.work)
    truth: dict[int, tuple[Array, str]] = {}
    settings = {"map": "", "maps": f'["{names[0]}", "{names[1]}"]', "max_image_age": 5.0}
    odometry, last = np.eye(4), None
    log = given.work / "maps.log"
    with LiveVehicle(towns.camera, towns.drives["west"].T_base_cam, settings, given.pace, log) as car:
        car.ready()
        began = time.monotonic()
        for number, place in enumerate(towns.drive(60.0)):
            stamp = START_NS + number * SECOND // CAMERA_RATE
            if last is not None:
                step = inverse(last) @ place.T_map_base
                step[:3, 3] *= 1.01
                odometry = odometry @ step
            last = place.T_map_base
            truth[stamp] = place.T_map_base, place.town
            car.tick(stamp)
            car.odometry(stamp, odometry)
            car.image(stamp, place.image)
            car.spin(max(0.02, began + (number + 1) / CAMERA_RATE / given.pace - time.monotonic()))
        car.spin(2.0)
        states = list(car.states)
        found = [(s, float(np.linalg.norm(T[:3, 3] - truth[s][0][:3, 3]))) for s, _, T, _ in car.poses if s in truth]
    stamps = np.array([s for s, _ in found])
    gaps = np.diff(stamps) / SECOND
    # A gap holds the border where the towns on its two sides differ, or where it lies in a bend.
    longest = sorted(
        (
            {
                "seconds": round(float(g), 1),
                "from": truth[int(a)][1],
                "to": truth[int(b)][1],
                "metres": round(5.0 * float(g), 1),
            }
            for g, a, b in zip(gaps, stamps, stamps[1:], strict=False)
        ),
        key=lambda row: -row["seconds"],
    )[:4]
    errors = [e for _, e in found]
    return {
        "frames": len(truth), "poses": len(found), "error_m": quantiles(errors),
        "wrong_poses": int(sum(e > WRONG_M for e in errors)), "longest_gaps": longest, "states": states,
        "poses_in": {name: sum(truth[s][1] == name for s, _ in found) for name in towns.towns},
        "changes": [line.split("]: ", 1)[-1][:160] for line in log.read_text().splitlines() if "map " in line],
        "pace": given.pace,
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "live", "start", "maps", "overhead", "fused"))
    parser.add_argument("map", nargs="?", type=Path)
    parser.add_argument("--drive", type=int, nargs="+", default=[5], help="drives of the town, each in its own light")
    parser.add_argument("--laps", type=float, default=1.0, help="of each drive")
    parser.add_argument("--smoothing", type=float, default=0.1, help="tf_smoothing of the node")
    parser.add_argument("--tolerance", type=float, default=0.5, help="live: transform_tolerance of the node")
    parser.add_argument("--pace", type=float, default=0.25, help="of the vehicle's clock")
    parser.add_argument("--minutes", type=float, default=8.0, help="live: the end")
    parser.add_argument("--places", type=int, default=12, help="starts along the drive")
    parser.add_argument("--frames", type=int, default=20, help="of a start, or of the overhead")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 960), help="overhead: of the images")
    parser.add_argument("--jpeg", action="store_true", help="overhead: images are compressed")
    parser.add_argument("--rate", type=float, default=5.0, help="start: images a second")
    parser.add_argument("--config", type=Path, help="fused: another parameter file of the filter")
    parser.add_argument("--work", type=Path, default=Path("out/vehicle"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.map is None and given.what != "maps":
        parser.error(f"{given.what}: expected a map")
    given.work.mkdir(parents=True, exist_ok=True)
    measures = {"loop": loop, "live": live, "start": start, "maps": maps, "overhead": overhead, "fused": fused}
    table = {
        "command": " ".join(["python", "bench/vehicle.py", *sys.argv[1:]]), "machine": device_name(torch.device("cpu")),
        **measures[given.what](given),
    }  # fmt: skip
    text = json.dumps(table, indent=1)
    print(text)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
