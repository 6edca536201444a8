"""From surfaces to colours: textures, sun, shadow, sky, fog, exposure, sensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.town import scene
from vloc_ros.town.raster import GROUND, SKY, Pixels, Rays
from vloc_ros.town.textures import F32, MipImage, remap
from vloc_ros.town.traversal import Traversal
from vloc_ros.types import Array

__all__ = ["shade"]

TAPS = 3


def _f32(values: npt.NDArray[np.generic]) -> F32:
    return np.asarray(values, dtype=np.float32)


def _linear(rgb255: F32) -> F32:
    """Texture value to linear light; gamma 2 is close to sRGB and needs no table."""
    c = rgb255 * np.float32(1 / 255.0)
    return c * c


def _anisotropic(
    image: MipImage,
    x: F32,
    y: F32,
    minor: F32,
    stretch: F32,
    dx: F32,
    dy: F32,
    bounds: tuple[F32, F32, F32, F32] | None,
) -> F32:
    """Average of TAPS trilinear look-ups spread along the footprint's long axis (texels)."""
    major = minor * np.minimum(stretch, np.float32(10.0))
    lod = np.log2(np.maximum(np.maximum(minor, major / TAPS), np.float32(1e-3)))
    norm = np.float32(1.0) / np.maximum(np.hypot(dx, dy), np.float32(1e-9))
    dx, dy = _f32(dx * norm * major), _f32(dy * norm * major)
    out: F32 | None = None
    for k in range(TAPS):
        f = np.float32((k + 0.5) / TAPS - 0.5)
        part = image.sample(x + f * dx, y + f * dy, lod, bounds)
        out = part if out is None else out + part
    assert out is not None
    return out * np.float32(1.0 / TAPS)


def _shadow(trav: Traversal, x: F32, y: F32, z: F32) -> F32:
    """1 in the sun, 0 in shadow, soft over about a metre."""
    g = trav.town.shadow_grid
    h = remap(trav.shadows, (x - np.float32(g.x0)) * np.float32(g.k), (np.float32(g.y1) - y) * np.float32(g.k))
    return np.asarray(np.clip((z - h.astype(np.float32)) * np.float32(1.5) + np.float32(0.5), 0, 1), dtype=np.float32)


def shade(trav: Traversal, i: int, pixels: Pixels, rays: Rays, T_map_cam: Array) -> F32:
    """Linear-light image (H, W, 3) float32 before exposure."""
    h, w = rays.shape
    R, C = T_map_cam[:3, :3].astype(np.float32), T_map_cam[:3, 3].astype(np.float32)
    ids, wbuf = pixels.ids.ravel(), pixels.w.ravel()
    out = np.zeros((h * w, 3), np.float32)
    rx, ry = rays.x.ravel(), rays.y.ravel()
    length = np.sqrt(rx * rx + ry * ry + 1)
    sky = np.nonzero(ids == SKY)[0]
    out[sky] = _sky(trav, R, rx[sky], ry[sky])
    g = np.nonzero(ids == GROUND)[0]
    if len(g):
        out[g] = _ground(trav, trav.traffic.shades_at(i), R, C, rx[g], ry[g], wbuf[g], length[g], rays.camera.fx)
    s = np.nonzero(ids >= 0)[0]
    if len(s):
        out[s] = _quads(trav, pixels, R, C, rx[s], ry[s], wbuf[s], length[s], ids[s], rays.camera.fx)
    solid = ids != SKY
    light = trav.light
    fog = np.where(solid, 1 - np.exp(np.float32(-light.fog_per_m) * length / np.maximum(wbuf, np.float32(1e-4))), 0)
    out += fog[:, None].astype(np.float32) * (light.horizon_rgb.astype(np.float32) * np.float32(0.85) - out)
    return out.reshape(h, w, 3)


def _sky(trav: Traversal, R: F32, rx: F32, ry: F32) -> F32:
    d = [R[k, 0] * rx + R[k, 1] * ry + R[k, 2] for k in range(3)]
    az = np.mod(np.arctan2(d[1], d[0]), np.float32(2 * np.pi))
    el = np.arctan2(d[2], np.hypot(d[0], d[1]))
    rows, cols = trav.sky.shape[0], trav.sky.shape[1] - 1
    y = (np.float32(np.pi / 2) - el) * np.float32((rows - 1) / (np.pi * 2 / 3))
    return np.asarray(remap(trav.sky, az * np.float32(cols / (2 * np.pi)), y), dtype=np.float32)


def _ground(
    trav: Traversal, under: list[tuple[float, ...]], R: F32, C: F32, rx: F32, ry: F32, w: F32, length: F32, focal: float
) -> F32:
    town, light = trav.town, trav.light
    depth = 1 / w
    dx, dy, dz = (R[k, 0] * rx + R[k, 1] * ry + R[k, 2] for k in range(3))
    x, y, z = C[0] + depth * dx, C[1] + depth * dy, C[2] + depth * dz
    _, gx, gy = town.terrain.sample32(x, y)
    inv = 1 / np.sqrt(1 + gx * gx + gy * gy)
    cosine = np.maximum(-(dz - gx * dx - gy * dy) * inv / length, np.float32(1e-3))
    gm = town.ground_map
    k = np.float32(gm.k)
    minor = depth * length * np.float32(gm.k / focal)
    rgba = _anisotropic(town.ground_texture, (x - gm.x0) * k, (gm.y1 - y) * k, _f32(minor), 1 / cosine, dx, -dy, None)
    albedo = _linear(rgba[:, :3])
    kind = rgba[:, 3] * np.float32(1 / 255)
    grass = np.clip(kind * 2 - 1, 0, 1)[:, None]
    albedo *= 1 + grass * (light.grass_tint.astype(np.float32) - 1)
    if light.wet > 0:
        albedo *= np.float32(1) - np.float32(0.45 * light.wet) * (1 - grass)
    if light.snow > 0:
        patch = np.sin(x * 0.9 + 2 * np.sin(y * 0.37)) * np.sin(y * 1.1 + 2 * np.sin(x * 0.41))
        amount = np.clip(np.float32(light.snow) * (0.3 + 1.4 * kind) + 0.14 * patch - 0.06, 0, 0.95).astype(np.float32)[
            :, None
        ]
        albedo += amount * (np.array([0.74, 0.76, 0.8], np.float32) - albedo)
    sun = light.sun.astype(np.float32)
    lambert = np.maximum((sun[2] - gx * sun[0] - gy * sun[1]) * inv, 0) * _shadow(trav, x, y, z)
    ao = trav.town.shadow_grid
    dim = remap(
        trav.occlusion, (x - np.float32(ao.x0)) * np.float32(2 * ao.k), (np.float32(ao.y1) - y) * np.float32(2 * ao.k)
    )
    open_sky = dim.astype(np.float32) * np.float32(1 / 255.0)
    for cx, cy, fx, fy, half_l, half_w in under:
        ox, oy = x - np.float32(cx), y - np.float32(cy)
        along, across = np.abs(ox * fx + oy * fy) - half_l, np.abs(oy * fx - ox * fy) - half_w
        open_sky *= 1 - 0.75 * np.clip(0.5 - 2 * np.maximum(along, across), 0, 1).astype(np.float32)
        lambert *= 1 - np.clip(0.5 - 2 * np.maximum(along, across), 0, 1).astype(np.float32)
    colour = albedo * (
        open_sky[:, None] * light.ambient_rgb.astype(np.float32) + lambert[:, None] * light.sun_rgb.astype(np.float32)
    )
    if light.wet > 0:
        puddle = np.clip(0.35 + 0.65 * np.sin(x * 0.55 + 1.3 * np.sin(y * 0.31)) * np.sin(y * 0.6), 0, 1)
        mirror = (np.float32(light.wet) * (1 - cosine) ** 4 * puddle).astype(np.float32)[:, None] * (1 - grass)
        colour += mirror * (np.float32(0.7) * light.horizon_rgb.astype(np.float32) - colour) * np.float32(0.6)
    return _f32(colour)


def _quads(
    trav: Traversal,
    pixels: Pixels,
    R: F32,
    C: F32,
    rx: F32,
    ry: F32,
    w: F32,
    length: F32,
    ids: npt.NDArray[np.int32],
    focal: float,
) -> F32:
    light, vis = trav.light, pixels.visible
    rows = vis.rows
    used, local = np.unique(ids, return_inverse=True)
    table = _table(trav, rows[used], vis.u[used], vis.v[used], vis.w[used], vis.origin[used], R)
    p = table[local]
    depth = 1 / w
    u = (p[:, 0] * rx + p[:, 1] * ry + p[:, 2]) * depth
    v = (p[:, 3] * rx + p[:, 4] * ry + p[:, 5]) * depth
    # Along the ray's projection on the plane the footprint is stretched by 1 / cos.
    du = p[:, 6] * rx + p[:, 7] * ry + p[:, 8]
    dv = p[:, 9] * rx + p[:, 10] * ry + p[:, 11]
    cosine = np.maximum(np.sqrt(np.maximum(length * length - du * du - dv * dv, 1e-6)) / length, np.float32(0.02))
    minor = depth * length * p[:, 16] * np.float32(1 / focal)
    bounds = (p[:, 12], p[:, 13], p[:, 12] + p[:, 14], p[:, 13] + p[:, 15])
    rgba = _anisotropic(
        trav.town.atlas, _f32(p[:, 12] + u * p[:, 17]), _f32(p[:, 13] + v * p[:, 18]), _f32(minor), _f32(1 / cosine),
        _f32(du * p[:, 17]), _f32(dv * p[:, 18]), bounds,
    )  # fmt: skip
    albedo = _linear(rgba[:, :3]) * p[:, 19:22]
    point = [C[k] + depth * (R[k, 0] * rx + R[k, 1] * ry + R[k, 2]) for k in range(3)]
    normal = p[:, 22:25]
    push = np.float32(0.4)
    lit = p[:, 25] * _shadow(trav, point[0] + push * normal[:, 0], point[1] + push * normal[:, 1], point[2])
    if light.snow > 0:
        amount = (np.float32(light.snow) * p[:, 27])[:, None]
        albedo += amount * (np.array([0.72, 0.74, 0.78], np.float32) - albedo)
    colour = albedo * (
        p[:, 26:27] * light.ambient_rgb.astype(np.float32) + lit[:, None] * light.sun_rgb.astype(np.float32)
    )
    glass = rgba[:, 3:4] * np.float32(1 / 255) * p[:, 28:29]
    mirror = glass * (0.12 + 0.5 * (1 - cosine[:, None]) ** 3) + glass * p[:, 29:30]
    colour += mirror * (light.horizon_rgb.astype(np.float32) * np.float32(0.8) - colour)
    if light.lit_windows > 0:
        cell = np.floor(u * np.float32(0.4)) * 12.9898 + np.floor(v * np.float32(0.33)) * 78.233 + p[:, 30]
        chance = np.abs(np.sin(cell) * 43.7585) % 1
        on = (chance < light.lit_windows)[:, None] * glass * (p[:, 31:32])
        colour += on * np.array([0.95, 0.68, 0.34], np.float32) * np.float32(0.5)
    return np.asarray(colour, dtype=np.float32)


def _table(trav: Traversal, rows: Array, u: F32, v: F32, w: F32, origin: F32, R: F32) -> F32:
    """Per-quad numbers that its pixels share, (K, 32)."""
    light = trav.light
    t = np.zeros((len(rows), 32), np.float32)
    t[:, 0:3], t[:, 3:6] = u, v
    a, b = (rows[:, scene.A] @ R).astype(np.float32), (rows[:, scene.B] @ R).astype(np.float32)
    t[:, 6:9], t[:, 9:12] = a, b
    t[:, 12:16] = rows[:, scene.TEX]
    su, sv = rows[:, 13] / rows[:, 9], rows[:, 14] / rows[:, 10]
    t[:, 16], t[:, 17], t[:, 18] = np.sqrt(su * sv), su, sv
    kind = rows[:, scene.KIND]
    leaf = kind == scene.FOLIAGE
    t[:, 19:22] = rows[:, scene.TINT]
    t[leaf, 19:22] *= light.foliage_tint
    normal = scene.facing_normal(rows)
    # Two-sided quads show the side that faces the camera.
    flip = np.einsum("ij,ij->i", w.astype(np.float64), (normal @ R.astype(np.float64))) > 0
    flip &= np.einsum("ij,ij->i", (normal @ R.astype(np.float64)), origin.astype(np.float64)) > 0
    normal[flip] *= -1
    t[:, 22:25] = normal
    lambert = np.clip(normal @ light.sun, 0, None)
    t[:, 25] = np.where(leaf, 0.45, lambert)
    t[:, 26] = np.where(leaf, 0.85, 0.66 + 0.3 * normal[:, 2] + 0.06 * (normal[:, :2] @ np.array([0.8, 0.6])))
    t[:, 27] = np.where(leaf, 0.35, np.where(normal[:, 2] > 0.5, 0.95, 0.02))
    t[:, 28] = np.isin(kind, (scene.WALL, scene.VEHICLE))
    t[:, 29] = 0.10 * (kind == scene.VEHICLE)
    t[:, 30] = (rows[:, 0] * 7.31 + rows[:, 1] * 3.77) % 50.0
    t[:, 31] = kind == scene.WALL
    return t
