"""A drive past a painted wall whose depth is known exactly, and a PixLoc trainer small enough for seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tiny_drive

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.cameras import project
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel
from vloc_train.pixloc.settings import PairSettings, PointSettings, PriorSettings, TrainSettings
from vloc_train.training.augment import AugmentSettings

CAMERA = tiny_drive.CAMERA
NETWORK: dict[str, Any] = {
    "encoder": "plain", "encoder_options": {"channels": [8, 12, 16], "convolutions": 1}, "strides": (1, 4),
    "dimensions": (8, 12), "decoder": (12, 8),
}  # fmt: skip


class Walls:
    """Images and depths of poses inside a box of painted walls (x and y at plus or minus 12 m, z at 0 and 8 m)."""

    half, floor, roof = 12.0, 0.0, 8.0

    def __init__(self, T_map_cam: np.ndarray, paint: int = 0, camera: CameraModel = CAMERA) -> None:
        self.poses, self.paint, self.camera = T_map_cam, paint, camera

    def _hit(self, T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = np.meshgrid(np.arange(self.camera.width), np.arange(self.camera.height))
        rays = np.stack(
            [(u - self.camera.cx) / self.camera.fx, (v - self.camera.cy) / self.camera.fy, np.ones(u.shape)], -1
        )
        rays = rays @ T[:3, :3].T
        low, high = np.array([-self.half, -self.half, self.floor]), np.array([self.half, self.half, self.roof])
        with np.errstate(divide="ignore"):
            far = np.where(rays > 0, (high - T[:3, 3]) / rays, (low - T[:3, 3]) / rays)
        depth = np.where(np.abs(rays) < 1e-9, np.inf, far).min(axis=-1)
        return T[:3, 3] + rays * depth[..., None], depth

    def image(self, index: int) -> np.ndarray:
        point, _ = self._hit(self.poses[index])
        rng = np.random.default_rng(self.paint)
        out = np.zeros(point.shape)
        for _ in range(14):
            wave, phase = rng.normal(0, 0.9, 3), rng.uniform(0, 6.28, 3)
            out += rng.normal(0, 1, 3) * np.cos((point @ wave)[..., None] + phase)
        return np.clip(128 + 28 * out, 0, 255).astype(np.uint8)

    def depth(self, index: int) -> np.ndarray:
        return self._hit(self.poses[index])[1].astype(np.float32)

    def frames(self):
        return ((i, self.image(i)) for i in range(len(self.poses)))


def drive(
    count: int = 24, name: str = "lap", phase: float = 0.0, paint: int = 0, camera: CameraModel = CAMERA
) -> PosedSequence:
    """A lap in the box, 6 m from its middle."""
    poses = tiny_drive.circle(count, radius=6.0, phase=phase)
    stamps = tiny_drive.START + np.arange(count, dtype=np.int64) * 100_000_000
    return PosedSequence(name, stamps, poses, np.eye(4), camera, Walls(poses, paint, camera))


def settings(**changes: Any) -> TrainSettings:
    """A trainer small enough for seconds."""
    base: dict[str, Any] = {
        "network": NetworkSettings(**{**NETWORK, **changes.pop("network", {})}),
        "optimizer": OptimizerSettings(iterations=8), "train_iterations": 5,
        "points": PointSettings(stored=256, drawn=64),
        "pairs": PairSettings(reach_m=4.0, max_angle_deg=45.0),
        "prior": PriorSettings("noise", 0.6, 4.0),
        "augment": AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0)),
        "image_width": CAMERA.width, "image_height": CAMERA.height, "both_ways": True, "clamp_px": 50.0,
        "epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "damping_rate": 10.0, "precision": "float32",
    }  # fmt: skip
    return TrainSettings(**{**base, **changes})


def sparse_model(drive: PosedSequence, rows: Sequence[int] = (0, 2)) -> tuple[SparseModel, np.ndarray]:
    """Twelve points that two frames of a drive with a lens see."""
    rng = np.random.default_rng(0)
    T = drive.T_map_cam[list(rows)]
    cam = rng.uniform((-1.5, -1, 4), (1.5, 1, 6), (12, 3))
    points = cam @ T[0, :3, :3].T + T[0, :3, 3]
    offsets, ids, pixels = [0], [], []
    for pose in T:
        uv, valid = project(drive.camera, (points - pose[:3, 3]) @ pose[:3, :3])
        ids += np.flatnonzero(valid).tolist()
        pixels += uv[valid].tolist()
        offsets.append(len(ids))
    n = len(rows)
    model = SparseModel(
        points, np.full(12, 2, np.int32), np.zeros(12, np.float32), np.array(offsets), np.array(ids),
        np.array(pixels), T, drive.stamps_ns[list(rows)], np.zeros(n, np.int64), (drive.camera,),
        np.zeros(n, np.int64), np.array(rows),
    )  # fmt: skip
    return model, points
