"""Whether the map is seen where a pose has it: the features of points are looked for around their projections.

The cost of an alignment says little about its place: the optimiser finds a small one anywhere, and on real streets
calls a wrong place as good as the right one. What a wrong place cannot give is features that are more alike exactly
where the pose projects the points than anywhere near. Not in the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.joint import for_poses, level_for_poses
from vloc_ros.localizers.pixloc.levels import Sight
from vloc_ros.localizers.pixloc.residuals import project_points

__all__ = ["MINIMAL", "every", "joint_share", "peaks", "share"]

#: Half the side of the square that is searched around a projection, and its step, cells of the level.
_REACH, _STEP = 8, 2
#: Every n-th point is looked at, so that this many to twice as many are: their share is then known to 0.03.
_POINTS = 256
#: A share of fewer points than this means nothing.
MINIMAL = 30


@functools.lru_cache(maxsize=8)
def _offsets(device: torch.device) -> Tensor:
    """(K, 2) whole cells around a projection; the projection's own is the middle one."""
    axis = torch.arange(-_REACH, _REACH + 1, _STEP, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)


def every(count: int) -> slice:
    """Which of so many points are looked at."""
    return slice(None, None, max(1, count // _POINTS))


def peaks(sight: Sight, T_rig_map: Tensor) -> Tensor:
    """How many points look most like the map at their projection, among 81 places around it, and how many could.

    By chance it is one in 81, a little more where features are smooth.

    :param sight: one level of a :class:`~.field.GridField`, and :func:`every` point that is looked at.
    :param T_rig_map: (B, 4, 4), float64.
    :returns: (B, K, 2) int64 of K cameras: found, and seen with room around them.
    """
    poses, rig, points, mask = len(T_rig_map), sight.T_cam_rig, sight.points_map, sight.mask
    level, T = level_for_poses(sight, sight.levels[0], poses), T_rig_map
    if rig is not None:
        T, points = (rig.double() @ T[:, None]).flatten(0, 1), for_poses(points, poses)
        mask = None if mask is None else for_poses(mask, poses)
    uv, _, seen = project_points(T, points, level.camera, jacobian=False)
    seen = seen & uv.isfinite().all(-1)
    if mask is not None:
        seen = seen & mask
    field = level.field
    assert isinstance(field, GridField)
    last = field.bounds(torch.float32)[0].long()
    cell = torch.where(seen[..., None], uv, torch.zeros_like(uv)).clamp(-1e6, 1e6).round().long()
    at = cell[..., None, :] + _offsets(uv.device)  # (B, n, K, 2)
    inside = ((at >= 0) & (at <= last)).all(-1)
    at = torch.minimum(at.clamp(min=0), last)
    # At the image's edge fewer places compete; a point needs room on most sides to count.
    counted = seen & (inside.float().mean(-1) >= 0.6)
    around = field.cells(at)
    # Cosines but for the length of the reference, which is the same at all places.
    alike = (level.reference[..., None, :].to(around.dtype) @ around.mT)[..., 0, :]
    alike = alike / torch.linalg.vector_norm(around, dim=-1).clamp_min(1e-12)
    alike = torch.where(inside, alike, torch.full_like(alike, -torch.inf))
    middle = alike.shape[-1] // 2
    found = counted & (alike.argmax(-1) == middle)
    return torch.stack([found.sum(-1), counted.sum(-1)], dim=-1).view(poses, -1, 2)


def share(found: int, counted: int) -> float:
    """Of the points that could peak, those that did; 0 where fewer than :data:`MINIMAL` tell anything."""
    return found / counted if counted >= MINIMAL else 0.0


def joint_share(counts: Sequence[tuple[int, int]]) -> float:
    """Of all cameras together, and never less than of one alone: a camera that sees nothing takes nothing away.

    :param counts: of each camera, as :func:`peaks` has them.
    """
    together = share(sum(found for found, _ in counts), sum(counted for _, counted in counts))
    return max(together, *(share(*each) for each in counts))
