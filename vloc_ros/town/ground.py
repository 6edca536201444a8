"""The ground seen from above: lanes, markings, patches, pavements, grass, drawn once into one map."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.town.layout import Layout
from vloc_ros.town.textures import U8
from vloc_ros.types import Array

__all__ = ["GroundMap", "paint_ground"]


Colour = tuple[int, int, int, int]


class GroundMap:
    """Scale between map metres and the ground image: column (x - x0) * k, row (y1 - y) * k."""

    def __init__(self, lower: Array, upper: Array) -> None:
        size = float(max(upper - lower))
        self.k = 25.0 if size < 260 else max(2.0, 6000.0 / size)
        self.x0, self.y1 = float(lower[0]), float(upper[1])
        self.shape = (int((upper[1] - lower[1]) * self.k), int((upper[0] - lower[0]) * self.k))

    def pixels(self, xy: Array) -> npt.NDArray[np.int32]:
        """Fixed-point (4 fractional bits) drawing coordinates."""
        p = np.stack([(xy[:, 0] - self.x0) * self.k, (self.y1 - xy[:, 1]) * self.k], 1)
        return np.asarray(np.round((p - 0.5) * 16), dtype=np.int32)

    def line(self, img: U8, xy: Array, width_m: float, colour: Colour, closed: bool = False) -> None:
        """A round-ended band."""
        cv2.polylines(img, [self.pixels(xy)], closed, colour, max(1, int(width_m * self.k)), cv2.LINE_AA, 4)

    def polygon(self, img: U8, xy: Array, colour: Colour) -> None:
        """A filled convex polygon."""
        cv2.fillConvexPoly(img, self.pixels(xy), colour, cv2.LINE_AA, 4)


def _strip(p: Array, t: Array, offset: float) -> Array:
    return p + offset * np.stack([-t[:, 1], t[:, 0]], 1)


def paint_ground(rng: np.random.Generator, layout: Layout, gm: GroundMap, crossings: list[float]) -> U8:
    """RGBA ground image; the fourth channel is 255 on grass, 128 on pavement, 0 on the carriageway."""
    h, w = gm.shape
    img = np.empty((h, w, 4), np.uint8)
    img[:] = (88, 112, 58, 255)
    streets = [layout.loop, *layout.sides]
    for s in streets:
        gm.line(img, s.points[::4], 16.0, (158, 152, 142, 128), s.closed)
    for s in streets:
        gm.line(img, s.points[::4], 11.6, (196, 192, 184, 128), s.closed)
        gm.line(img, s.points[::4], 11.2, (92, 90, 92, 0), s.closed)
    for s in streets:
        gm.line(img, s.points[::4], 7.0, (78, 78, 80, 0), s.closed)
    # Patches, cracks, manholes: what tells one stretch of road from the next.
    for s in streets:
        for _ in range(int(s.length / 2.5)):
            p, t = s.at(np.array([rng.uniform(0, s.length)]))
            n = np.array([-t[0, 1], t[0, 0]])
            c = p[0] + n * rng.uniform(-5.2, 5.2)
            kind = rng.random()
            if kind < 0.5:
                f, b = t[0] * rng.uniform(0.4, 3.5), n * rng.uniform(0.3, 1.4)
                g = int(rng.uniform(52, 112))
                gm.polygon(img, np.array([c + f + b, c + f - b, c - f - b, c - f + b]), (g, g, g, 0))
            elif kind < 0.85:
                walk = np.cumsum(rng.normal(0, 0.35, (14, 2)) + t[0] * rng.uniform(-0.3, 0.3), axis=0) + c
                gm.line(img, walk, 0.07, (48, 46, 46, 0))
            else:
                x, y = (int(v) for v in gm.pixels(c[None])[0])
                cv2.circle(img, (x, y), int(0.36 * gm.k * 16), (52, 50, 50, 0), -1, cv2.LINE_AA, 4)
                cv2.circle(img, (x, y), int(0.27 * gm.k * 16), (104, 100, 96, 0), -1, cv2.LINE_AA, 4)
    white: Colour = (216, 214, 206, 0)
    for s in streets:
        for edge in (-3.4, 3.4):
            gm.line(img, _strip(s.points, s.tangents, edge)[::2], 0.12, white, s.closed)
        dashes = int(s.length / 6.0)
        for i in range(dashes):
            p, t = s.at(np.linspace(i * s.length / dashes, i * s.length / dashes + 3.0, 7))
            gm.line(img, p, 0.13, white)
    # Junctions have no lane lines; asphalt of their own.
    for j, c in enumerate(layout.junctions):
        g = 66 + (j * 7) % 28
        x, y = (int(v) for v in gm.pixels(c[None])[0])
        cv2.circle(img, (x, y), int(5.0 * gm.k * 16), (g, g, g + 2, 0), -1, cv2.LINE_AA, 4)
    for s0 in crossings:
        p, t = layout.loop.at(np.array([s0]))
        n = np.array([-t[0, 1], t[0, 0]])
        for o in np.arange(-4.8, 4.9, 1.0):
            c = p[0] + n * o
            f, b = t[0] * 1.5, n * 0.25
            gm.polygon(img, np.array([c + f + b, c + f - b, c - f - b, c - f + b]), (226, 224, 218, 0))
    for s in streets:  # arrows, letters, parking bays
        for _ in range(max(1, int(s.length / 25))):
            p, t = s.at(np.array([rng.uniform(0, s.length)]))
            n = np.array([-t[0, 1], t[0, 0]])
            side = -1.0 if rng.random() < 0.5 else 1.0
            c, f = p[0] + n * side * 1.75, -t[0] * side
            gm.line(img, np.array([c - f * 1.5, c + f * 0.8]), 0.15, white)
            gm.polygon(img, np.array([c + f * 2.0, c + f * 0.7 + n * 0.45, c + f * 0.7 - n * 0.45]), white)
        for side in (-1, 1):
            if rng.random() < 0.6:
                for q in np.arange(rng.uniform(0, 5), s.length, 5.5):
                    p, t = s.at(np.array([q]))
                    n = np.array([-t[0, 1], t[0, 0]]) * side
                    gm.line(img, np.array([p[0] + n * 3.5, p[0] + n * 5.5]), 0.1, white)
    _grain(rng, img)
    return img


def _grain(rng: np.random.Generator, img: U8) -> None:
    """Asphalt grain, paving slabs, tufts of grass and stains, in horizontal bands to bound the memory."""
    h, w = img.shape[:2]
    tile = 512
    fine = rng.normal(0, 1, (tile, tile)).astype(np.float32)
    fine = fine + 1.2 * cv2.GaussianBlur(rng.normal(0, 1, (tile, tile)).astype(np.float32), (0, 0), 1.5) * 3
    fine += 6 * cv2.GaussianBlur(rng.normal(0, 1, (tile, tile)).astype(np.float32), (0, 0), 5)
    stains = rng.uniform(-1, 1, (h // 100 + 4, w // 100 + 4)).astype(np.float32)
    blotch = rng.uniform(-1, 1, (h // 30 + 4, w // 30 + 4)).astype(np.float32)
    slab_rng = rng.normal(0, 9, (h // 15 + 2, w // 15 + 2)).astype(np.float32)
    wide = np.tile(fine, (1, w // tile + 1))[:, :w]
    big = cv2.resize(stains, (w, h), interpolation=cv2.INTER_CUBIC)
    mid = cv2.resize(blotch, (w, h), interpolation=cv2.INTER_CUBIC)
    for y in range(0, h, tile):
        band = img[y : y + tile]
        g = wide[: band.shape[0]]
        m = mid[y : y + tile]
        value = g * 5 + 9 * big[y : y + tile] + 6 * m
        grass, paving = band[..., 3] > 200, (band[..., 3] > 60) & (band[..., 3] <= 200)
        value[grass] = value[grass] * 1.6 + 8 * m[grass]
        rows, cols = np.arange(y, y + band.shape[0]) // 15, np.arange(w) // 15
        slabs = slab_rng[rows][:, cols]
        joint = (np.arange(y, y + band.shape[0]) % 15 == 0)[:, None] | (np.arange(w) % 15 == 0)[None]
        value[paving] += slabs[paving] - 28 * joint[paving]
        band[..., :3] = np.clip(band[..., :3] + value[..., None], 0, 255).astype(np.uint8)
