"""Candidate proposals: the Gaussian mixture around the best poses (Section 3.1, steps 5 and 6; eq. 2).

Every function takes its random numbers as arguments, so that training, the search, and the tests
decide where they come from. Poses are ``(..., 7)`` as in :mod:`.network`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import quaternion_multiply
from vloc_ros.localizers.imposing.settings import SearchSettings

__all__ = ["euler_quaternion", "noise_scale", "perturb", "pick"]


def noise_scale(settings: SearchSettings) -> Tensor:
    """The six standard deviations v, metres and radians about the map axes: ``(6,)`` float64.

    Proposals for step k = 1, 2, .. use v / 2^(k - 1). (Eq. 2 prints v/k and calls v a variance, step 6 halves it
    after each iteration and gives it in metres and degrees: we take standard deviations, halved.)
    """
    rotation = [math.radians(v) for v in settings.noise_rotation_deg]
    return torch.tensor([*settings.noise_translation_m, *rotation], dtype=torch.float64)


def euler_quaternion(angles: Tensor) -> Tensor:
    """Rotations about the fixed axes X, then Y, then Z, by ``(..., 3)`` radians, as xyzw quaternions."""
    half = angles * 0.5
    (sx, sy, sz), (cx, cy, cz) = half.sin().unbind(-1), half.cos().unbind(-1)
    return torch.stack(
        (
            sx * cy * cz - cx * sy * sz,
            cx * sy * cz + sx * cy * sz,
            cx * cy * sz - sx * sy * cz,
            cx * cy * cz + sx * sy * sz,
        ),
        dim=-1,
    )


def perturb(poses: Tensor, noise: Tensor) -> Tensor:
    """Move ``(..., 7)`` poses by ``(..., 6)``: metres along, and Euler angles about, the map axes."""
    rotation = quaternion_multiply(euler_quaternion(noise[..., 3:]), poses[..., 3:])
    return torch.cat((poses[..., :3] + noise[..., :3], rotation), dim=-1)


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Mixture components by inverse transform: ``(..., B)`` weights, ``(..., N)`` uniforms in [0, 1) to indices.

    Weights need not sum to one; where all are zero (no candidate scored) components are equally likely.
    """
    weights = torch.where(weights.sum(dim=-1, keepdim=True) > 0, weights, torch.ones_like(weights))
    cumulative = weights.cumsum(dim=-1)
    target = uniform * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_max(weights.shape[-1] - 1)
