"""Does `vloc convert` need more memory for a longer drive?

Writes synthetic drives of tiny images in the layout of KITTI odometry, converts each in a process of its own, and notes
the process's peak memory (VmHWM of Linux) once the drive is open and at the end, the time and the size of the bag.
Prints the figures and writes them as JSON.

    python bench/convert_memory.py --frames 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def write_drive(folder: Path, frames: int) -> None:
    """``frames`` 8x6 PNG files on a wide circle, 10 Hz."""
    images, poses = folder / "sequences" / "00" / "image_0", folder / "poses"
    images.mkdir(parents=True)
    poses.mkdir()
    (folder / "sequences" / "00" / "calib.txt").write_text("P0: 7 0 3.5 0 0 7 2.5 0 0 0 1 0\n")
    rows = []
    for k in range(frames):
        pixels = np.full((6, 8, 3), k % 251, np.uint8)
        pixels[0, 0] = k // 251 % 251, k // 63001, 0
        (images / f"{k:06d}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        c, s = math.cos(k * 1e-3), math.sin(k * 1e-3)
        rows.append(f"{c:.12f} 0 {s:.12f} {500 * s:.9f} 0 1 0 0 {-s:.12f} 0 {c:.12f} {500 * c:.9f}")
    (poses / "00.txt").write_text("\n".join(rows) + "\n")
    (folder / "sequences" / "00" / "times.txt").write_text("".join(f"{0.1 * k:.6f}\n" for k in range(frames)))


def peak_mb() -> float:
    """Peak resident memory of this process; unlike ru_maxrss it does not begin with that of the parent."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def convert(source: str, out: str, storage: str) -> None:
    """In a process of its own: convert and print the peak memory."""
    from vloc_ros.convert.sequence import write_drive
    from vloc_ros.datasets.formats import open_source

    start, loaded = time.perf_counter(), peak_mb()
    (drive,) = open_source(f"kitti:{source}")
    opened = peak_mb()
    summary = write_drive(drive, out, storage=storage, resume=True)  # type: ignore[arg-type]
    row = {
        "frames": summary.frames,
        "peak_loaded_mb": loaded,
        "peak_opened_mb": opened,
        "peak_mb": peak_mb(),
        "seconds": round(time.perf_counter() - start, 1),
        "bag_mb": round(summary.size_bytes / 1e6, 1),
        "files": summary.files,
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--storage", default="mcap", choices=("mcap", "sqlite3"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/convert_memory.json"))
    parser.add_argument("--worker", nargs=3, metavar=("SRC", "OUT", "STORAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        convert(*options.worker)
        return
    rows = []
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            write_drive(Path(folder) / "kitti", frames)
            command = [sys.executable, __file__, "--worker", f"{folder}/kitti", f"{folder}/bag", options.storage]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(rows[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"storage": options.storage, "image": "8x6 png", "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
