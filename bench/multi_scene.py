"""How often does a multi-scene map find the scene that nobody named?

    python bench/multi_scene.py --map MAP --data SCENE=DRIVE SCENE=DRIVE [--every 4]

Localizes every n-th frame of each drive twice, with the scene named and without, and prints the share of right scenes
and the median errors of both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.images.rectify import Rectifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True, metavar="SCENE=DRIVE")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("bench/results/multi_scene.json"))
    options = parser.parse_args()
    result: dict[str, object] = {"map": options.map.name, "scenes": {}}
    right_total = frames_total = 0
    with vloc_ros.load_localizer(options.map) as localizer:
        for word in options.data:
            scene, _, path = word.partition("=")
            drive = open_sequence(path)
            rectifier = Rectifier(drive.camera)
            errors: dict[str, list[np.ndarray]] = {"named": [], "unnamed": []}
            right = 0
            for index, image in drive.frames():
                if index % options.every:
                    continue
                upright, camera = rectifier.rectify(image)
                stamp, truth = int(drive.stamps_ns[index]), drive.T_map_cam[index]
                named = localizer.localize(vloc_ros.Query(upright, camera, stamp, scene=scene))
                found = localizer.localize(vloc_ros.Query(upright, camera, stamp))
                right += found.scene == scene
                errors["named"].append(pose_error(named.T_map_cam, truth))
                # In the wrong scene the pose means nothing: it counts as infinitely far.
                unnamed = pose_error(found.T_map_cam, truth)
                errors["unnamed"].append(unnamed if found.scene == scene else np.full(6, np.inf))
            frames = len(errors["named"])
            right_total, frames_total = right_total + right, frames_total + frames
            figures: dict[str, float] = {"frames": frames, "scene_accuracy": round(right / frames, 4)}
            for name, rows in errors.items():
                table = np.asarray(rows)
                figures[f"{name}_median_m"] = round(float(np.median(np.linalg.norm(table[:, :3], axis=1))), 3)
                angle = np.linalg.norm(table[:, 3:], axis=1)
                figures[f"{name}_median_deg"] = round(float(np.degrees(np.median(angle))), 3)
            result["scenes"][scene] = figures  # type: ignore[index]
    result["scene_accuracy"] = round(right_total / frames_total, 4)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
