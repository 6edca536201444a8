"""A small folder in the exact layout of every data set that is read."""

from __future__ import annotations

import cv2
import numpy as np
import tiny_datasets

from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp


def write_kitti(folder):
    """The layout of KITTI odometry; the options that it needs."""
    images = folder / "sequences" / "07" / "image_2"
    images.mkdir(parents=True)
    (folder / "poses").mkdir()
    for k in range(5):
        cv2.imwrite(str(images / f"{k:06d}.png"), np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8))
    (images.parent / "times.txt").write_text("".join(f"{0.103 * k:.6e}\n" for k in range(5)))
    (images.parent / "calib.txt").write_text("P0: 7 0 3 0 0 7 2 0 0 0 1 0\nP2: 7 0 3 0.35 0 7 2 0.01 0 0 1 0.002\n")
    poses = []
    for k in range(5):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = so3_exp([0.0, 0.05 * k, 0.01 * k]), (0.1 * k, 0.02, 0.9 * k)
        poses.append(" ".join(f"{v:.12e}" for v in T[:3].reshape(-1)))
    (folder / "poses" / "07.txt").write_text("\n".join(poses) + "\n")
    return {}


def write_tum(folder):
    """The layout of TUM RGB-D."""
    (folder / "rgb").mkdir(parents=True)
    for k in range(4):
        image = np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / "rgb" / f"1305031102.{175304 + 33_000 * k:06d}.png"), image)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for k in range(9):
        q = matrix_to_quaternion(so3_exp([0.02 * k, 0.0, -0.1 * k]))
        lines.append(
            f"{1305031102.16 + 0.02 * k:.4f} {0.1 * k} {1.0 - 0.01 * k} 1.5 " + " ".join(f"{v:.9f}" for v in q)
        )
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return {"intrinsics": [7.0, 7.0, 3.5, 2.5], "distortion": [0.2, -0.9, 0.001, 0.002]}


def write_robotcar(folder):
    tiny_datasets.write_robotcar(folder.parent, [folder.name])
    return {"camera": "stereo/centre"}


def write_robotcar_seasons(folder):
    tiny_datasets.write_robotcar_seasons(folder, ["night"])
    return {"camera": "rear", "condition": "night"}


def write_fourseasons(folder):
    tiny_datasets.write_fourseasons(folder.parent, [folder.name])
    return {}


def write_seven_scenes(folder):
    tiny_datasets.write_seven_scenes(folder.parent, [folder.name])
    return {"split": "all"}


def write_cambridge(folder):
    tiny_datasets.write_cambridge(folder.parent, [folder.name])
    return {"split": "all", "focal": 10.0}


def write_apolloscape(folder):
    tiny_datasets.write_apolloscape(folder.parent, [folder.name])
    return {"camera": "Camera_5"}


def by_poses(write):
    """A writer of one drive that is told its poses."""

    def written(folder):
        write(folder, tiny_datasets.poses())
        return {}

    return written


#: A small folder in the exact layout of every format, and the options to read it with. A format that has no writer here
#: fails test_every_format_makes_the_round_trip.
WRITERS = {
    "apolloscape": write_apolloscape,
    "cambridge": write_cambridge,
    "colmap": by_poses(tiny_datasets.write_colmap),
    "euroc": by_poses(tiny_datasets.write_euroc),
    "fourseasons": write_fourseasons,
    "kapture": by_poses(tiny_datasets.write_kapture),
    "kitti": write_kitti,
    "nerf": by_poses(tiny_datasets.write_nerf),
    "robotcar": write_robotcar,
    "robotcar_seasons": write_robotcar_seasons,
    "seven_scenes": write_seven_scenes,
    "tum": write_tum,
}
