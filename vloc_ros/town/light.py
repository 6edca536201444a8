"""Light and season of one traversal, and the shadows the sun throws in it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.town.placement import Grid
from vloc_ros.types import Array

__all__ = ["CONDITIONS", "Light", "make_light", "shadow_heights", "sky_panorama"]

F32 = npt.NDArray[np.float32]

#: Traversal ``index`` takes condition ``index % 8``; every number is then varied from (town seed, index).
CONDITIONS = ("noon", "overcast", "evening", "autumn_wet", "morning", "hazy", "winter", "dusk")


@dataclass(frozen=True)
class Light:
    """Linear-light colours (3,); ``sun`` is the unit vector towards the sun in the map frame."""

    condition: str
    sun: Array
    sun_rgb: Array
    ambient_rgb: Array
    zenith_rgb: Array
    horizon_rgb: Array
    clouds: float
    fog_per_m: float
    exposure: float
    white_balance: Array
    saturation: float
    foliage_tint: Array
    grass_tint: Array
    snow: float
    wet: float
    lit_windows: float


# elevation deg, sun, ambient, zenith, horizon, clouds, fog 1/m, snow, wet, lit
_Colour = tuple[float, float, float]
_Preset = tuple[float, _Colour, _Colour, _Colour, _Colour, float, float, float, float, float]
_BASE: dict[str, _Preset] = {
    "noon": (
        52, (1.5, 1.42, 1.28), (0.42, 0.48, 0.58), (0.22, 0.42, 0.85), (0.75, 0.85, 0.98),
        0.35, 0.0008, 0, 0, 0,
    ),
    "overcast": (
        45, (0.12, 0.12, 0.12), (0.86, 0.88, 0.92), (0.78, 0.8, 0.84), (0.92, 0.93, 0.95),
        0.9, 0.0020, 0, 0.1, 0,
    ),
    "evening": (
        15, (1.5, 1.08, 0.62), (0.34, 0.38, 0.50), (0.25, 0.38, 0.70), (1.0, 0.78, 0.52),
        0.3, 0.0015, 0, 0, 0.08,
    ),
    "autumn_wet": (
        28, (0.35, 0.33, 0.3), (0.62, 0.63, 0.66), (0.55, 0.6, 0.68), (0.78, 0.8, 0.82),
        0.75, 0.0035, 0, 0.85, 0.12,
    ),
    "morning": (
        22, (1.3, 1.1, 0.85), (0.42, 0.46, 0.55), (0.35, 0.52, 0.85), (0.98, 0.9, 0.78),
        0.2, 0.0030, 0, 0.25, 0.03,
    ),
    "hazy": (
        36, (0.8, 0.76, 0.68), (0.6, 0.62, 0.66), (0.6, 0.68, 0.8), (0.9, 0.9, 0.88),
        0.5, 0.0050, 0, 0, 0,
    ),
    "winter": (
        20, (0.75, 0.72, 0.70), (0.62, 0.67, 0.76), (0.55, 0.66, 0.85), (0.88, 0.9, 0.95),
        0.5, 0.0030, 0.85, 0.2, 0.1,
    ),
    "dusk": (
        6, (0.16, 0.10, 0.07), (0.24, 0.27, 0.38), (0.14, 0.18, 0.34), (0.5, 0.36, 0.34),
        0.4, 0.0020, 0, 0, 0.45,
    ),
}  # fmt: skip


def make_light(rng: np.random.Generator, condition: str) -> Light:
    """A light of the named condition with everything varied.

    :raises ConfigError: a condition that is not in ``CONDITIONS``.
    """
    if condition not in _BASE:
        raise ConfigError(f"town: unknown light {condition!r}; known: {', '.join(CONDITIONS)}")
    elevation, sun, ambient, zenith, horizon, clouds, fog, snow, wet, lit = _BASE[condition]
    el = np.radians(np.clip(elevation * rng.uniform(0.85, 1.15), 5, 65))
    az = {"noon": -1.4, "evening": 2.9, "morning": 0.3, "dusk": 3.0}.get(condition, -1.0) + rng.uniform(-0.7, 0.7)
    direction = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    tone = rng.uniform(0.85, 1.15)
    sun_rgb, ambient_rgb = np.array(sun) * tone, np.array(ambient) * rng.uniform(0.9, 1.1)
    mean = float((sun_rgb * 0.45 + ambient_rgb * 0.8).mean())
    foliage_of = {"autumn_wet": (2.1, 0.95, 0.4), "winter": (1.05, 0.75, 0.9), "evening": (1.1, 1.0, 0.8)}
    grass_of = {"autumn_wet": (1.25, 0.95, 0.7), "winter": (1.3, 1.0, 0.9)}
    foliage, grass = foliage_of.get(condition, (1.0, 1.0, 1.0)), grass_of.get(condition, (1.0, 1.0, 1.0))
    return Light(
        condition, direction, sun_rgb, ambient_rgb, np.array(zenith), np.array(horizon), clouds,
        fog * rng.uniform(0.7, 1.3),
        # Automatic exposure takes out most of the brightness, and overshoots a little.
        exposure=float(0.62 * (0.9 / mean) ** 0.85 * rng.uniform(0.85, 1.18)),
        white_balance=1 + rng.normal(0, 0.04, 3),
        saturation=float(rng.uniform(0.8, 1.15)),
        foliage_tint=np.array(foliage) * rng.uniform(0.88, 1.12, 3),
        grass_tint=np.array(grass) * rng.uniform(0.9, 1.1, 3),
        snow=snow, wet=wet * rng.uniform(0.8, 1.1), lit_windows=lit,
    )  # fmt: skip


def shadow_heights(tops: F32, grid: Grid, sun: Array) -> F32:
    """Height (m) below which a point of each cell lies in shadow: the tops swept away from the sun."""
    horizontal = float(np.hypot(sun[0], sun[1]))
    slope = float(sun[2]) / max(horizontal, 1e-6)
    step = 1.0 / grid.k
    reach = (float(tops.max()) - float(tops.min())) / max(slope, 0.05)
    out = tops.copy() - np.float32(0.05)
    out[:] = -50.0
    d = sun[:2] / max(horizontal, 1e-6)
    h, w = tops.shape
    for i in range(1, max(2, min(int(reach / step), 400))):
        s = i * step
        # The caster lies towards the sun: cell p takes the top at p + s d.
        shift = np.array([[1, 0, -s * d[0] * grid.k], [0, 1, s * d[1] * grid.k]], np.float32)
        moved = cv2.warpAffine(
            tops, shift, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-50.0
        )
        np.maximum(out, moved.astype(np.float32) - np.float32(s * slope), out=out)
    return np.asarray(cv2.blur(out, (2, 2)), dtype=np.float32)


def sky_panorama(rng: np.random.Generator, light: Light, skyline: F32) -> F32:
    """Sky colours, (256, 1025, 3) linear float32: columns azimuth 0..2 pi, rows elevation pi/2 down to -pi/6."""
    h, w = 256, 1024
    el = np.linspace(np.pi / 2, -np.pi / 6, h)[:, None]
    az = (np.arange(w) * (2 * np.pi / w))[None]
    f = np.clip(np.sin(np.maximum(el, 0)), 0, 1)[..., None] ** 0.5
    gradient = light.horizon_rgb * (1 - f) + light.zenith_rgb * f
    sky: F32 = np.broadcast_to(gradient, (h, w, 3)).astype(np.float32).copy()
    noise = np.zeros((h, w), np.float32)
    for octave in range(4):
        n = 8 * 2**octave
        grid = rng.uniform(-1, 1, (n // 2 + 2, n)).astype(np.float32)
        # Two cells of wrap on either side make the panorama periodic.
        grid = np.hstack([grid[:, -2:], grid, grid[:, :2]])
        wide = cv2.resize(grid, (w + 4 * w // n, h), interpolation=cv2.INTER_CUBIC)
        noise += wide[:, 2 * w // n : 2 * w // n + w].astype(np.float32) / np.float32(1.8**octave)
    cover = (
        np.clip((noise + 2.2 * (light.clouds - 0.5)) * 1.6, 0, 1)[..., None] * np.clip(el / 0.25, 0.25, 1)[..., None]
    )
    cloud = (0.9 * light.horizon_rgb + 0.12 * light.sun_rgb) * (1 - 0.18 * noise[..., None])
    sky = sky * (1 - cover) + cloud.astype(np.float32) * cover
    direction = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.broadcast_to(np.sin(el), (h, w))], -1)
    glow = np.clip(direction @ light.sun, 0, 1) ** 24
    sky += (glow[..., None] * light.sun_rgb * 0.6).astype(np.float32)
    hill = el < skyline[None]
    ridge = np.broadcast_to(0.72 * light.horizon_rgb + 0.03 * light.ambient_rgb, (h, w, 3))
    sky[hill] = ridge[hill]
    # The first column again at the end, for bilinear look-ups across the seam.
    return np.ascontiguousarray(np.concatenate([sky, sky[:, :1]], axis=1), dtype=np.float32)
