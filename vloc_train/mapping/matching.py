"""Features of two frames that are the same: by descriptor, then by the relative pose that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.features.base import decode_descriptors
from vloc_ros.features.matching import match_descriptors
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array
from vloc_train.mapping.keypoints import Features

__all__ = ["Matched", "Matching", "agree_with_poses", "match_pair", "matched"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matched:
    """``pairs`` (M, 2) of features that descriptors and poses agree on, out of ``asked`` that descriptors had."""

    pairs: Ints
    asked: int


def agree_with_poses(
    plane_a: Array, plane_b: Array, T_map_a: Array, T_map_b: Array, pixels: tuple[float, float]
) -> npt.NDArray[np.bool_]:
    """Which matched rays (M, 2 each, on the plane z = 1) can be of one point in front of both cameras.

    The angle between a ray and the epipolar plane of the other must be small in both directions, and the rays must
    meet in front of the cameras unless they are parallel but for the same small angle.

    :param pixels: the largest error in units of each camera's plane (pixels over focal length).
    """
    T_a_b = inverse(T_map_a) @ T_map_b
    R, t = T_a_b[:3, :3], T_a_b[:3, 3]
    baseline = float(np.linalg.norm(t))
    rays_a, rays_b = (np.concatenate([p, np.ones((len(p), 1))], axis=1) for p in (plane_a, plane_b))
    rays_a, rays_b = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rays_a, rays_b))
    turned = rays_b @ R.T
    if baseline < 1e-9:
        # Without parallax the rays themselves must agree.
        return np.asarray(np.linalg.norm(np.cross(rays_a, turned), axis=1) < min(pixels))
    E = skew(t / baseline) @ R
    normal_a, normal_b = rays_b @ E.T, rays_a @ E
    apart = (rays_a * normal_a).sum(axis=1)
    good = np.ones(len(rays_a), dtype=bool)
    for normal, limit in ((normal_a, pixels[0]), (normal_b, pixels[1])):
        good &= np.abs(apart) <= limit * np.linalg.norm(normal, axis=1)
    # Distances along both rays where they come closest: z_a a = z_b b + t.
    across = np.cross(rays_a, turned)
    size = np.maximum((across**2).sum(axis=1), 1e-18)
    z_a = (np.cross(t, turned) * across).sum(axis=1) / size
    z_b = (np.cross(t, rays_a) * across).sum(axis=1) / size
    parallel = np.sqrt(size) < 2.0 * max(pixels)
    return np.asarray(good & (((z_a > 0) & (z_b > 0)) | parallel))


@dataclass(frozen=True)
class Matching:
    """Some frames and others that each is compared with, and all that it takes.

    :ivar features: by frame. :ivar T_map_cam: by frame. :ivar pairs: frames, and the others of each.
    :ivar pixels: by frame, as :func:`agree_with_poses` takes them. :ivar device: where to compare.
    """

    features: Mapping[int, Features]
    T_map_cam: Mapping[int, Array]
    pairs: Sequence[tuple[int, Ints]]
    pixels: Mapping[int, float]
    ratio: float
    device: torch.device | None = None


def matched(asked: Matching) -> list[list[Matched]]:
    """What each frame of :attr:`Matching.pairs` has in common with each of its others."""
    return [
        [
            match_pair(
                asked.features[frame], asked.features[int(other)], asked.T_map_cam[frame], asked.T_map_cam[int(other)],
                asked.ratio, (asked.pixels[frame], asked.pixels[int(other)]), asked.device,
            )
            for other in others
        ]
        for frame, others in asked.pairs
    ]  # fmt: skip


def match_pair(
    a: Features,
    b: Features,
    T_map_a: Array,
    T_map_b: Array,
    ratio: float,
    pixels: tuple[float, float],
    device: torch.device | None = None,
) -> Matched:
    """Features of two frames that are the same. ``pixels`` as in :func:`agree_with_poses`."""
    pairs, _ = match_descriptors(
        decode_descriptors(a.descriptors, device), decode_descriptors(b.descriptors, device), ratio
    )
    good = agree_with_poses(a.plane[pairs[:, 0]], b.plane[pairs[:, 1]], T_map_a, T_map_b, pixels)
    return Matched(pairs[good], len(pairs))
