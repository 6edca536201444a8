"""A camera that passes a painted corner: a house wall, a side wall and the ground; images and depth follow exactly."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from vloc_ros.datasets.sequence import R_BODY_OPTICAL, T_BODY_OPTICAL, PosedSequence
from vloc_ros.geometry.cameras import unproject
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.types import CameraModel

CAMERA = CameraModel(240, 150, 190.0, 190.0, 119.5, 74.5)
LENS = CameraModel(240, 150, 190.0, 190.0, 119.5, 74.5, "plumb_bob", (-0.25, 0.06, 0.001, -0.001, 0.0))
START = 1_700_000_000_000_000_000
#: Planes n . p = d with two axes to paint along: wall across, wall to the left, ground.
PLANES = (
    ((1.0, 0.0, 0.0), 9.0, (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.0, 1.0, 0.0), 5.0, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.0, 0.0, 1.0), 0.0, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
)
PIXELS_A_METRE, SIDE = 64.0, 2048


def path(count: int = 8, step_m: float = 0.4, start_m: float = 0.0, seed: int = 0) -> np.ndarray:
    """(N, 4, 4) along the wall (towards the right), looking at it, with a little wobble."""
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        T[i, :3, :3] = so3_exp(rng.normal(0, 0.01, 3) + np.array([0.0, 0.05, 0.0])) @ R_BODY_OPTICAL
        T[i, :3, 3] = (0.1 * np.sin(i), -(start_m + step_m * i), 1.6)
    return T


@functools.lru_cache(maxsize=8)
def paint(seed: int, plane: int) -> np.ndarray:
    """Grey blocks and noise at several sizes."""
    rng = np.random.default_rng([seed, plane])
    out = np.zeros((SIDE, SIDE), np.float32)
    for size, weight in ((16, 30.0), (64, 40.0), (256, 50.0), (1024, 25.0)):
        noise = rng.normal(0, 1, (size, size)).astype(np.float32)
        out += weight * cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.clip(out + 128, 0, 255)


class Views:
    """Images and depth of some poses."""

    def __init__(self, T_map_cam: np.ndarray, camera: CameraModel = CAMERA, seed: int = 0, blank: bool = False) -> None:
        self.poses, self.camera, self.seed, self.blank = T_map_cam, camera, seed, blank
        v, u = np.indices((camera.height, camera.width), dtype=np.float64)
        self.rays = unproject(camera, np.stack([u, v], -1))

    def _hits(self, index: int):
        T = self.poses[index]
        rays = self.rays @ T[:3, :3].T
        best, number = np.full(rays.shape[:2], np.inf), np.zeros(rays.shape[:2], int)
        for plane, (normal, d, _, _) in enumerate(PLANES):
            with np.errstate(divide="ignore", invalid="ignore"):
                depth = (d - T[:3, 3] @ normal) / (rays @ normal)
            closer = (depth > 0.05) & (depth < best)
            best[closer], number[closer] = depth[closer], plane
        return T[:3, 3] + rays * np.minimum(best, 1e3)[..., None], best, number

    def image(self, index: int) -> np.ndarray:
        if self.blank:
            return np.full((self.camera.height, self.camera.width, 3), 128, np.uint8)
        points, depth, number = self._hits(index)
        grey = np.full(depth.shape, 200.0, np.float32)
        for plane, (_, _, along, up) in enumerate(PLANES):
            mine = (number == plane) & np.isfinite(depth)
            x, y = (np.mod(points @ np.array(a) * PIXELS_A_METRE, SIDE - 1).astype(np.float32) for a in (along, up))
            grey[mine] = cv2.remap(paint(self.seed, plane), x, y, cv2.INTER_LINEAR)[mine]
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    def depth(self, index: int) -> np.ndarray:
        return self._hits(index)[1].astype(np.float32)

    def frames(self):
        return ((i, self.image(i)) for i in range(len(self.poses)))


def drive(
    count: int = 8, camera: CameraModel = CAMERA, name: str = "street", T: np.ndarray | None = None, **views
) -> PosedSequence:
    """A drive past the corner."""
    poses = path(count) if T is None else T
    stamps = START + np.arange(len(poses), dtype=np.int64) * 100_000_000
    return PosedSequence(name, stamps, poses, T_BODY_OPTICAL.copy(), camera, Views(poses, camera, **views))


def on_surface(points: np.ndarray) -> np.ndarray:
    """(P,) distance (m) of points from the nearest plane."""
    return np.min([np.abs(points @ np.array(n) - d) for n, d, _, _ in PLANES], axis=0)
