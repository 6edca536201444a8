"""Mip-mapped texture atlas with trilinear, anisotropic look-up, and noise to paint with."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.types import Array

__all__ = ["Atlas", "MipImage", "smooth_noise"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
LEVELS = 7
ALIGN = 64


def smooth_noise(rng: np.random.Generator, h: int, w: int, cell: float) -> F32:
    """Smooth noise in about [-1, 1] with features of ``cell`` pixels, (h, w) float32."""
    gh, gw = max(2, int(np.ceil(h / cell)) + 1), max(2, int(np.ceil(w / cell)) + 1)
    grid = rng.uniform(-1, 1, (gh, gw)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


class MipImage:
    """An RGBA image and its box-filtered halvings packed in one array that ``cv2.remap`` reads."""

    def __init__(self, image: U8) -> None:
        pad_y, pad_x = -image.shape[0] % ALIGN, -image.shape[1] % ALIGN
        level = cv2.copyMakeBorder(image, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
        h, w = level.shape[:2]
        packed = np.zeros((h, w + w // 2, 4), np.uint8)
        packed[:, :w] = level
        self.offsets = np.zeros((LEVELS, 2), np.float32)
        y = 0
        for i in range(1, LEVELS):
            level = cv2.resize(level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA)
            packed[y : y + level.shape[0], w : w + level.shape[1]] = level
            self.offsets[i] = w, y
            y += level.shape[0]
        if max(packed.shape[:2]) >= 32767:
            raise ConfigError(f"town: textures of {packed.shape[:2]} texels exceed 32766 a side; choose a shorter loop")
        self.packed: U8 = packed
        self.size = (w, h)

    def sample(self, x: F32, y: F32, lod: F32, bounds: tuple[F32, F32, F32, F32] | None = None) -> F32:
        """Trilinear look-up, (N, 4) float32 in 0..255.

        ``x``, ``y``: level-0 texel coordinates (texel i covers [i, i+1]); ``bounds``: x0, y0, x1, y1 to stay in.
        """
        lod = np.clip(lod, 0.0, LEVELS - 1.001)
        base = lod.astype(np.int32)
        frac = lod - base
        fine = self._bilinear(x, y, base, bounds)
        coarse = self._bilinear(x, y, base + 1, bounds)
        out = coarse.astype(np.float32)
        out -= fine
        out *= frac[:, None]
        out += fine
        return out

    def _bilinear(self, x: F32, y: F32, level: npt.NDArray[np.int32], bounds: tuple[F32, ...] | None) -> U8:
        scale = _SCALES[level]
        px, py = x * scale, y * scale
        if bounds is not None:
            half = np.float32(0.5)
            x0, y0 = bounds[0] * scale + half, bounds[1] * scale + half
            px = np.minimum(np.maximum(px, x0), np.maximum(bounds[2] * scale - half, x0))
            py = np.minimum(np.maximum(py, y0), np.maximum(bounds[3] * scale - half, y0))
        else:
            w, h = self.size
            px = np.minimum(np.maximum(px, np.float32(0.5)), w * scale - np.float32(0.5))
            py = np.minimum(np.maximum(py, np.float32(0.5)), h * scale - np.float32(0.5))
        px += self.offsets[level, 0] - np.float32(0.5)
        py += self.offsets[level, 1] - np.float32(0.5)
        return np.asarray(remap(self.packed, px, py), dtype=np.uint8)


_SCALES = (0.5 ** np.arange(LEVELS + 1)).astype(np.float32)


def remap(image: U8 | F32, x: F32, y: F32) -> npt.NDArray[np.generic]:
    """Bilinear look-up at N points; reshaped because OpenCV bounds a side by 32767."""
    n = x.shape[0]
    if n == 0:  # OpenCV refuses; a vehicle can hide all of the sky
        return np.empty((0, *image.shape[2:]), image.dtype)
    rows = -(-n // 256)
    grid = np.zeros((2, rows * 256), np.float32)
    grid[0, :n], grid[1, :n] = x, y
    out = cv2.remap(
        image, grid[0].reshape(rows, 256), grid[1].reshape(rows, 256), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out.reshape((rows * 256, *image.shape[2:]))[:n]


class Atlas:
    """Packs painted textures on shelves; every rectangle is aligned so that no mip level mixes neighbours."""

    def __init__(self, width: int = 8192, scale: float = 1.0) -> None:
        self.width, self.scale = width, scale
        self._items: list[tuple[int, int, U8]] = []
        self._x = self._y = self._shelf = 0

    def add(self, image: U8) -> tuple[float, float, float, float]:
        """Add an RGB or RGBA texture; returns its (x, y, width, height) in texels."""
        if self.scale < 1.0:
            small = max(8, round(image.shape[1] * self.scale)), max(8, round(image.shape[0] * self.scale))
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        h, w = image.shape[:2]
        if image.shape[2] == 3:
            image = np.dstack([image, np.zeros((h, w), np.uint8)])
        aw, ah = w + (-w % ALIGN), h + (-h % ALIGN)
        if self._x + aw > self.width:
            self._x, self._y, self._shelf = 0, self._y + self._shelf, 0
        self._items.append((self._x, self._y, np.asarray(image, dtype=np.uint8)))
        rect = (float(self._x), float(self._y), float(w), float(h))
        self._x += aw
        self._shelf = max(self._shelf, ah)
        return rect

    def build(self) -> MipImage:
        """The mip-mapped atlas image."""
        canvas = np.zeros((max(self._y + self._shelf, ALIGN), self.width, 4), np.uint8)
        for x, y, image in self._items:
            h, w = image.shape[:2]
            padded = cv2.copyMakeBorder(image, 0, -h % ALIGN, 0, -w % ALIGN, cv2.BORDER_REPLICATE)
            canvas[y : y + padded.shape[0], x : x + padded.shape[1]] = padded
        return MipImage(canvas)


def to_texture(rgb: Array | F32, alpha: F32 | U8 | None = None) -> U8:
    """Clip painted floats to uint8 and attach the fourth channel (0..255)."""
    out = np.clip(rgb, 0, 255).astype(np.uint8)
    if alpha is None:
        return out
    return np.dstack([out, np.clip(alpha, 0, 255).astype(np.uint8)])
