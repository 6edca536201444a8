"""Points and features with made-up descriptors, for matching and judging without images."""

from __future__ import annotations

import numpy as np
import torch

from vloc_ros.features.base import Described, LocalFeatures, decode_descriptors, encode_descriptors
from vloc_ros.features.points import MapPoints
from vloc_ros.types import CameraModel

CAMERA = CameraModel(320, 240, 250.0, 250.0, 159.5, 119.5)


def unit(count: int, seed: int, dimension: int = 32) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return decode_descriptors(encode_descriptors(_normal(rng, count, dimension), True))


def _normal(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    x = rng.normal(size=(count, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def points_of(descriptors: torch.Tensor, points: np.ndarray, extents: float = np.nan) -> MapPoints:
    count = len(descriptors)
    return MapPoints(
        np.arange(count), points, np.zeros((count, 3, 3)), np.full(count, extents), descriptors, np.arange(count),
        (count,),
    )  # fmt: skip


def described(descriptors: torch.Tensor, pixels: np.ndarray, size: float = 8.0) -> Described:
    count = len(descriptors)
    ones = np.ones(count, np.float32)
    features = LocalFeatures(pixels.astype(np.float32), np.zeros((count, 1), np.int8), size * ones, ones)
    return Described(features, descriptors)
