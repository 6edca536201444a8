"""Puts buildings, trees and street furniture along the streets; returns the static scene rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.town import scene
from vloc_ros.town.facades import PLINTH_M, paint_facade, paint_roof, paint_side
from vloc_ros.town.layout import CORRIDOR_HALF_M, Layout, Street, Terrain
from vloc_ros.town.props import Props
from vloc_ros.town.textures import Atlas
from vloc_ros.types import Array

__all__ = ["Grid", "Placement", "populate"]


class Grid:
    """A north-up raster over the town; cell (row, col) centres at (x0 + col/k, y1 - row/k)."""

    def __init__(self, lower: Array, upper: Array, k: float) -> None:
        self.k, self.x0, self.y1 = k, float(lower[0]), float(upper[1])
        self.shape = (int((upper[1] - lower[1]) * k) + 1, int((upper[0] - lower[0]) * k) + 1)

    def pixels(self, xy: Array) -> npt.NDArray[np.int32]:
        """Fixed-point (4 fractional bits) drawing coordinates."""
        p = np.stack([(xy[:, 0] - self.x0) * self.k, (self.y1 - xy[:, 1]) * self.k], 1)
        return np.asarray(np.round(p * 16), dtype=np.int32)


@dataclass
class Placement:
    """Static rows, and what shadows need: (polygon, top height) of solid things and (x, y, radius, z) of crowns."""

    rows: list[Array] = field(default_factory=list)
    blocks: list[tuple[Array, float]] = field(default_factory=list)
    crowns: list[tuple[float, float, float, float]] = field(default_factory=list)


def _footprint(c: Array, t: Array, n: Array, width: float, depth: float) -> Array:
    """Front edge centred on ``c``, growing along ``n``."""
    h = t * (width / 2)
    return np.array([c - h, c + h, c + h + n * depth, c - h + n * depth])


class _Occupancy:
    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.mask = np.zeros(grid.shape, np.uint8)

    def reserve(self, polygon: Array) -> bool:
        """Claim a convex polygon; False when something is there already."""
        p = self.grid.pixels(polygon)
        lo, hi = p.min(0) // 16 - 1, p.max(0) // 16 + 2
        if (lo < 0).any() or hi[0] > self.mask.shape[1] or hi[1] > self.mask.shape[0]:
            return False
        part = np.zeros((hi[1] - lo[1], hi[0] - lo[0]), np.uint8)
        cv2.fillConvexPoly(part, p - lo * 16, 1, cv2.LINE_8, 4)
        view = self.mask[lo[1] : hi[1], lo[0] : hi[0]]
        if (part & view).any():
            return False
        view |= part
        return True


def _building(
    rng: np.random.Generator, atlas: Atlas, terrain: Terrain,
    c: Array, t: Array, n: Array, width: float, depth: float, detailed: bool,
) -> tuple[list[Array], Array, float]:  # fmt: skip
    storeys = rng.choice([1, 2, 2, 3, 3, 4, 5])
    height = float(storeys * rng.uniform(2.9, 3.4) + rng.uniform(0.6, 1.4))
    fp = _footprint(c, t, n, width, depth)
    ground = terrain.height(fp[:, 0], fp[:, 1])
    z = float(terrain.height(*(0.5 * (fp[0] + fp[1]))))
    top, total = z + height, height + PLINTH_M + max(0.0, z - PLINTH_M - float(ground.min()) + 0.3)
    front = atlas.add((paint_facade if detailed else paint_side)(rng, width, total - PLINTH_M))
    side = [atlas.add(paint_side(rng, depth, total - PLINTH_M)) for _ in range(2)]
    down = np.array([0.0, 0.0, -total])

    def wall(p: Array, q: Array, tex: scene.Rect) -> Array:
        return scene.quad(np.array([p[0], p[1], top]), np.array([q[0] - p[0], q[1] - p[1], 0.0]), down, tex)

    # fp runs left to right along the front as the street's direction goes; outward is -n.
    rows = [
        wall(fp[0], fp[1], front),
        wall(fp[1], fp[2], side[0]),
        wall(fp[2], fp[3], side[1]),
        wall(fp[3], fp[0], side[1]),
    ]
    centre = 0.5 * (fp[0] + fp[2])
    for row in rows:
        mid = row[scene.ORIGIN] + 0.5 * row[scene.A] * row[9]
        if np.cross(row[scene.B], row[scene.A])[:2] @ (mid[:2] - centre) < 0:
            row[scene.ORIGIN] = row[scene.ORIGIN] + row[scene.A] * row[9]
            row[scene.A] = -row[scene.A]
    roof = atlas.add(paint_roof(rng, width, depth))
    t3, n3 = np.array([t[0], t[1], 0.0]), np.array([n[0], n[1], 0.0])
    base = np.array([fp[0][0], fp[0][1], top])
    if rng.random() < 0.55:  # gable roof, ridge along the street or across it
        rise = rng.uniform(1.5, 3.2)
        along = rng.random() < 0.6
        u, v, lu, lv = (t3, n3, width, depth) if along else (n3, t3, depth, width)
        eave = 0.35
        ridge = base + v * (lv / 2) + np.array([0, 0, rise])
        for sign, edge in ((-1.0, 0.0), (1.0, lv)):
            slope = v * sign * (lv / 2 + eave) + np.array([0, 0, -rise * (1 + 2 * eave / lv)])
            start = ridge - u * eave
            right = u * (lu + 2 * eave)
            if np.cross(slope, right)[2] < 0:
                start, right = start + right, -right
            rows.append(scene.quad(start, right, slope, roof, scene.ROOF, two_sided=True))
            del edge
        gable = atlas.add(paint_side(rng, lv, rise))
        for at in (0.0, lu):
            o = base + u * at + np.array([0, 0, rise])
            rows.append(scene.quad(o, v * lv, np.array([0, 0, -rise]), gable, shape=scene.GABLE, two_sided=True))
        top += rise * 0.7
    else:
        rows.append(scene.quad(base, t3 * width, n3 * depth, roof, scene.ROOF, two_sided=True))
        if rng.random() < 0.5:
            heading = float(np.arctan2(t[1], t[0]))
            at = centre + t * rng.uniform(-0.3, 0.3) * width - n * 0.2 * depth
            rows += scene.box(
                (at[0], at[1]),
                heading,
                rng.uniform(0.8, 3),
                rng.uniform(0.8, 2),
                top,
                top + rng.uniform(0.8, 2.2),
                {"all": roof},
                scene.ROOF,
            )
    return rows, fp, top


def _walk_side(
    rng: np.random.Generator, atlas: Atlas, terrain: Terrain, street: Street, side: float, occ: _Occupancy,
    out: Placement, start: float, end: float, props: Props, row_offset: float, detailed: bool,
) -> None:  # fmt: skip
    s = start
    while s < end:
        width = float(rng.uniform(6.5, 15.0))
        setback = row_offset + float(rng.choice([0.2, 0.2, 1.5, 3.5, 5.0]))
        depth = float(rng.uniform(7.0, 11.0))
        gap = rng.random() < 0.12
        placed = False
        if not gap:
            for shrink in (1.0, 0.75, 0.55):
                w, d = width * shrink, depth * shrink
                p, t = street.at(np.array([s + w / 2]))
                n = np.array([-t[0, 1], t[0, 0]]) * side
                c = p[0] + n * (CORRIDOR_HALF_M + setback)
                if w > 4.0 and occ.reserve(_footprint(c, t[0], n, w, d)):
                    rows, fp, top = _building(rng, atlas, terrain, c, t[0], n, w, d, detailed)
                    out.rows += rows
                    out.blocks.append((fp, top))
                    s += w + float(rng.choice([0.0, 0.0, 0.4, 2.5]))
                    placed = True
                    break
        if placed:
            continue
        p, t = street.at(np.array([s + 1.5]))
        n = np.array([-t[0, 1], t[0, 0]]) * side
        if detailed:
            _gap_filler(rng, terrain, p[0] + n * (CORRIDOR_HALF_M + 0.5), t[0], n, occ, out, props)
        s += 3.0


def _gap_filler(
    rng: np.random.Generator,
    terrain: Terrain,
    c: Array,
    t: Array,
    n: Array,
    occ: _Occupancy,
    out: Placement,
    props: Props,
) -> None:
    """A fence or hedge on the line and maybe a tree behind it."""
    fp = _footprint(c, t, n, 2.96, 0.3)
    if not occ.reserve(fp):
        return
    z = float(terrain.height(c[0], c[1]))
    hedge = rng.random() < 0.4
    textures = props.hedge_textures if hedge else props.wall_textures
    h = rng.uniform(0.9, 2.0)
    mid = c + n * 0.15
    out.rows += scene.box((mid[0], mid[1]), float(np.arctan2(t[1], t[0])), 3.0, 0.3, z - 0.7, z + h,
                          {"all": textures[int(rng.integers(len(textures)))]}, scene.PROP)  # fmt: skip
    out.blocks.append((fp, z + h))
    if rng.random() < 0.6:
        q = c + n * rng.uniform(2.0, 4.0)
        if occ.reserve(_footprint(q, t, n, 1.0, 1.0)):
            _tree(rng, terrain, q, out, props)


def _tree(rng: np.random.Generator, terrain: Terrain, q: Array, out: Placement, props: Props) -> None:
    z = float(terrain.height(q[0], q[1]))
    rows = props.tree(rng, float(q[0]), float(q[1]), z)
    out.rows += rows
    crown = rows[-1][9]
    out.crowns.append((float(q[0]), float(q[1]), float(crown) * 0.42, z + 0.8 * float(crown) + 2.0))


def populate(
    rng: np.random.Generator, atlas: Atlas, terrain: Terrain, layout: Layout, props: Props, lower: Array, upper: Array
) -> Placement:
    """Everything that stands still in every traversal."""
    out = Placement()
    grid = Grid(lower, upper, 4.0)
    occ = _Occupancy(grid)
    for s in (layout.loop, *layout.sides):
        cv2.polylines(
            occ.mask, [grid.pixels(s.points[::4])], s.closed, 1, int(2 * CORRIDOR_HALF_M * grid.k), cv2.LINE_8, 4
        )
    for s in layout.sides:  # a house closes the view at the end of a side street
        p, t = s.points[-1], s.tangents[-1]
        right = np.array([t[1], -t[0]])
        for w in (16.0, 11.0, 7.0):
            c = p + t * (CORRIDOR_HALF_M + 0.3)
            if occ.reserve(_footprint(c, right, t, w, 8.0)):
                rows, fp, top = _building(rng, atlas, terrain, c, right, t, w, 8.0, True)
                out.rows += rows
                out.blocks.append((fp, top))
                break
    streets = [(layout.loop, 0.0, layout.loop.length)] + [(s, CORRIDOR_HALF_M + 1.0, s.length) for s in layout.sides]
    for street, start, end in streets:
        for side in (1.0, -1.0):
            _walk_side(rng, atlas, terrain, street, side, occ, out, start, end, props, 0.0, True)
    for side in (1.0, -1.0):  # a second row, seen over roofs and through gaps
        _walk_side(rng, atlas, terrain, layout.loop, side, occ, out, 0.0, layout.loop.length, props, 17.0, False)
    for street, start, end in streets:
        _furniture(rng, terrain, street, start, end, out, props, layout)
    return out


def _furniture(
    rng: np.random.Generator,
    terrain: Terrain,
    street: Street,
    start: float,
    end: float,
    out: Placement,
    props: Props,
    layout: Layout,
) -> None:
    for side in (1.0, -1.0):
        style = rng.random()
        s = start + rng.uniform(0, 6)
        while s < end - 2:
            p, t = street.at(np.array([s]))
            n = np.array([-t[0, 1], t[0, 0]]) * side
            q = p[0] + n * rng.uniform(6.0, 6.6)
            junction = len(layout.junctions) and np.min(np.linalg.norm(layout.junctions - p[0], axis=1)) < 9.5
            kind = rng.random()
            if not junction:
                x, y = float(q[0]), float(q[1])
                z = float(terrain.height(x, y))
                inward = float(np.arctan2(-n[1], -n[0]))
                back = float(np.arctan2(-t[0, 1] * -side, -t[0, 0] * -side))
                if kind < 0.3 + 0.25 * style:
                    _tree(rng, terrain, q, out, props)
                elif kind < 0.68:
                    out.rows += props.lamp(x, y, z, inward)
                elif kind < 0.82:
                    out.rows += props.sign(rng, x, y, z, back)
                else:
                    out.rows += props.bin(rng, x, y, z, inward)
            s += rng.uniform(4.0, 9.0)
