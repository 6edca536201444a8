"""Which surface each pixel sees: exact ray-plane depths for quads, Newton's method for the ground.

Everything works on inverse depth ``w = 1/z``: on a plane, ``w`` and ``u w``, ``v w`` are linear in
the ray's normalised coordinates, so that a quad's interior is five linear functions over its box of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.town import scene
from vloc_ros.town.layout import Terrain
from vloc_ros.town.textures import F32, MipImage
from vloc_ros.types import Array, CameraModel

__all__ = ["Pixels", "Rays", "Visible", "rasterise"]

NEAR_M = 0.08
FAR_M = 260.0
GROUND, SKY = -1, -2
#: Quads grow by this much on every side so that float32 leaves no cracks between neighbours.
SEAM_M = 0.002


class Rays:
    """Normalised ray coordinates (x/z, y/z) of all pixel centres, and the pixel ranges that bound them."""

    def __init__(self, camera: CameraModel) -> None:
        w, h = camera.width, camera.height
        self.camera, self.shape = camera, (h, w)
        self.linear = not camera.is_distorted
        if self.linear:
            self.xs = ((np.arange(w) - camera.cx) / camera.fx).astype(np.float32)
            self.ys = ((np.arange(h) - camera.cy) / camera.fy).astype(np.float32)
            self.x: F32 = np.ascontiguousarray(np.broadcast_to(self.xs, (h, w)))
            self.y: F32 = np.ascontiguousarray(np.broadcast_to(self.ys[:, None], (h, w)))
        else:
            from vloc_ros.geometry.cameras import unproject

            grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float64)
            rays = np.asarray(unproject(camera, grid), dtype=np.float64)
            self.x, self.y = rays[..., 0].astype(np.float32), rays[..., 1].astype(np.float32)
        # Running extremes: which columns (rows) can hold a given normalised coordinate.
        self._c_hi = np.maximum.accumulate(self.x.max(0))
        self._c_lo = np.minimum.accumulate(self.x.min(0)[::-1])[::-1]
        self._r_hi = np.maximum.accumulate(self.y.max(1))
        self._r_lo = np.minimum.accumulate(self.y.min(1)[::-1])[::-1]
        self.bounds = (float(self.x.min()), float(self.x.max()), float(self.y.min()), float(self.y.max()))

    def boxes(self, x0: Array, x1: Array, y0: Array, y1: Array) -> npt.NDArray[np.int64]:
        """Pixel boxes (N, 4) col0, col1, row0, row1 (end excluded) that hold the given ray ranges."""
        return np.stack(
            [
                np.searchsorted(self._c_hi, x0, "left"), np.searchsorted(self._c_lo, x1, "right"),
                np.searchsorted(self._r_hi, y0, "left"), np.searchsorted(self._r_lo, y1, "right"),
            ], 1,
        )  # fmt: skip


@dataclass
class Visible:
    """Quads that may be seen, nearest first: their rows in camera terms, float32."""

    source: npt.NDArray[np.int64]
    rows: Array
    u: F32
    v: F32
    w: F32
    origin: F32


@dataclass
class Pixels:
    """Inverse depth (H, W), index into ``visible`` or GROUND or SKY (H, W)."""

    w: F32
    ids: npt.NDArray[np.int32]
    visible: Visible


def _select(rows: Array, centres: Array, radii: Array, R: Array, C: Array, rays: Rays) -> npt.NDArray[np.int64]:
    d = (centres - C) @ R
    x0, x1, y0, y1 = rays.bounds
    keep = (d[:, 2] > NEAR_M - radii) & (d[:, 2] < FAR_M + radii)
    for a, b, k in ((1.0, -x0, 0), (-1.0, x1, 0), (1.0, -y0, 1), (-1.0, y1, 1)):
        keep &= (a * d[:, k] + b * d[:, 2]) > -radii * np.hypot(1.0, b)
    i = np.nonzero(keep)[0]
    r = rows[i]
    facing = np.einsum("ij,ij->i", np.cross(r[:, scene.B], r[:, scene.A]), C - r[:, scene.ORIGIN])
    return np.asarray(i[(facing > 1e-4) | ((r[:, scene.TWO_SIDED] > 0) & (np.abs(facing) > 1e-4))])


def _project_boxes(corners: Array, rays: Rays) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Pixel boxes of quads (N, 4, 3), clipped at the near plane edge by edge."""
    z = corners[..., 2]
    nxt = np.roll(corners, -1, axis=1)
    zn = nxt[..., 2]
    inside = z >= NEAR_M
    crosses = inside != (zn >= NEAR_M)
    f = np.where(crosses, (NEAR_M - z) / np.where(crosses, zn - z, 1.0), 0.0)
    cut = corners + f[..., None] * (nxt - corners)
    xy = np.concatenate([corners[..., :2] / np.maximum(z, NEAR_M)[..., None], cut[..., :2] / NEAR_M], axis=1)
    valid = np.concatenate([inside, crosses], axis=1)[..., None]
    low = np.where(valid, xy, np.inf).min(1)
    high = np.where(valid, xy, -np.inf).max(1)
    boxes = rays.boxes(low[:, 0], high[:, 0], low[:, 1], high[:, 1])
    return boxes, valid.any((1, 2)) & (boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])


def _ground(terrain: Terrain, R: Array, C: Array, rays: Rays) -> F32:
    """Inverse depth of the ground for every pixel, 0 where there is none within FAR_M."""
    h, w = rays.shape
    step = max(4, w // 40)
    rows, cols = np.arange(0, h + step, step).clip(max=h - 1), np.arange(0, w + step, step).clip(max=w - 1)
    rx, ry = rays.x[np.ix_(rows, cols)], rays.y[np.ix_(rows, cols)]
    direction = rx[..., None] * R[:, 0] + ry[..., None] * R[:, 1] + R[:, 2]
    t = np.geomspace(1.2, FAR_M, 30)
    p = C + direction[..., None, :] * t[:, None]
    f = p[..., 2] - _height32(terrain, p[..., 0], p[..., 1])
    below = f < 0
    first = below.argmax(-1)
    hit = below.any(-1)
    a = np.maximum(first - 1, 0)
    fa, fb = np.take_along_axis(f, a[..., None], -1)[..., 0], np.take_along_axis(f, first[..., None], -1)[..., 0]
    wa, wb = 1 / t[a], 1 / t[first]
    mix = np.where(first > 0, np.clip(fa / np.where(fa - fb > 1e-9, fa - fb, 1.0), 0, 1), 1.0)
    guess = np.where(hit, wa + mix * (wb - wa), 0.0).astype(np.float32)
    # Lattice nodes sit on pixels rows[i], cols[j]; interpolate bilinearly between them.
    mx = (np.arange(w) / step).astype(np.float32)
    my = (np.arange(h) / step).astype(np.float32)
    full = cv2.remap(guess, *np.meshgrid(mx, my), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    out = np.zeros((h, w), np.float32)
    idx = np.nonzero(full.ravel() > 0)[0]
    if not len(idx):
        return out
    x, y = rays.x.ravel()[idx], rays.y.ravel()[idx]
    R32, C32 = R.astype(np.float32), C.astype(np.float32)
    dx = R32[0, 0] * x + R32[0, 1] * y + R32[0, 2]
    dy = R32[1, 0] * x + R32[1, 1] * y + R32[1, 2]
    dz = R32[2, 0] * x + R32[2, 1] * y + R32[2, 2]
    q = np.maximum(full.ravel()[idx], np.float32(1 / FAR_M))
    for _ in range(4):
        s = 1 / q
        height, gx, gy = terrain.sample32(C32[0] + s * dx, C32[1] + s * dy)
        # g(q) = q (Cz - h) + dz is linear in q over a plane; g' = Cz - h + (grad h . d) / q.
        lift = C32[2] - height
        g = q * lift + dz
        slope = lift + s * (gx * dx + gy * dy)
        q = np.clip(q - g / np.where(np.abs(slope) > 1e-3, slope, 1e-3), 0.5 * q, 2 * q + np.float32(1e-4))
    residual = np.abs(g) / q
    good = (residual < 0.02) & (q > 1 / FAR_M)
    out.ravel()[idx[good]] = q[good]
    return out


def _height32(terrain: Terrain, x: Array, y: Array) -> F32:
    return terrain.sample32(x.astype(np.float32), y.astype(np.float32))[0]


def rasterise(
    static: Array, bounds: tuple[Array, Array], moving: Array, moving_bounds: tuple[Array, Array],
    terrain: Terrain, atlas: MipImage, T_map_cam: Array, rays: Rays,
) -> Pixels:  # fmt: skip
    """Nearest surface of every pixel centre; ``source`` counts static rows first, then moving ones."""
    R, C = T_map_cam[:3, :3], T_map_cam[:3, 3]
    i0 = _select(static, *bounds, R, C, rays)
    i1 = _select(moving, *moving_bounds, R, C, rays)
    rows = np.vstack([static[i0], moving[i1]])
    source = np.concatenate([i0, i1 + len(static)])
    o = (rows[:, scene.ORIGIN] - C) @ R
    a, b = rows[:, scene.A] @ R, rows[:, scene.B] @ R
    lu, lv = rows[:, 9], rows[:, 10]
    right, down = a * lu[:, None], b * lv[:, None]
    corners = np.stack([o, o + right, o + right + down, o + down], 1)
    boxes, ok = _project_boxes(corners, rays)
    nearest = np.maximum(corners[..., 2].min(1), NEAR_M)
    order = np.nonzero(ok)[0]
    order = order[np.argsort(nearest[order], kind="stable")]
    rows, o, a, b, nearest = (v[order] for v in (rows, o, a, b, nearest))
    source, boxes = source[order], boxes[order]
    n = np.cross(b, a)
    wrow = n / np.einsum("ij,ij->i", n, o)[:, None]
    urow = a - np.einsum("ij,ij->i", a, o)[:, None] * wrow
    vrow = b - np.einsum("ij,ij->i", b, o)[:, None] * wrow
    lu, lv = rows[:, 9:10], rows[:, 10:11]
    edges = np.stack(
        [urow + SEAM_M * wrow, (lu + SEAM_M) * wrow - urow, vrow + SEAM_M * wrow, (lv + SEAM_M) * wrow - vrow, wrow], 1
    ).astype(np.float32)  # fmt: skip
    u32, v32, w32 = (m.astype(np.float32) for m in (urow, vrow, wrow))
    visible = Visible(source, rows, u32, v32, w32, o.astype(np.float32))
    wbuf = _ground(terrain, R, C, rays)
    ids = np.where(wbuf > 0, np.int32(GROUND), np.int32(SKY))
    wmax = (1.0 / nearest).tolist()
    shapes, kinds = rows[:, scene.SHAPE].tolist(), rows[:, scene.KIND].tolist()
    gables = np.stack([urow, vrow, wrow], 1).astype(np.float32)
    for k, (c0, c1, r0, r1) in enumerate(boxes.tolist()):
        view = wbuf[r0:r1, c0:c1]
        if wmax[k] <= view.min():
            continue
        e = edges[k]
        if rays.linear:
            x = e[:, 0:1] * rays.xs[c0:c1]
            y = e[:, 1:2] * rays.ys[r0:r1] + e[:, 2:3]
            E = y[:, :, None] + x[:, None, :]
        else:
            e0, e1, e2 = e[:, 0, None, None], e[:, 1, None, None], e[:, 2, None, None]
            E = e0 * rays.x[r0:r1, c0:c1] + e1 * rays.y[r0:r1, c0:c1] + e2
        mask = E[:4].min(axis=0) >= 0
        mask &= E[4] > view
        if shapes[k] == scene.GABLE and mask.any():
            _gable(mask, gables[k], rows[k], rays, (c0, c1, r0, r1))
        if kinds[k] == scene.FOLIAGE and mask.any():
            _alpha(mask, E, rows[k], atlas, rays.camera.fx)
        np.copyto(view, E[4], where=mask)
        np.copyto(ids[r0:r1, c0:c1], np.int32(k), where=mask)
    return Pixels(wbuf, ids, visible)


def _gable(mask: npt.NDArray[np.bool_], g: F32, row: Array, rays: Rays, box: tuple[int, int, int, int]) -> None:
    c0, c1, r0, r1 = box
    x, y = rays.x[r0:r1, c0:c1], rays.y[r0:r1, c0:c1]
    w = g[2, 0] * x + g[2, 1] * y + g[2, 2]
    u = (g[0, 0] * x + g[0, 1] * y + g[0, 2]) / row[9]
    v = (g[1, 0] * x + g[1, 1] * y + g[1, 2]) / row[10]
    mask &= np.abs(2 * u - w) <= v


def _alpha(mask: npt.NDArray[np.bool_], E: F32, row: Array, atlas: MipImage, focal: float) -> None:
    """Cut the leaves out: keep pixels whose filtered coverage passes one half."""
    j = np.nonzero(mask.ravel())[0]
    w = E[4].ravel()[j]
    x0, y0, tw, th = (np.float32(v) for v in row[scene.TEX])
    px = x0 + E[0].ravel()[j] / w * np.float32(tw / row[9])
    py = y0 + E[2].ravel()[j] / w * np.float32(th / row[10])
    lod = np.log2(np.maximum(np.float32(tw / row[9] / focal) / w, np.float32(1.0)))
    ones = np.ones_like(px)
    rgba = atlas.sample(px, py, lod, (x0 * ones, y0 * ones, (x0 + tw) * ones, (y0 + th) * ones))
    mask.ravel()[j[rgba[:, 3] < 110]] = False
