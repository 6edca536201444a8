"""Whether the map is seen where a pose has it: the features of points are looked for around their projections.

The cost of an alignment says little about its place: the optimiser finds a small one anywhere, and on real streets
calls a wrong place as good as the right one. What a wrong place cannot give is features that are more alike exactly
where the pose projects the points than anywhere near. Not in the paper.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.levels import Level
from vloc_ros.localizers.pixloc.residuals import project_points

__all__ = ["MINIMAL", "peak_share"]

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


def peak_share(level: Level, points: Tensor, T_cam_map: Tensor) -> Tensor:
    """(B,) share of the points that look most like the map at their projection, among 81 places around it.

    By chance it is one in 81, a little more where features are smooth. 0 where fewer than :data:`MINIMAL` points are
    seen with room around them.

    :param level: one of a :class:`~.field.GridField`. :param points: (1, N, 3) m, as ``level.reference``.
    :param T_cam_map: (B, 4, 4), float64.
    """
    every = max(1, points.shape[1] // _POINTS)
    uv, _, seen = project_points(T_cam_map, points[:, ::every], level.camera, jacobian=False)
    seen = seen & uv.isfinite().all(-1)
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
    wanted = level.reference[:, ::every, None].to(around.dtype)
    alike = torch.nn.functional.cosine_similarity(around, wanted, dim=-1)
    alike = torch.where(inside, alike, torch.full_like(alike, -2.0))
    middle = alike.shape[-1] // 2
    found = counted & (alike.argmax(-1) == middle)
    count = counted.sum(-1)
    return torch.where(count >= MINIMAL, found.sum(-1) / count.clamp(min=1), torch.zeros_like(count, dtype=torch.float))
