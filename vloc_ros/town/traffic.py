"""What comes and goes: parked vehicles, moving vehicles, pedestrians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vloc_ros.town import scene
from vloc_ros.town.town import Town
from vloc_ros.types import Array

__all__ = ["Traffic"]

SEEN_M = 120.0


@dataclass(frozen=True)
class _Mover:
    prototype: Array
    #: Arc length (m) on the loop at every frame, NaN while away.
    arc: Array
    offset_m: float
    #: Half length and half width of the patch of ground that it darkens; 0 for people.
    half: tuple[float, float]


def _ease(x: Array) -> Array:
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


class Traffic:
    """Occluders of one traversal; ``density`` 1 is ordinary.

    ``arc_m``, ``time_s`` and ``lane_m`` (to the right of the centre line) are the ego vehicle's.
    """

    def __init__(
        self, rng: np.random.Generator, town: Town, arc_m: Array, time_s: Array, lane_m: float, density: float
    ) -> None:
        self._town, self._arc, self._lane = town, arc_m, lane_m
        self.parked_blocks: list[tuple[Array, float]] = []
        self.parked = self._park(rng, density)
        self._movers: list[_Mover] = []
        length = town.loop.length
        for _ in range(int(rng.poisson(density * length / 45.0))):  # oncoming
            arc = rng.uniform(0, length) - rng.uniform(4.0, 9.0) * time_s
            self._add(self._any_vehicle(rng), arc, rng.normal(1.75, 0.15))
        for _ in range(int(rng.poisson(density * max(1.0, length / 200.0)))):  # ahead for a while
            near = rng.uniform(9, 22) + 4 * np.sin(time_s / rng.uniform(4, 9) + rng.uniform(0, 6))
            first = rng.uniform(-0.2, 0.8) * time_s[-1]
            away = np.maximum(first - time_s, time_s - first - rng.uniform(8, 20)) / 8.0
            gap = near + 75.0 * _ease(away)
            self._add(self._any_vehicle(rng), np.where(gap < 80.0, arc_m + gap, np.nan), -1.75)
        people = town.props.people
        for _ in range(int(rng.poisson(density * length / 12.0))):  # walking
            side = float(rng.choice([-1.0, 1.0]))
            arc = rng.uniform(0, length) + rng.choice([-1, 1]) * rng.uniform(0.8, 1.6) * time_s
            self._add(people[int(rng.integers(len(people)))], arc, side * rng.uniform(6.2, 7.6), False)

    def _add(self, prototype: Array, arc: Array, offset_m: float, vehicle: bool = True) -> None:
        # Row 2 of a vehicle is its left side, row 0 its front.
        half = (0.5 * float(prototype[2, 9]), 0.5 * float(prototype[0, 9])) if vehicle else (0.0, 0.0)
        self._movers.append(_Mover(prototype, arc, offset_m, half))

    def _any_vehicle(self, rng: np.random.Generator) -> Array:
        props = self._town.props
        group = props.vans if rng.random() < 0.22 else props.cars
        return group[int(rng.integers(len(group)))]

    def _poses(self, xy: Array, heading: Array) -> Array:
        """Rigid transforms (M, 4, 4) that stand things on the ground, facing ``heading`` (rad)."""
        terrain = self._town.terrain
        gx, gy = terrain.gradient(xy[:, 0], xy[:, 1])
        c, s = np.cos(heading), np.sin(heading)
        up = np.stack([-gx, -gy, np.ones_like(gx)], 1)
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        f = np.stack([c, s, gx * c + gy * s], 1)
        f /= np.linalg.norm(f, axis=1, keepdims=True)
        T = np.tile(np.eye(4), (len(xy), 1, 1))
        T[:, :3, :3] = np.stack([f, np.cross(up, f), up], 2)
        T[:, :2, 3] = xy
        T[:, 2, 3] = terrain.height(xy[:, 0], xy[:, 1])
        return T

    def _park(self, rng: np.random.Generator, density: float) -> Array:
        town = self._town
        prototypes: list[Array] = []
        places: list[Array] = []
        headings: list[float] = []
        for street in (town.loop, *town.layout.sides):
            for side in (-1.0, 1.0):
                fill = np.clip(rng.uniform(0.2, 0.65) * density, 0, 0.95)
                for s in np.arange(3.0, street.length - 3.0, 6.0):
                    if rng.random() > fill:
                        continue
                    p, t = street.at(np.array([s + rng.uniform(-0.4, 0.4)]))
                    n = np.array([-t[0, 1], t[0, 0]]) * side
                    q = p[0] + n * (4.62 + rng.normal(0, 0.07))
                    if not self._free(q, s, street is town.loop, places):
                        continue
                    places.append(q)
                    headings.append(
                        float(np.arctan2(t[0, 1], t[0, 0])) + (np.pi if side > 0 else 0) + rng.normal(0, 0.02)
                    )
                    prototypes.append(self._any_vehicle(rng))
                    f, h = t[0] * (0.5 * prototypes[-1][2, 9]), n * 0.87
                    z = float(town.terrain.height(q[0], q[1]))
                    self.parked_blocks.append((np.array([q - f - h, q + f - h, q + f + h, q - f + h]), z + 1.25))
        if not places:
            return np.zeros((0, scene.COLUMNS))
        poses = self._poses(np.array(places), np.array(headings))
        return _mark(np.vstack([scene.transform_quads(r, T) for r, T in zip(prototypes, poses, strict=True)]))

    def _free(self, q: Array, s: float, on_loop: bool, places: list[Array]) -> bool:
        """Whether a vehicle may park at ``q``: not at junctions, on crossings, or in another one."""
        town = self._town
        junctions = town.layout.junctions
        if not on_loop and np.min(np.linalg.norm(town.loop.points[::8] - q, axis=1)) < 10.0:
            return False
        if len(junctions) and np.min(np.linalg.norm(junctions - q, axis=1)) < 12.0:
            return False
        if on_loop and any(abs(s - c) < 5.0 for c in town.crossings):
            return False
        return not places or float(np.min(np.linalg.norm(np.array(places[-80:]) - q, axis=1))) > 5.0

    def _present(self, i: int) -> tuple[list[_Mover], Array]:
        """The movers near the ego vehicle at frame ``i`` with their poses (M, 4, 4)."""
        loop, ego = self._town.loop, self._arc[i]
        near: list[_Mover] = []
        for m in self._movers:
            gap = (m.arc[i] - ego + loop.length / 2) % loop.length - loop.length / 2
            # Nothing drives through the ego vehicle: what is right here in its lane is left out.
            if abs(gap) < SEEN_M and not (abs(m.offset_m + self._lane) < 2.8 and abs(gap) < 7.0):
                near.append(m)
        if not near:
            return near, np.zeros((0, 4, 4))
        p, t = loop.at(np.array([m.arc[i] for m in near]))
        xy = p + np.array([m.offset_m for m in near])[:, None] * np.stack([-t[:, 1], t[:, 0]], 1)
        j = min(max(i, 1), len(self._arc) - 1)
        backwards = np.array([m.arc[j] < m.arc[j - 1] for m in near])
        return near, self._poses(xy, np.arctan2(t[:, 1], t[:, 0]) + np.pi * backwards)

    def rows_at(self, i: int) -> Array:
        """Quads of the moving things near the ego vehicle at frame ``i``."""
        near, poses = self._present(i)
        if not near:
            return np.zeros((0, scene.COLUMNS))
        return _mark(np.vstack([scene.transform_quads(m.prototype, T) for m, T in zip(near, poses, strict=True)]))

    def shades_at(self, i: int) -> list[tuple[float, ...]]:
        """Ground patches under moving vehicles: centre x, y, heading cosine, sine, half length, half width."""
        near, poses = self._present(i)
        out: list[tuple[float, ...]] = []
        for m, T in zip(near, poses, strict=True):
            if m.half[0] > 0:
                c, s = T[0, 0], T[1, 0]
                norm = float(np.hypot(c, s))
                out.append((float(T[0, 3]), float(T[1, 3]), float(c) / norm, float(s) / norm, *m.half))
        return out


def _mark(rows: Array) -> Array:
    rows[:, scene.MOVING] = 1.0
    return rows
