"""How well do the poses of a drive fit its images? Relative rotations from feature matches against those of the poses.

    python bench/pose_quality.py --data SRC [--images left] [--step 5] [--out FILE]

For each frame and the one ``step`` after it the rotation that their matches show (as a map report shows it for a whole
drive, ``vloc_train/map_report/agreement.py``) against that of the poses. No map and no network are involved, so that it
says which frames' poses are off before anything is built on them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from vloc_ros.datasets.formats import open_source
from vloc_ros.geometry.rotations import rotation_angle
from vloc_train.map_report.agreement import Frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as vloc train takes it")
    parser.add_argument("--images", help="image folder of a KITTI-like drive")
    parser.add_argument("--step", type=int, default=5)
    parser.add_argument("--block", type=int, default=10, help="frames a row of the table")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    drive = open_source(options.data, images=options.images)[0]
    frames = Frames(drive)
    angles = np.full(len(drive), np.nan)
    for index in range(len(drive) - options.step):
        found = frames.between(index, index + options.step)
        if found is not None:
            angles[index] = np.degrees(rotation_angle(found.shown.R_b_a, found.stated[:3, :3]))
    rows = []
    for start in range(0, len(drive) - options.step, options.block):
        part = angles[start : start + options.block]
        part = part[np.isfinite(part)]
        if len(part):
            row = {
                "first_frame": start,
                "median_deg": round(float(np.median(part)), 3),
                "max_deg": round(float(part.max()), 3),
            }
            rows.append(row)
            print(f"frames {start:4d} on: median {row['median_deg']:.3f} deg, worst {row['max_deg']:.3f} deg")
    if options.out:
        options.out.write_text(json.dumps({"drive": drive.name, "step": options.step, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
