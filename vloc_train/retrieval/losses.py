"""Losses of a descriptor extractor: CoPR (Zaffar et al.), Section III-D, equations 5 to 7.

All take descriptors ``(B, D)`` and poses ``(B, 7)`` (tx, ty, tz, qx, qy, qz, qw) of ``T_map_cam`` of the B images of a
batch, and pairs of them ``(P, 2)`` or triplets ``(P, 3)`` as row numbers. The equations are of one pair or triplet; the
loss of a batch is their mean. No pairs give zero, with a gradient of zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vloc_ros.geometry.torch_ops import quaternion_multiply, quaternion_to_matrix, rotation_angle_quaternion

__all__ = [
    "RelativePoseRegressor",
    "distance_loss",
    "pose_distance",
    "relative_pose",
    "relative_pose_loss",
    "triplet_loss",
]


def triplet_loss(descriptors: Tensor, triplets: Tensor, margin: float = 0.3, active_only: bool = False) -> Tensor:
    """Equation 5: the positive must be nearer than the negative by a margin.

    ``L = max(d(f_q, f_p) - d(f_q, f_n) + m, 0)`` with the Euclidean distance of *normalised* descriptors.

    :param triplets: ``(P, 3)`` rows of query, positive, negative.
    :param active_only: mean over the triplets that violate the margin, not over all (the paper's). With all triplets of
        a batch most are soon satisfied, and their zeros would shrink the step. Our choice.
    """
    if not len(triplets):
        return descriptors.sum() * 0.0
    unit = nn.functional.normalize(descriptors, dim=-1)
    # All distances of the batch once: triplets are many more than pairs. Not by products, which lose small distances.
    between = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    q, p, n = triplets.unbind(-1)
    losses = torch.relu(between[q, p] - between[q, n] + margin)
    if active_only:
        return losses.sum() / (losses > 0).sum().clamp_min(1)
    return losses.mean()


def relative_pose(a: Tensor, b: Tensor) -> Tensor:
    """``T_a^-1 T_b`` of pose vectors, in the axes of ``a``'s camera: ``(..., 7)``, the quaternion's w not negative.

    The paper does not say in whose axes its relative pose is. A camera's own are the only ones that its image can show,
    and the only ones that mean the same in another place. Our choice.
    """
    conjugate = torch.cat([-a[..., 3:6], a[..., 6:]], dim=-1)
    q = quaternion_multiply(conjugate, b[..., 3:])
    q = torch.where(q[..., 3:] < 0, -q, q)
    t = (quaternion_to_matrix(a[..., 3:]).transpose(-1, -2) @ (b[..., :3] - a[..., :3])[..., None])[..., 0]
    return torch.cat([t, q], dim=-1)


class RelativePoseRegressor(nn.Module):
    """Two stacked descriptors ``(P, 2 D)`` to their relative pose ``(P, 7)``, as Laskar et al. (ICCVW 2017) do it.

    One shared fully-connected layer, then one each for translation and quaternion (written as one matrix). Only the
    training needs it: a map holds the extractor alone.

    :param hidden: units of the shared layer. Our choice; the text names none.
    """

    def __init__(self, dimension: int, hidden: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * dimension, hidden), nn.ReLU(), nn.Linear(hidden, 7))

    def forward(self, descriptors_a: Tensor, descriptors_b: Tensor) -> Tensor:
        """The estimated relative pose vectors; the quaternions are not normalised, as the loss compares them raw."""
        out: Tensor = self.layers(torch.cat([descriptors_a, descriptors_b], dim=-1))
        return out


def relative_pose_loss(descriptors: Tensor, poses: Tensor, pairs: Tensor, regressor: RelativePoseRegressor) -> Tensor:
    """Equation 6: ``L = ||dp_est - dp_gt||_2`` of the 7-vectors of translation (m) and quaternion.

    :param pairs: ``(P, 2)`` rows; the pose of the second is expressed in the camera of the first.
    """
    if not len(pairs):
        return descriptors.sum() * 0.0
    a, b = pairs[:, 0], pairs[:, 1]
    truth = relative_pose(poses[a], poses[b])
    estimate = regressor(descriptors[a], descriptors[b]).to(truth.dtype)
    error: Tensor = torch.linalg.vector_norm(estimate - truth, dim=-1)
    return error.mean()


def pose_distance(a: Tensor, b: Tensor, rotation_m_per_deg: float = 0.0) -> Tensor:
    """The distance (m) that descriptors should have: ``sqrt(||t_a - t_b||^2 + (w angle)^2)``; w = 0 is the paper's."""
    distance: Tensor = torch.linalg.vector_norm(a[..., :3] - b[..., :3], dim=-1)
    if rotation_m_per_deg:
        angle = rotation_angle_quaternion(a[..., 3:], b[..., 3:]) * (180.0 / math.pi)
        distance = torch.hypot(distance, rotation_m_per_deg * angle)
    return distance


def distance_loss(
    descriptors: Tensor,
    poses: Tensor,
    pairs: Tensor,
    max_distance_m: float | None = None,
    rotation_m_per_deg: float = 0.0,
    near_m: float | None = None,
    elsewhere: Tensor | None = None,
    balanced: bool = False,
) -> Tensor:
    """Equation 7: ``L = | ||f_a - f_b|| - ||t_a - t_b|| |`` with *raw* descriptors, so that they are metres apart.

    :param max_distance_m: images that share nothing to see cannot tell how far apart they are: pairs beyond this
        distance need only be at least as far apart in descriptor space (a hinge). None asks all for their
        distance, as the paper does in rooms of a few metres. Our choice.
    :param rotation_m_per_deg: what a degree of rotation counts, see :func:`pose_distance`; 0 is the paper's.
    :param near_m: weigh a pair by ``near_m / (near_m + distance)``: the nearest neighbour is decided among near images,
        but far pairs are more and their errors larger. None weighs all alike, as the paper. Our choice.
    :param balanced: the mean over near pairs plus the mean over pairs beyond ``max_distance_m``, instead of one mean:
        in a batch of several neighbourhoods nearly all pairs are far. Our choice.
    :param elsewhere: ``(P,)`` pairs of different places, which are beyond every distance: only the hinge applies.
    """
    if not len(pairs):
        return descriptors.sum() * 0.0
    a, b = pairs[:, 0], pairs[:, 1]
    found: Tensor = torch.linalg.vector_norm(descriptors[a] - descriptors[b], dim=-1)
    wanted = pose_distance(poses[a], poses[b], rotation_m_per_deg).to(found.dtype)
    if elsewhere is not None and max_distance_m is None:
        if bool(elsewhere.any()):
            raise ValueError("pairs of different places have no distance: expected max_distance_m")
    elif elsewhere is not None:  # without looking whether there are any: that would wait for the device at every step
        wanted = torch.where(elsewhere, torch.full_like(wanted, float("inf")), wanted)
    far = torch.zeros_like(found, dtype=torch.bool)
    if max_distance_m is None:
        errors = (found - wanted).abs()
    else:
        far, wanted = wanted > max_distance_m, wanted.clamp_max(max_distance_m)
        errors = torch.where(far, torch.relu(wanted - found), (found - wanted).abs())
    weights = torch.ones_like(wanted) if near_m is None else near_m / (near_m + wanted)
    if balanced:
        parts = [weights * (~far), weights * far]
        return sum(((w * errors).sum() / w.sum().clamp_min(1e-12) for w in parts), found.new_zeros(()))
    return (weights * errors).sum() / weights.sum()
