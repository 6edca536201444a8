"""How well do the poses of a drive fit its images? Relative rotations from feature matches against those of the poses.

    python bench/pose_quality.py --data SRC [--images left] [--step 5] [--out FILE]

For each frame and the one ``step`` after it: SIFT matches, the essential matrix by MAGSAC++ (OpenCV), and the angle
between its rotation and that of the poses. No map and no network are involved, so that it says which frames' poses are
off before anything is built on them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.datasets.formats import open_source
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.images.rectify import Rectifier


def relative_rotation(a: np.ndarray, b: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, int] | None:
    """``R_b_a`` and the number of inliers between two rectified images; None where too few points match."""
    sift, matcher = cv2.SIFT_create(3000), cv2.BFMatcher()
    points, descriptors = zip(
        *(sift.detectAndCompute(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), None) for x in (a, b)), strict=True
    )
    if any(d is None or len(d) < 8 for d in descriptors):
        return None
    pairs = [m[0] for m in matcher.knnMatch(*descriptors, k=2) if len(m) == 2 and m[0].distance < 0.75 * m[1].distance]
    if len(pairs) < 30:
        return None
    first = np.array([points[0][m.queryIdx].pt for m in pairs])
    second = np.array([points[1][m.trainIdx].pt for m in pairs])
    E, mask = cv2.findEssentialMat(first, second, K, cv2.USAC_MAGSAC, 0.9999, 1.0)
    if E is None or E.shape != (3, 3):
        return None
    inliers, R, _, _ = cv2.recoverPose(E, first, second, K, mask=mask)
    return R, int(inliers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as vloc train takes it")
    parser.add_argument("--images", help="image folder of a KITTI-like drive")
    parser.add_argument("--step", type=int, default=5)
    parser.add_argument("--block", type=int, default=10, help="frames a row of the table")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setRNGSeed(0)
    drive = open_source(options.data, images=options.images)[0]
    rectifier = Rectifier(drive.camera)
    K = rectifier.target.K
    angles = np.full(len(drive), np.nan)
    for index in range(len(drive) - options.step):
        a, b = (rectifier.rectify(drive.image(i))[0] for i in (index, index + options.step))
        found = relative_rotation(a, b, K)
        if found is None:
            continue
        T = np.linalg.inv(drive.T_map_cam[index + options.step]) @ drive.T_map_cam[index]
        angles[index] = np.degrees(rotation_angle(found[0], T[:3, :3]))
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
