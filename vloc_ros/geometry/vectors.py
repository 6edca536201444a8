"""Poses as vectors (tx, ty, tz, qx, qy, qz, qw): what tensors and map files hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = ["from_vectors", "to_vectors"]


def to_vectors(T: Array) -> npt.NDArray[np.float32]:
    """``(..., 4, 4)`` transforms as ``(..., 7)`` float32 vectors, metres and unit quaternions xyzw with w >= 0."""
    q = matrix_to_quaternion(T[..., :3, :3])
    return np.concatenate((T[..., :3, 3], q), axis=-1).astype(np.float32)


def from_vectors(vectors: Tensor | npt.NDArray[np.floating]) -> Array:
    """``(..., 7)`` pose vectors as ``(..., 4, 4)`` float64 transforms."""
    v = np.asarray(vectors.cpu() if isinstance(vectors, Tensor) else vectors, dtype=np.float64)
    return make_transform(quaternion_to_matrix(v[..., 3:]), v[..., :3])
