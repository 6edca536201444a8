"""Relative poses of image pairs, as CamNet regresses them (Section 3.2), and back to poses in the map.

Poses are vectors ``(..., 7)`` (tx, ty, tz, qx, qy, qz, qw) of T_map_cam. Image 1 is the query, image 2 the reference:

``body``
    T_1^-1 T_2: the reference's position and axes seen from the query's camera. It means the same wherever the pair
    stands, so it can be learned in one place and used in another.
``world``
    the paper's: t_2 - t_1 in map axes, and R_1^T R_2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import quaternion_multiply, quaternion_to_matrix

__all__ = [
    "absolute_poses",
    "mirrored_poses",
    "nearest_poses",
    "pose_distance",
    "relative_poses",
    "rotation_half_turns",
]


def _conjugate(q: Tensor) -> Tensor:
    return torch.cat((-q[..., :3], q[..., 3:]), dim=-1)


def _rotate(q: Tensor, v: Tensor) -> Tensor:
    return (quaternion_to_matrix(q) @ v.unsqueeze(-1)).squeeze(-1)


def relative_poses(one: Tensor, two: Tensor, frame: str = "body") -> Tensor:
    """The relative pose ``(..., 7)`` of image 2 seen from image 1; the quaternion of R_1^T R_2 has w >= 0."""
    rotation = quaternion_multiply(_conjugate(one[..., 3:]), two[..., 3:])
    rotation = torch.where(rotation[..., 3:] < 0, -rotation, rotation)
    translation = two[..., :3] - one[..., :3]
    if frame == "body":
        translation = _rotate(_conjugate(one[..., 3:]), translation)
    return torch.cat((translation, rotation), dim=-1)


def absolute_poses(reference: Tensor, relative: Tensor, frame: str = "body") -> Tensor:
    """The query's pose from the reference's and a relative pose: R_1 = R_2 dR^-1, t_1 = t_2 - dt; ``(..., 7)``.

    The quaternion of ``relative`` need not be of unit length (a regressor's is not).
    """
    turned = torch.nn.functional.normalize(relative[..., 3:], dim=-1)
    rotation = quaternion_multiply(reference[..., 3:], _conjugate(turned))
    translation = relative[..., :3]
    if frame == "body":
        translation = _rotate(rotation, translation)
    return torch.cat((reference[..., :3] - translation, rotation), dim=-1)


def mirrored_poses(poses: Tensor) -> Tensor:
    """Poses ``(..., 7)`` in the world that mirrored images show: ``S T S`` with S = diag(-1, 1, 1, 1).

    A mirrored image (columns reversed) is what the camera would see of a mirrored world; the plane is free, here the
    map's x turns to -x. A rotation axis is a pseudo-vector: its components *along* the plane change sign. Relative
    poses mirror with their images, and mirroring twice gives the pose back.
    """
    return poses * poses.new_tensor((-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0))


def rotation_half_turns(a: Tensor, b: Tensor) -> Tensor:
    """2 arccos(|q_a . q_b|) / pi of unit quaternions, broadcast: 0 for equal rotations, 1 for opposite ones."""
    return torch.acos((a * b).sum(dim=-1).abs().clamp_max(1.0)) * (2.0 / math.pi)


def pose_distance(a: Tensor, b: Tensor, rotation_weight_m: float = 1.0) -> Tensor:
    """zeta of Algorithm 1: metres apart plus half turns apart times ``rotation_weight_m``; broadcasts ``(..., 7)``."""
    apart: Tensor = torch.linalg.vector_norm(a[..., :3] - b[..., :3], dim=-1)
    return apart + rotation_weight_m * rotation_half_turns(a[..., 3:], b[..., 3:])


def nearest_poses(
    poses: Tensor, references: Tensor, rotation_weight_m: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """For each of ``(P, 7)`` poses the row of the nearest of ``(M, 7)`` references (Algorithm 1, step 4): ``(P,)``.

    :param excluded: ``(P, M)`` references that must not be taken.
    """
    rows = []
    step = max(1, (1 << 24) // max(1, len(references)))
    for start in range(0, len(poses), step):
        part = poses[start : start + step]
        apart = torch.cdist(part[:, :3], references[:, :3], compute_mode="donot_use_mm_for_euclid_dist")
        half = torch.acos((part[:, 3:] @ references[:, 3:].T).abs().clamp_max(1.0))
        distance = apart + (rotation_weight_m * 2.0 / math.pi) * half
        if excluded is not None:
            distance = distance.masked_fill(excluded[start : start + step], torch.inf)
        rows.append(distance.argmin(dim=1))
    return torch.cat(rows)
