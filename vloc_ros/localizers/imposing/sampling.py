"""Candidate proposals: the Gaussian mixture around the best poses (Section 3.1, steps 5 and 6; eq. 2).

Every function takes its random numbers as arguments, so that training, the search, and the tests
decide where they come from. Poses are ``(..., 7)`` as in :mod:`.network`, or ``(7, N)`` where the search says so.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from vloc_ros.localizers.imposing.settings import SearchSettings

__all__ = ["moved", "noise_rows", "noise_scale", "perturb", "pick"]


def noise_scale(settings: SearchSettings) -> Tensor:
    """The six standard deviations v, metres and radians about the map axes: ``(6,)`` float64.

    Proposals for step k = 1, 2, .. use v / 2^(k - 1). (Eq. 2 prints v/k and calls v a variance, step 6 halves it
    after each iteration and gives it in metres and degrees: we take standard deviations, halved.)
    """
    rotation = [math.radians(v) for v in settings.noise_rotation_deg]
    return torch.tensor([*settings.noise_translation_m, *rotation], dtype=torch.float64)


@lru_cache(maxsize=16)
def _products(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(4, 8): a quaternion by the products of (cos, sin) of its half angles; (4, 16): the Hamilton product."""
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
        return euler.view(8, 4).T.contiguous().to(device, dtype), hamilton.view(16, 4).T.contiguous().to(device, dtype)


def noise_rows(normal: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Proposals' noise by its numbers: metres ``(..., 3, N)``, and rotations as quaternions ``(..., 4, N)``.

    A rotation turns about the fixed axes X, then Y, then Z.

    :param normal: ``(..., N, 6)`` standard normal numbers. :param scale: ``(..., 6)``: metres and radians.
    """
    half = scale * _halves(scale.device, scale.dtype)
    noise = normal.new_empty(*normal.shape[:-2], 6, normal.shape[-2])
    torch.mul(normal.mT, half[..., None], out=noise)
    circle = noise.new_empty(*noise.shape[:-2], 2, 3, noise.shape[-1])
    torch.cos(noise[..., 3:, :], out=circle[..., 0, :, :])
    torch.sin(noise[..., 3:, :], out=circle[..., 1, :, :])
    x, y, z = circle.unbind(-2)
    xy = (x[..., :, None, :] * y[..., None, :, :]).flatten(-3, -2)
    xyz = (xy[..., :, None, :] * z[..., None, :, :]).flatten(-3, -2)
    return noise[..., :3, :], _products(noise.device, noise.dtype)[0] @ xyz


def moved(poses: Tensor, translation: Tensor, rotation: Tensor) -> Tensor:
    """Poses ``(7, N)`` moved by ``(3, N)`` metres and turned by ``(4, N)`` quaternions, along the map axes."""
    out = poses.new_empty(7, translation.shape[-1])
    torch.add(poses[:3], translation, out=out[:3])
    products = (rotation[:, None] * poses[None, 3:]).flatten(0, 1)
    torch.mm(_products(poses.device, poses.dtype)[1], products, out=out[3:])
    return out


def perturb(poses: Tensor, noise: Tensor) -> Tensor:
    """Move ``(..., 7)`` poses by ``(..., 6)``: metres along, and Euler angles about, the map axes."""
    shape = (poses[..., 0] + noise[..., 0]).shape
    rows = noise.expand(*shape, 6).reshape(-1, 6)
    found = moved(poses.expand(*shape, 7).reshape(-1, 7).T, *noise_rows(rows, torch.ones_like(rows[0])))
    return found.T.reshape(*shape, 7)


@lru_cache(maxsize=16)
def _halves(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(6,): a quaternion is made of half the angles."""
    with torch.inference_mode(False):
        return torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], dtype=dtype).to(device)


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Mixture components by inverse transform: ``(..., B)`` weights, ``(..., N)`` uniforms in [0, 1) to indices.

    Weights need not sum to one, but some must be positive.
    """
    cumulative = weights.cumsum(dim=-1)
    # Without the last one nothing is beyond the end, however a product is rounded.
    return torch.searchsorted(cumulative[..., :-1].contiguous(), uniform * cumulative[..., -1:], right=True)
