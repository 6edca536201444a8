"""Candidate proposals: the Gaussian mixture around the best poses (Section 3.1, steps 5 and 6; eq. 2).

Every function takes its random numbers as arguments, so that training, the search, and the tests
decide where they come from. Poses are ``(..., 7)`` as in :mod:`.network`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from vloc_ros.localizers.imposing.settings import SearchSettings

__all__ = ["euler_quaternion", "moved", "noise_scale", "perturb", "pick"]


def noise_scale(settings: SearchSettings) -> Tensor:
    """The six standard deviations v, metres and radians about the map axes: ``(6,)`` float64.

    Proposals for step k = 1, 2, .. use v / 2^(k - 1). (Eq. 2 prints v/k and calls v a variance, step 6 halves it
    after each iteration and gives it in metres and degrees: we take standard deviations, halved.)
    """
    rotation = [math.radians(v) for v in settings.noise_rotation_deg]
    return torch.tensor([*settings.noise_translation_m, *rotation], dtype=torch.float64)


@lru_cache(maxsize=16)
def _products(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(8, 4): a quaternion by the products of (cos, sin) of its half angles; (16, 4): the Hamilton product."""
    euler, c, s = torch.zeros(2, 2, 2, 4), 0, 1
    for column, (even, odd, sign) in enumerate(
        (((s, c, c), (c, s, s), -1), ((c, s, c), (s, c, s), 1), ((c, c, s), (s, s, c), -1), ((c, c, c), (s, s, s), 1))
    ):
        euler[(*even, column)] = 1.0
        euler[(*odd, column)] = sign
    x, y, z, w = range(4)
    hamilton = torch.zeros(4, 4, 4)
    for column, parts in enumerate(
        (
            ((w, x, 1), (x, w, 1), (y, z, 1), (z, y, -1)),
            ((w, y, 1), (x, z, -1), (y, w, 1), (z, x, 1)),
            ((w, z, 1), (x, y, 1), (y, x, -1), (z, w, 1)),
            ((w, w, 1), (x, x, -1), (y, y, -1), (z, z, -1)),
        )
    ):
        for row, other, value in parts:
            hamilton[row, other, column] = value
    with torch.inference_mode(False):
        return euler.view(8, 4).to(device, dtype), hamilton.view(16, 4).to(device, dtype)


def euler_quaternion(angles: Tensor) -> Tensor:
    """Rotations about the fixed axes X, then Y, then Z, by ``(..., 3)`` radians, as xyzw quaternions."""
    half = angles * 0.5
    x, y, z = torch.stack((half.cos(), half.sin()), dim=-1).unbind(-2)
    xy = (x[..., :, None] * y[..., None, :]).flatten(-2)
    return (xy[..., :, None] * z[..., None, :]).flatten(-2) @ _products(angles.device, angles.dtype)[0]


def moved(poses: Tensor, translation: Tensor, rotation: Tensor) -> Tensor:
    """``(..., 7)`` poses moved by ``(..., 3)`` metres and turned by ``(..., 4)`` quaternions, along the map axes."""
    q = (rotation[..., :, None] * poses[..., None, 3:]).flatten(-2) @ _products(poses.device, poses.dtype)[1]
    return torch.cat((poses[..., :3] + translation, q), dim=-1)


def perturb(poses: Tensor, noise: Tensor) -> Tensor:
    """Move ``(..., 7)`` poses by ``(..., 6)``: metres along, and Euler angles about, the map axes."""
    return moved(poses, noise[..., :3], euler_quaternion(noise[..., 3:]))


@lru_cache(maxsize=32)
def _counted(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """1 to ``count``."""
    with torch.inference_mode(False):
        return torch.arange(1, count + 1, device=device, dtype=dtype)


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Mixture components by inverse transform: ``(..., B)`` weights, ``(..., N)`` uniforms in [0, 1) to indices.

    Weights need not sum to one; where all are zero (no candidate scored) components are equally likely.
    """
    cumulative = weights.cumsum(dim=-1)
    cumulative = torch.where(
        cumulative[..., -1:] > 0, cumulative, _counted(weights.shape[-1], weights.device, weights.dtype)
    )
    target = uniform * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_max(weights.shape[-1] - 1)
