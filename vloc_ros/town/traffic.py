"""What comes and goes: parked vehicles, moving vehicles, pedestrians."""

from __future__ import annotations

import numpy as np

from vloc_ros.town import scene
from vloc_ros.town.town import Town
from vloc_ros.types import Array

__all__ = ["Traffic"]


class Traffic:
    """Occluders of one traversal; ``arc_m`` and ``time_s`` are the ego vehicle's, ``density`` 1 is ordinary."""

    def __init__(self, rng: np.random.Generator, town: Town, arc_m: Array, time_s: Array, density: float) -> None:
        self._town, self._arc, self._time = town, arc_m, time_s
        self.parked_blocks: list[tuple[Array, float]] = []
        self.parked = self._park(rng, density)
        self._movers: list[tuple[Array, Array, float]] = []  # prototype, arc length per frame, lateral offset
        length = town.loop.length
        props = town.props
        for _ in range(int(rng.poisson(density * length / 45.0))):  # oncoming
            speed = rng.uniform(4.0, 9.0)
            arc = rng.uniform(0, length) - speed * time_s
            self._movers.append((self._any_vehicle(rng), arc, rng.normal(1.75, 0.15)))
        for _ in range(int(rng.poisson(density * max(1.0, length / 200.0)))):  # ahead for a while
            gap = rng.uniform(9, 22) + 4 * np.sin(time_s / rng.uniform(4, 9) + rng.uniform(0, 6))
            arc = arc_m + gap
            first = rng.uniform(-0.2, 0.8) * time_s[-1]
            hidden = (time_s < first) | (time_s > first + rng.uniform(8, 20))
            self._movers.append((self._any_vehicle(rng), np.where(hidden, np.nan, arc), -1.75))
        for _ in range(int(rng.poisson(density * length / 12.0))):  # walking
            side = rng.choice([-1.0, 1.0])
            arc = rng.uniform(0, length) + rng.choice([-1, 1]) * rng.uniform(0.8, 1.6) * time_s
            self._movers.append((props.people[int(rng.integers(len(props.people)))], arc, side * rng.uniform(6.2, 7.6)))

    def _any_vehicle(self, rng: np.random.Generator) -> Array:
        props = self._town.props
        group = props.vans if rng.random() < 0.22 else props.cars
        return group[int(rng.integers(len(group)))]

    def _place(self, prototype: Array, x: float, y: float, heading: float) -> Array:
        terrain = self._town.terrain
        gx, gy = (float(v) for v in terrain.gradient(x, y))
        c, s = np.cos(heading), np.sin(heading)
        up = np.array([-gx, -gy, 1.0]) / np.sqrt(1 + gx * gx + gy * gy)
        f = np.array([c, s, gx * c + gy * s])
        f /= np.linalg.norm(f)
        T = np.eye(4)
        T[:3, :3] = np.stack([f, np.cross(up, f), up], 1)
        T[:3, 3] = x, y, float(terrain.height(x, y))
        out = scene.transform_quads(prototype, T)
        out[:, scene.MOVING] = 1.0
        return out

    def _park(self, rng: np.random.Generator, density: float) -> Array:
        town = self._town
        rows = [np.zeros((0, scene.COLUMNS))]
        taken: list[Array] = []
        for street in (town.loop, *town.layout.sides):
            for side in (-1.0, 1.0):
                fill = np.clip(rng.uniform(0.2, 0.65) * density, 0, 0.95)
                for s in np.arange(3.0, street.length - 3.0, 6.0):
                    if rng.random() > fill:
                        continue
                    p, t = street.at(np.array([s + rng.uniform(-0.4, 0.4)]))
                    n = np.array([-t[0, 1], t[0, 0]]) * side
                    q = p[0] + n * (4.62 + rng.normal(0, 0.07))
                    near = [town.loop.points[np.newaxis, ::8]] if street is not town.loop else []
                    if near and np.min(np.linalg.norm(town.loop.points[::8] - q, axis=1)) < 10.0:
                        continue
                    if len(town.layout.junctions) and np.min(np.linalg.norm(town.layout.junctions - q, axis=1)) < 12.0:
                        continue
                    if taken and min(float(np.hypot(*(q - o))) for o in taken[-40:]) < 5.0:
                        continue
                    if street is town.loop and any(abs(s - c) < 5.0 for c in town.crossings):
                        continue
                    taken.append(q)
                    heading = float(np.arctan2(t[0, 1], t[0, 0])) + (np.pi if side > 0 else 0.0) + rng.normal(0, 0.02)
                    prototype = self._any_vehicle(rng)
                    rows.append(self._place(prototype, float(q[0]), float(q[1]), heading))
                    f, h = t[0] * 2.1, n * 0.85
                    z = float(town.terrain.height(q[0], q[1]))
                    self.parked_blocks.append((np.array([q - f - h, q + f - h, q + f + h, q - f + h]), z + 1.25))
        return np.vstack(rows)

    def rows_at(self, i: int) -> Array:
        """Quads of the moving things within 120 m of the ego vehicle's arc length at frame ``i``."""
        loop = self._town.loop
        ego = self._arc[i]
        rows = [np.zeros((0, scene.COLUMNS))]
        for prototype, arc, offset in self._movers:
            s = arc[i]
            if np.isnan(s):
                continue
            gap = (s - ego + loop.length / 2) % loop.length - loop.length / 2
            # Nothing drives through the ego vehicle: what is right here in the same lane is left out.
            if abs(gap) > 120.0 or (offset < 0 and abs(gap) < 7.0 and offset > -4):
                continue
            j = min(i + 1, len(arc) - 1)
            back = arc[j] < arc[max(j - 1, 0)]
            p, t = loop.at(np.array([s]))
            n = np.array([-t[0, 1], t[0, 0]])
            q = p[0] + n * offset
            heading = float(np.arctan2(t[0, 1], t[0, 0])) + (np.pi if back else 0.0)
            rows.append(self._place(prototype, float(q[0]), float(q[1]), heading))
        return np.vstack(rows)
