from __future__ import annotations

import numpy as np
import torch

from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.geometry.vectors import from_vectors, to_vectors


def some(n: int) -> np.ndarray:
    return se3_exp(np.random.default_rng(n).normal(0, (5.0, 5.0, 5.0, 1.0, 1.0, 1.0), (n, 6)))


def test_vectors_of_transforms():
    T = some(7)
    found = to_vectors(T)
    assert found.dtype == np.float32 and found.shape == (7, 7) and (found[:, 6] >= 0).all()
    np.testing.assert_allclose(found[:, :3], T[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(quaternion_to_matrix(found[:, 3:].astype(float)), T[:, :3, :3], atol=1e-6)


def test_there_and_back_with_any_leading_axes():
    T = some(6).reshape(2, 3, 4, 4)
    for vectors in (to_vectors(T), torch.from_numpy(to_vectors(T))):
        np.testing.assert_allclose(from_vectors(vectors), T, atol=2e-6)
    assert from_vectors(to_vectors(T[0, 0])).shape == (4, 4)
