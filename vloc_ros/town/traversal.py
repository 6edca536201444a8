"""One drive round the loop: its path, clock, light, traffic and odometry."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.town.light import CONDITIONS, F32, Light, make_light, shadow_heights, sky_panorama
from vloc_ros.town.odometry import drifting_odometry
from vloc_ros.town.town import Town, quad_bounds
from vloc_ros.town.traffic import Traffic
from vloc_ros.types import Array

__all__ = ["Traversal"]


def smooth(rng: np.random.Generator, s: Array, wavelength: float) -> Array:
    """Smooth noise of about unit standard deviation along ``s`` (m or s)."""
    n = max(4, int((s[-1] - s[0]) / wavelength * 2) + 4)
    knots = rng.normal(0, 1, n + 3)
    q = (s - s[0]) / wavelength * 2
    i = np.clip(q.astype(np.int64), 0, n - 1)
    f = q - i
    w = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], 1) / 6
    return np.asarray((w * np.stack([knots[i], knots[i + 1], knots[i + 2], knots[i + 3]], 1)).sum(1) * 1.45)


class Traversal:
    """A drive, fully determined by ``(town.seed, index)`` and the settings.

    :param spacing_m: mean distance between frames; the clock runs at 10 Hz, so 0.5 m is 5 m/s.
    :param laps: how often round the loop.
    :param light: one of ``CONDITIONS``; the index decides when None.
    :param lane_offset_m: mean offset from the centre line to the right; None: the lane's middle, varied by some cm.
    :param weave_m: standard deviation of the lateral movement inside the lane.
    :param traffic: density of moving and parked occluders, 1 is ordinary, 0 none.

    ``stamps_ns`` (N,), ``T_map_base`` (N, 4, 4), ``T_base_cam`` (4, 4), ``T_map_cam`` (N, 4, 4),
    ``T_odom_base`` (N, 4, 4).
    """

    def __init__(
        self, town: Town, index: int, spacing_m: float = 0.5, laps: float = 1.0, light: str | None = None,
        lane_offset_m: float | None = None, weave_m: float = 0.3, traffic: float = 1.0,
    ) -> None:  # fmt: skip
        known = index >= 0 and 0.02 <= spacing_m <= 20.0 and 0.0 < laps <= 100.0 and 0.0 <= traffic <= 20.0
        if not known:
            raise ConfigError(
                "traversal: expected index >= 0, spacing 0.02 to 20 m, laps 0 to 100, traffic 0 to 20; "
                f"found {index}, {spacing_m}, {laps}, {traffic}"
            )
        self.town, self.index = town, int(index)
        self.name = f"town{town.seed}_{index}"
        self._seed = [town.seed, int(index), 4242]
        rng = np.random.default_rng([*self._seed, 0])
        condition = CONDITIONS[index % len(CONDITIONS)] if light is None else light
        self.light: Light = make_light(np.random.default_rng([*self._seed, 1]), condition)
        self.T_base_cam = _camera_mount()
        lane = self._drive(rng, spacing_m, laps, lane_offset_m, weave_m)
        self.T_map_cam: Array = self.T_map_base @ self.T_base_cam
        self.T_odom_base = drifting_odometry(np.random.default_rng([*self._seed, 2]), self.T_map_base)
        self.traffic = Traffic(np.random.default_rng([*self._seed, 3]), town, self.arc_m, self.time_s, lane, traffic)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def _drive(self, rng: np.random.Generator, spacing: float, laps: float, lane: float | None, weave: float) -> float:
        loop = self.town.loop
        total = loop.length * laps
        n = max(2, round(total / spacing))
        t = np.arange(n, dtype=np.float64) * 0.1
        speed = np.clip(1 + 0.2 * smooth(rng, t, 8.0), 0.45, 1.6)
        arc = np.concatenate([[0.0], np.cumsum(speed[:-1])])
        arc = arc * ((total - total / n) / arc[-1]) + rng.uniform(0, loop.length)
        jitter = rng.uniform(-1.5e6, 1.5e6, n)
        start = 1_700_000_000_000_000_000 + self.index * 86_400_000_000_000 + int(rng.integers(10**9))
        self.stamps_ns: npt.NDArray[np.int64] = (start + np.arange(n) * 100_000_000 + jitter).astype(np.int64)
        # The clock and the road agree: positions are taken at the jittered instants.
        exact = (self.stamps_ns - self.stamps_ns[0]) * 1e-9
        arc = np.interp(exact, t, arc)
        self.time_s, self.arc_m = exact, arc
        right = (1.75 + rng.normal(0, 0.08)) if lane is None else lane
        fine = np.arange(arc[0] - 2.0, arc[-1] + 2.25, 0.25)
        side = right + weave * np.clip(smooth(rng, fine, 30.0), -2.2, 2.2)
        p, tangent = loop.at(fine)
        path = p - side[:, None] * np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        direction = np.gradient(path, axis=0)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        xy = np.stack([np.interp(arc, fine, path[:, j]) for j in range(2)], 1)
        f = np.stack([np.interp(arc, fine, direction[:, j]) for j in range(2)], 1)
        f /= np.linalg.norm(f, axis=1, keepdims=True)
        terrain = self.town.terrain
        gx, gy = terrain.gradient(xy[:, 0], xy[:, 1])
        up = np.stack([-gx, -gy, np.ones(n)], 1)
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        forward = np.stack([f[:, 0], f[:, 1], gx * f[:, 0] + gy * f[:, 1]], 1)
        forward /= np.linalg.norm(forward, axis=1, keepdims=True)
        # Suspension: load (constant per drive), bounce, pitch and roll oscillations, leaning out of bends.
        yaw = np.unwrap(np.arctan2(f[:, 1], f[:, 0]))
        bend = np.gradient(yaw) / np.maximum(np.gradient(arc), 1e-3)
        pitch = np.radians(0.35) * smooth(rng, t, 2.0) + np.radians(rng.normal(0, 0.25))
        roll = np.radians(0.3) * smooth(rng, t, 2.5) + np.radians(rng.normal(0, 0.15))
        roll += 0.15 * np.clip(bend, -0.15, 0.15)
        lift = 0.012 * smooth(rng, t, 1.6) + rng.normal(0, 0.015)
        T = np.tile(np.eye(4), (n, 1, 1))
        R = np.stack([forward, np.cross(up, forward), up], 2)
        T[:, :3, :3] = R @ _small_rotation(roll, pitch)
        T[:, :2, 3] = xy
        T[:, 2, 3] = terrain.height(xy[:, 0], xy[:, 1]) + lift
        self.T_map_base: Array = T
        return right

    @cached_property
    def static_rows(self) -> Array:
        """The town's quads followed by this traversal's parked vehicles."""
        return np.vstack([self.town.rows, self.traffic.parked])

    @cached_property
    def static_bounds(self) -> tuple[Array, Array]:
        """Bounding spheres of ``static_rows``."""
        return quad_bounds(self.static_rows)

    @cached_property
    def shadows(self) -> F32:
        """Shadow heights on the town's shadow grid for this traversal's sun."""
        grid, tops = self.town.shadow_grid, self.town.tops.copy()
        for polygon, z in self.traffic.parked_blocks:
            cv2.fillConvexPoly(tops, grid.pixels(polygon), float(z), cv2.LINE_8, 4)
        return shadow_heights(tops, grid, self.light.sun)

    @cached_property
    def occlusion(self) -> npt.NDArray[np.uint8]:
        """How open the sky is over the ground, 255 fully, at twice the shadow grid's resolution."""
        grid = self.town.shadow_grid
        out = np.full((2 * grid.shape[0], 2 * grid.shape[1]), 255, np.uint8)
        for polygon in self.town.footprints:
            cv2.fillConvexPoly(out, 2 * grid.pixels(polygon), 90, cv2.LINE_AA, 4)
        for polygon, _ in self.traffic.parked_blocks:
            cv2.fillConvexPoly(out, 2 * grid.pixels(polygon), 40, cv2.LINE_AA, 4)
        return np.asarray(cv2.GaussianBlur(out, (0, 0), 1.6), dtype=np.uint8)

    @cached_property
    def sky(self) -> F32:
        """The sky panorama of this traversal."""
        return sky_panorama(np.random.default_rng([*self._seed, 4]), self.light, self.town.skyline)

    def moving_rows(self, i: int) -> Array:
        """Quads of everything that moves, at frame ``i``."""
        return self.traffic.rows_at(i)

    def noise_seed(self, i: int) -> list[int]:
        """Seed of the sensor noise of frame ``i``."""
        return [*self._seed, 5, int(i)]


def _camera_mount() -> Array:
    """Optical frame on the roof edge: 1.6 m up, 1.2 m ahead, looking 3 degrees down."""
    a = np.radians(3.0)
    z = np.array([np.cos(a), 0.0, -np.sin(a)])
    x = np.array([0.0, -1.0, 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    T[:3, 3] = 1.2, 0.0, 1.6
    return T


def _small_rotation(roll: Array, pitch: Array) -> Array:
    cr, sr, cp, sp = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    zero, one = np.zeros_like(cr), np.ones_like(cr)
    Ry = np.stack([cp, zero, sp, zero, one, zero, -sp, zero, cp], 1).reshape(-1, 3, 3)
    Rx = np.stack([one, zero, zero, zero, cr, -sr, zero, sr, cr], 1).reshape(-1, 3, 3)
    return np.asarray(Ry @ Rx)
