"""Where the town's streets and hills are: terrain, the closed loop, its side streets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.types import Array

__all__ = ["Layout", "Street", "Terrain", "build_layout", "resample"]

ROAD_HALF_M = 3.5
#: Half of the corridor that no building enters: lanes, parking strip and pavement.
CORRIDOR_HALF_M = 8.0


class Terrain:
    """Smooth ground height: a sum of plane sine waves, so that height and slope are exact everywhere.

    ``height(x, y)`` in metres; the waves are (amplitude m, wave vector rad/m, phase rad).
    """

    def __init__(self, rng: np.random.Generator, extent_m: float) -> None:
        waves = []
        for wavelength, amplitude in ((75.0, 0.35), (120.0, 0.7), (210.0, 1.1), (max(400.0, extent_m), 2.0)):
            angle = rng.uniform(0.0, 2.0 * np.pi)
            k = 2.0 * np.pi / (wavelength * rng.uniform(0.9, 1.1))
            waves.append(
                (amplitude * rng.uniform(0.7, 1.2), k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 6.28))
            )
        self.waves = np.array(waves, dtype=np.float64)
        self._waves32 = [tuple(np.float32(v) for v in w) for w in waves]

    def height(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Ground height (m) at map coordinates, any shape, float64."""
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        out = np.zeros(np.broadcast(xs, ys).shape)
        for amplitude, kx, ky, phase in self.waves:
            out = out + amplitude * np.sin(kx * xs + ky * ys + phase)
        return out

    def gradient(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
        """Slope (dz/dx, dz/dy) at map coordinates."""
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        gx = np.zeros(np.broadcast(xs, ys).shape)
        gy = np.zeros_like(gx)
        for amplitude, kx, ky, phase in self.waves:
            c = amplitude * np.cos(kx * xs + ky * ys + phase)
            gx, gy = gx + kx * c, gy + ky * c
        return gx, gy

    def sample32(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(height, dz/dx, dz/dy) in float32: the renderer's inner loop."""
        h = np.zeros_like(x)
        gx = np.zeros_like(x)
        gy = np.zeros_like(x)
        for amplitude, kx, ky, phase in self._waves32:
            arg = kx * x + (ky * y + phase)
            h += amplitude * np.sin(arg)
            c = np.cos(arg)
            c *= amplitude
            gx += kx * c
            gy += ky * c
        return h, gx, gy


@dataclass(frozen=True)
class Street:
    """A street's centre line: ``points`` (N, 2) every 0.25 m, unit ``tangents`` (N, 2), closed or not."""

    points: Array
    tangents: Array
    closed: bool

    @property
    def length(self) -> float:
        """Length in metres."""
        return 0.25 * (len(self.points) if self.closed else len(self.points) - 1)

    def at(self, s: npt.ArrayLike) -> tuple[Array, Array]:
        """Position and unit tangent at arc lengths ``s`` (m); wraps on a closed street."""
        q = np.asarray(s, dtype=np.float64) / 0.25
        n = len(self.points)
        q = np.mod(q, n) if self.closed else np.clip(q, 0, n - 1.000001)
        i = np.floor(q).astype(np.int64)
        f = (q - i)[..., None]
        i0, j = (i % n, (i + 1) % n) if self.closed else (i, np.minimum(i + 1, n - 1))
        p = self.points[i0] * (1 - f) + self.points[j] * f
        t = self.tangents[i0] * (1 - f) + self.tangents[j] * f
        return p, t / np.linalg.norm(t, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Layout:
    """The loop and the side streets, with the places where they meet."""

    loop: Street
    sides: tuple[Street, ...]
    junctions: Array


def resample(points: Array, step: float, closed: bool) -> Array:
    """Points of a polyline at (almost) equal arc-length steps."""
    p = np.vstack([points, points[:1]]) if closed else points
    d = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    n = max(round(d[-1] / step), 2)
    s = np.arange(n) * (d[-1] / n) if closed else np.linspace(0.0, d[-1], n + 1)
    return np.stack([np.interp(s, d, p[:, 0]), np.interp(s, d, p[:, 1])], axis=1)


def _make_street(points: Array, closed: bool) -> Street:
    p = resample(points, 0.25, closed)
    if closed:
        # Curvature-continuous bends: a Gaussian of 1.5 m along the line.
        k = np.exp(-0.5 * (np.arange(-24, 25) * 0.25 / 1.5) ** 2)
        k /= k.sum()
        wrapped = np.vstack([p[-24:], p, p[:24]])
        p = resample(np.stack([np.convolve(wrapped[:, j], k, mode="valid") for j in range(2)], axis=1), 0.25, True)
        d = np.roll(p, -1, axis=0) - np.roll(p, 1, axis=0)
    else:
        d = np.gradient(p, axis=0)
    return Street(p, d / np.linalg.norm(d, axis=1, keepdims=True), closed)


def _fillet(corners: Array, radius: Array) -> Array:
    """Corners rounded with arcs of at most ``radius`` (m), and the sides between them gently bowed."""
    n = len(corners)
    to_next = np.roll(corners, -1, axis=0) - corners
    length = np.linalg.norm(to_next, axis=1)
    ahead = to_next / length[:, None]
    half = 0.5 * np.arccos(np.clip(-np.sum(np.roll(ahead, 1, axis=0) * ahead, axis=1), -0.9999, 0.9999))
    tangent = np.minimum(radius / np.tan(half), 0.42 * np.minimum(length, np.roll(length, 1)))
    out = []
    for i in range(n):
        c, u, v, t = corners[i], -ahead[i - 1], ahead[i], tangent[i]
        r = t * np.tan(half[i])
        centre = c + (u + v) / np.linalg.norm(u + v) * (r / np.sin(half[i]))
        a, b = c + u * t - centre, c + v * t - centre
        a0 = np.arctan2(a[1], a[0])
        da = (np.arctan2(b[1], b[0]) - a0 + np.pi) % (2 * np.pi) - np.pi
        for f in np.linspace(0, 1, 13):
            out.append(centre + r * np.array([np.cos(a0 + f * da), np.sin(a0 + f * da)]))
        # No two sides bow alike.
        start, end = c + v * t, c + v * (length[i] - tangent[(i + 1) % n])
        bow = ((i * 2654435761) % 7 - 3) * 0.012 * length[i] * np.array([-v[1], v[0]])
        for f in np.linspace(0.05, 0.95, 19):
            out.append(start + f * (end - start) + bow * np.sin(np.pi * f) ** 2)
    return np.array(out)


def build_layout(rng: np.random.Generator, loop_m: float) -> Layout:
    """A counter-clockwise closed loop of about ``loop_m`` metres with side streets leaving it."""
    n = max(4, round(loop_m / 60.0))
    angles = 2 * np.pi * (np.arange(n) + rng.uniform(-0.16, 0.16, n)) / n
    radii = rng.uniform(0.8, 1.2, n)
    corners = np.stack([np.cos(angles) * radii * 1.12, np.sin(angles) * radii / 1.12], axis=1)
    turn = rng.uniform(0, 2 * np.pi)
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    radius = rng.uniform(8.0, 12.0, n)
    scale = loop_m / 6.0
    for _ in range(6):
        loop = _make_street(_fillet(corners * scale, radius), True)
        scale *= loop_m / loop.length
    loop = _make_street(_fillet(corners * scale, radius), True)
    corners = corners * scale

    sides: list[Street] = []
    junctions: list[Array] = []
    wanted: list[tuple[Array, Array]] = []
    for i in range(n):
        c = corners[i]
        into = (c - corners[i - 1]) / np.linalg.norm(c - corners[i - 1])
        back = (c - corners[(i + 1) % n]) / np.linalg.norm(c - corners[(i + 1) % n])
        options = [into, back]
        for k in range(2):
            if rng.random() < 0.62:
                wanted.append((c, options[k]))
        q = corners[(i + 1) % n]
        length = float(np.linalg.norm(q - c))
        if length > 40 and rng.random() < 0.6:
            f = rng.uniform(0.42, 0.58)
            out = np.array([-back[1], back[0]])
            mid = c + f * (q - c)
            if out @ mid < 0:
                out = -out
            wanted.append((mid, out))
    for start, direction in wanted:
        length = rng.uniform(38.0, 70.0)
        s = np.arange(0.0, length, 0.5)[:, None]
        bend = rng.uniform(-0.1, 0.1) * s**2 / length
        pts = start + direction * s + np.array([-direction[1], direction[0]]) * bend
        far = s[:, 0] > 24.0
        existing = [loop.points] + [x.points for x in sides]
        keep = len(pts)
        for other in existing:
            gap = np.min(np.linalg.norm(pts[:, None] - other[None, ::6], axis=2), axis=1)
            bad = np.nonzero(far & (gap < 28.0))[0]
            if len(bad):
                keep = min(keep, int(bad[0]) - 16)
        if keep * 0.5 < 26.0:
            continue
        sides.append(_make_street(pts[:keep], False))
        junctions.append(loop.points[np.argmin(np.linalg.norm(loop.points - start, axis=1))])
    return Layout(loop, tuple(sides), np.array(junctions).reshape(-1, 2))
