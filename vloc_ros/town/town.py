"""The town itself: everything that is the same in every traversal."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.town import scene
from vloc_ros.town.ground import GroundMap, paint_ground
from vloc_ros.town.layout import Street, Terrain, build_layout
from vloc_ros.town.placement import Grid, populate
from vloc_ros.town.props import Props
from vloc_ros.town.textures import Atlas, MipImage
from vloc_ros.types import Array

__all__ = ["Town"]

#: Room around the streets for two rows of houses.
MARGIN_M = 46.0


class Town:
    """A seeded synthetic town around one closed street of about ``loop_m`` metres.

    The map frame has x east, y north, z up, its origin near the loop's middle at mean ground height.
    Building takes some seconds for 200 m and grows with the length.

    :raises ConfigError: a loop shorter than 120 m or longer than 20 km, or a negative seed.
    """

    #: Raised whenever the same seed and length make another town; belongs into the provenance of what is made from one.
    VERSION: ClassVar[int] = 1

    def __init__(self, seed: int, loop_m: float = 200.0) -> None:
        if not 120.0 <= loop_m <= 20000.0:
            raise ConfigError(f"town: expected a loop of 120 to 20000 metres, found {loop_m}")
        if seed < 0:
            raise ConfigError(f"town: expected a seed of at least 0, found {seed}")
        self.seed, self.loop_m = int(seed), float(loop_m)
        rng = np.random.default_rng([self.seed, round(loop_m * 10), 77])
        self.layout = build_layout(rng, loop_m)
        points = np.vstack([self.layout.loop.points, *[s.points for s in self.layout.sides]])
        lower, upper = points.min(0) - MARGIN_M, points.max(0) + MARGIN_M
        self._lower, self._upper = lower, upper
        self.terrain = Terrain(rng, float(max(upper - lower)))
        # Kilometre towns paint their walls coarser, so that the atlas stays below half a gigabyte.
        atlas = Atlas(scale=min(1.0, (500.0 / loop_m) ** 0.5))
        self.props = Props(rng, atlas)
        placed = populate(rng, atlas, self.terrain, self.layout, self.props, lower, upper)
        self.rows: Array = np.array(placed.rows)
        self._blocks, self._crowns = placed.blocks, placed.crowns
        #: Ground polygons (4, 2) of buildings and fences.
        self.footprints: list[Array] = [polygon for polygon, _ in placed.blocks]
        count = max(2, int(loop_m / 70))
        self.crossings = [float(v) for v in rng.uniform(0, self.layout.loop.length, count)]
        self.ground_map = GroundMap(lower, upper)
        self.ground_texture = MipImage(paint_ground(rng, self.layout, self.ground_map, self.crossings))
        self.atlas: MipImage = atlas.build()
        self.skyline = self._make_skyline(rng)

    @property
    def loop(self) -> Street:
        """Centre line of the loop, counter-clockwise; vehicles keep right, on its outer side."""
        return self.layout.loop

    @property
    def area(self) -> tuple[Array, Array]:
        """Lower and upper corner (3,) of where the vehicle can be, metres in the map frame."""
        p = self.loop.points
        z = self.terrain.height(p[:, 0], p[:, 1])
        lower = np.array([p[:, 0].min() - 8.0, p[:, 1].min() - 8.0, z.min() - 1.0])
        upper = np.array([p[:, 0].max() + 8.0, p[:, 1].max() + 8.0, z.max() + 4.0])
        return lower, upper

    @staticmethod
    def _make_skyline(rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Elevation (rad) of the distant hills for 1024 azimuths."""
        az = np.arange(1024) * (2 * np.pi / 1024)
        out = np.full(1024, 0.045)
        for k in range(1, 40):
            out += rng.normal(0, 0.05 / (k + 2)) * np.cos(k * az + rng.uniform(0, 6.28))
        return np.asarray(np.clip(out, 0.012, 0.2), dtype=np.float32)

    @cached_property
    def shadow_grid(self) -> Grid:
        """The raster that shadow heights live on, 0.5 m cells."""
        return Grid(self._lower, self._upper, 2.0 if self.loop_m < 1500 else 1.0)

    @cached_property
    def tops(self) -> npt.NDArray[np.float32]:
        """Height (m, map frame) of the highest static thing in every shadow cell."""
        g = self.shadow_grid
        rows, cols = np.mgrid[0 : g.shape[0], 0 : g.shape[1]]
        out = (self.terrain.height(g.x0 + cols / g.k, g.y1 - rows / g.k) - 1.0).astype(np.float32)
        for polygon, top in sorted(self._blocks, key=lambda b: b[1]):
            cv2.fillConvexPoly(out, g.pixels(polygon), float(top), cv2.LINE_8, 4)
        for x, y, radius, z in self._crowns:
            c = g.pixels(np.array([[x, y]]))[0]
            layer = np.full_like(out, -1e3)
            cv2.circle(layer, (int(c[0]), int(c[1])), int(radius * g.k * 16), float(z), -1, cv2.LINE_8, 4)
            np.maximum(out, layer, out=out)
        return out

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Bounding-sphere centres (N, 3) and radii (N,) of the static quads."""
        return quad_bounds(self.rows)


def quad_bounds(rows: Array) -> tuple[Array, Array]:
    """Bounding-sphere centres and radii of quads."""
    half = 0.5 * (rows[:, scene.A] * rows[:, 9:10] + rows[:, scene.B] * rows[:, 10:11])
    return rows[:, scene.ORIGIN] + half, np.linalg.norm(half, axis=1)
