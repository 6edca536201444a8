"""Renders a traversal's frames: colours, exact depth, surface ids."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.town import scene
from vloc_ros.town.raster import GROUND, SKY, Rays, rasterise
from vloc_ros.town.shading import shade
from vloc_ros.town.textures import F32
from vloc_ros.town.town import Town, quad_bounds
from vloc_ros.town.traversal import Traversal
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["Rendered", "Renderer", "default_camera"]


def default_camera(width: int = 240, height: int = 135, fov_deg: float = 75.0) -> CameraModel:
    """A pinhole camera. :param fov_deg: horizontal field of view."""
    f = 0.5 * width / np.tan(np.radians(0.5 * fov_deg))
    return CameraModel(width, height, float(f), float(f), (width - 1) / 2, (height - 1) / 2)


@dataclass(frozen=True)
class Rendered:
    """One frame.

    ``rgb`` (H, W, 3) uint8; ``depth`` (H, W) float32 metres along the optical axis at the pixel centre, inf in the
    sky; ``ids`` (H, W) int32: 0 sky, 1 ground, 2 + row for a static quad, negative for parked and moving things.
    """

    rgb: RgbImage
    depth: F32
    ids: npt.NDArray[np.int32]
    T_map_cam: Array
    camera: CameraModel
    rays: Rays

    @property
    def static(self) -> npt.NDArray[np.bool_]:
        """(H, W): the pixel shows a surface that every traversal shares."""
        return self.ids > 0

    @property
    def moving(self) -> npt.NDArray[np.bool_]:
        """(H, W): the pixel shows a parked or moving occluder."""
        return self.ids < 0

    @property
    def points_map(self) -> Array:
        """(H, W, 3) float64 surface points in the map frame, NaN in the sky."""
        d = np.where(np.isfinite(self.depth), self.depth, np.nan).astype(np.float64)
        cam = np.stack([self.rays.x * d, self.rays.y * d, d], -1)
        return np.asarray(cam @ self.T_map_cam[:3, :3].T + self.T_map_cam[:3, 3])

    def sample_points(
        self, n: int, seed: int = 0, max_depth_m: float = 60.0
    ) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.int32]]:
        """Pixels (K, 2) column-row, map points (K, 3) and ids (K,) of at most ``n`` static surface points."""
        ok = np.nonzero((self.static & (self.depth < max_depth_m)).ravel())[0]
        rng = np.random.default_rng([seed, 11])
        pick = np.sort(rng.choice(ok, min(n, len(ok)), replace=False)) if len(ok) else ok
        rows, cols = np.divmod(pick, self.camera.width)
        return np.stack([cols, rows], 1), self.points_map[rows, cols], self.ids[rows, cols]


class Renderer:
    """Draws frames of traversals of ``town`` with ``camera``.

    :param antialias: soften silhouettes by averaging across surface borders (textures are always filtered).
    :param noise: add seeded sensor noise.
    """

    def __init__(self, town: Town, camera: CameraModel, antialias: bool = True, noise: bool = True) -> None:
        self.town, self.camera = town, camera
        self.antialias, self.noise = antialias, noise
        self._rays = Rays(camera)

    def render(self, trav: Traversal, i: int) -> Rendered:
        """Frame ``i`` of ``trav`` from its own pose."""
        return self.render_at(trav, i, trav.T_map_cam[i])

    def render_at(self, trav: Traversal, i: int, T_map_cam: Array) -> Rendered:
        """The scene of frame ``i`` (light, traffic) seen from any camera pose."""
        T = np.asarray(T_map_cam, dtype=np.float64)
        moving = trav.moving_rows(i)
        static = trav.static_rows
        pixels = rasterise(
            static, trav.static_bounds, moving, quad_bounds(moving), self.town.terrain, self.town.atlas, T, self._rays
        )
        colour = shade(trav, i, pixels, self._rays, T)
        if self.antialias:
            colour = _soften(colour, pixels.ids)
        rgb = self._develop(trav, i, colour)
        with np.errstate(divide="ignore"):
            depth = np.where(pixels.w > 0, 1 / pixels.w, np.float32(np.inf)).astype(np.float32)
        vis = pixels.visible
        transient = vis.rows[:, scene.MOVING] > 0
        names = np.where(transient, -2 - vis.source, 2 + vis.source).astype(np.int32)
        names = np.concatenate([names, np.array([0, 1], np.int32)])  # SKY = -2, GROUND = -1 count from the end
        assert (SKY, GROUND) == (-2, -1)
        return Rendered(rgb, depth, names[pixels.ids], T, self.camera, self._rays)

    def _develop(self, trav: Traversal, i: int, colour: F32) -> RgbImage:
        """Exposure, white balance, film curve, sensor noise."""
        light = trav.light
        c = colour * (light.exposure * light.white_balance * 1.9).astype(np.float32)
        c = 1 - np.exp(-c)
        grey = c.mean(-1, keepdims=True)
        c = grey + (c - grey) * np.float32(light.saturation)
        c = np.sqrt(np.maximum(c, 0)) * np.float32(255)
        if self.noise:
            rng = np.random.default_rng(trav.noise_seed(i))
            c += rng.standard_normal(c.shape, dtype=np.float32) * np.float32(2.0)
        return np.asarray(np.clip(c + np.float32(0.5), 0, 255), dtype=np.uint8)


def _soften(colour: F32, ids: npt.NDArray[np.int32]) -> F32:
    """Average over 3x3 where neighbouring pixels show different surfaces."""
    edge = np.zeros(ids.shape, np.uint8)
    dx, dy = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edge[:, 1:] |= dx
    edge[:, :-1] |= dx
    edge[1:] |= dy
    edge[:-1] |= dy
    soft = cv2.GaussianBlur(colour, (3, 3), 0.6)
    mask = edge.astype(bool)
    out = colour.copy()
    out[mask] = soft[mask]
    return out
