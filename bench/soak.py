"""Does it grow? Memory, open files and threads of the pipeline over many frames, and of the live node over minutes.

    python bench/soak.py pipeline --map MAP --data DRIVE --frames 100000
    python bench/soak.py live --map MAP --data DRIVE --minutes 30 --rate 5      (with a sourced ROS 2)

The drive is driven to its end and back, again and again, with new stamps and noise. Of the pipeline's frames every
50th is black, every 70th comes without intrinsics, every 90th is no image, and every 1000th is an hour later than that
before; live the camera is silent for a twentieth of the time. Prints a row now and then and writes the figures: medians
of the second and the last fifth, and by how much they grew.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.datasets.formats import open_source
from vloc_ros.frames import Frame
from vloc_ros.images.decode import CompressedImage, RawImage
from vloc_ros.localizers.base import load_localizer
from vloc_ros.pipeline import Pipeline, PipelineSettings
from vloc_ros.tracking import Tracker, TrackerSettings

SECOND = 1_000_000_000


def usage(pid: int | str = "self") -> dict[str, float]:
    """Of a process: resident megabytes, open files, threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return {"mb": int(fields["VmRSS"].split()[0]) / 1e3, "files": files, "threads": int(fields["Threads"])}


def there_and_back(count: int, number: int) -> int:
    """The frame of a drive of ``count`` that is the ``number``-th on the way to its end and back."""
    at = number % (2 * count - 2)
    return at if at < count else 2 * count - 2 - at


class Pictures:
    """Pictures of a drive, with the noise of a sensor."""

    def __init__(self, drive: PosedSequence) -> None:
        self.drive = drive
        self._known = [np.asarray(drive.image(i)).astype(np.int16) for i in range(min(len(drive), 400))]
        self._noise = np.random.default_rng(0).integers(-2, 3, (37, *self._known[0].shape), dtype=np.int16)
        self.count = len(self._known)

    def picture(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        noise = np.roll(self._noise[number % len(self._noise)], number, axis=1)
        return np.clip(self._known[there_and_back(self.count, number)] + noise, 0, 255).astype(np.uint8)

    def T_map_base(self, number: int) -> np.ndarray:
        """(4, 4) where the vehicle is."""
        return np.asarray(self.drive.T_map_base[there_and_back(self.count, number)])


def flat(rows: list[dict[str, float]], key: str) -> dict[str, float]:
    """Medians of the second and the last fifth."""
    fifth = max(1, len(rows) // 5)
    early, late = (np.median([row[key] for row in part]) for part in (rows[fifth : 2 * fifth], rows[-fifth:]))
    return {"early": round(float(early), 2), "late": round(float(late), 2), "grown": round(float(late - early), 2)}


def pipeline(options: argparse.Namespace) -> dict[str, Any]:
    """Many frames through one pipeline."""
    drive = open_source(options.data)[0]
    pictures, T_base_cam = Pictures(drive), np.asarray(drive.T_base_cam)
    T_base_cam = T_base_cam if T_base_cam.ndim == 2 else T_base_cam[0]
    rows, refused, states = [], Counter[str](), Counter[str]()
    with load_localizer(options.map, "cpu") as localizer:
        made = Pipeline(
            localizer, PipelineSettings(), Tracker(TrackerSettings(max_sigma_m=options.sigma, max_sigma_deg=60.0))
        )
        stamp, number, began = SECOND, 0, time.monotonic()
        for number in range(options.frames):
            stamp += 3600 * SECOND if number % 1000 == 999 else SECOND // 10
            image: Any = pictures.picture(number)
            if number % 50 == 49:
                image = np.zeros_like(image)
            elif number % 90 == 89:
                image = CompressedImage("jpeg", b"\xff\xd8no image at all")
            elif number % 3 == 0:
                image = CompressedImage("jpeg", cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
            elif number % 3 == 1:
                image = RawImage("rgb8", image.shape[1], image.shape[0], 3 * image.shape[1], False, image.tobytes())
            camera = None if number % 70 == 69 else drive.camera
            result = made.process(Frame(stamp, image, camera, False, T_base_cam, pictures.T_map_base(number)))
            refused[str(result.refused)] += 1
            states[result.state.value] += 1
            made.snapshot()
            if number % 500 == 0:
                rows.append({"at": number, **usage()})
                if len(rows) % 20 == 1:
                    print(rows[-1], flush=True)
                if time.monotonic() - began > 60 * options.minutes:
                    break
    seconds = time.monotonic() - began
    return {
        "frames": number + 1, "seconds": round(seconds, 1), "refused": dict(refused), "states": dict(states),
        **{key: flat(rows, key) for key in ("mb", "files", "threads")},
    }  # fmt: skip


def live(options: argparse.Namespace) -> dict[str, Any]:
    """The node, fed by a publisher in this process."""
    from live_vehicle import LiveVehicle

    drive = open_source(options.data)[0]
    pictures = Pictures(drive)
    T_base_cam = np.asarray(drive.T_base_cam)
    T_base_cam = T_base_cam if T_base_cam.ndim == 2 else T_base_cam[0]
    settings = {"map": options.map, "tracker.max_sigma_m": options.sigma, "tracker.max_sigma_deg": 60.0}
    with LiveVehicle(drive.camera, T_base_cam, settings) as vehicle:
        vehicle.ready()
        rows, began, number, silent = [], time.monotonic(), 0, 0
        while time.monotonic() - began < 60 * options.minutes and vehicle.process.poll() is None:
            now = vehicle.now()
            vehicle.odometry(now, pictures.T_map_base(number))
            if number % 600 < 570:  # and now and then the camera is silent for a while
                vehicle.image(now, pictures.picture(number))
            else:
                silent += 1
            number += 1
            vehicle.spin(max(0.0, began + number / options.rate - time.monotonic()))
            if number % max(1, int(10 * options.rate)) == 0:
                at = round(time.monotonic() - began)
                rows.append({"at": at, **usage(vehicle.process.pid), "poses": len(vehicle.poses)})
                if len(rows) % 30 == 1:
                    print(rows[-1], flush=True)
        asked = time.monotonic()
        code = vehicle.end()
        ended = time.monotonic() - asked
    return {
        "minutes": options.minutes, "rate_hz": options.rate, "frames": number - silent, "silent": silent,
        "poses": len(vehicle.poses), "exit_code": code, "ending_s": round(ended, 2),
        **{key: flat(rows, key) for key in ("mb", "files", "threads")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pipeline", "live"))
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--data", required=True, help="a drive through the map, as vloc train takes it")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=30.0, help="the end, of the pipeline too")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    parser.add_argument("--sigma", type=float, default=3.0, help="tracker.max_sigma_m, for a map that is less exact")
    parser.add_argument("--out", type=Path, help="JSON with the figures")
    options = parser.parse_args()
    found = (pipeline if options.what == "pipeline" else live)(options)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
