"""A direct transcription of the published procedure: what a query costs where nothing is precomputed.

For every query the reference images are read by the network again (Section 4, "3D structure"), points are gathered one
by one in Python, and each iteration builds the Jacobian of every residual channel (eq. 3), accumulates the normal
equations from it, and asks the device whether to stop. Slow on purpose: it is what :mod:`.alignment` is tested and
measured against, with the same features, starting pose and stopping rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.geometry.cameras import project, projection_jacobian, resized
from vloc_ros.geometry.torch_ops import se3_exp, skew
from vloc_ros.localizers.pixloc.features import scaled_size
from vloc_ros.localizers.pixloc.network import FeatureLevel, FeatureNet
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.types import Array, CameraModel

__all__ = ["ReferenceView", "transcribed_query"]


@dataclass(frozen=True)
class ReferenceView:
    """A reference: its normalised image (1, 3, H, W), and its observations: pixels (n, 2) of points (n,)."""

    image: Tensor
    pixels: Array
    point_ids: npt.NDArray[np.int64]


@torch.inference_mode()
def transcribed_query(
    network: FeatureNet,
    damping: Tensor,
    image: Tensor,
    camera: CameraModel,
    T_cam_map: Tensor,
    points: Array,
    references: Sequence[ReferenceView],
    scales: Sequence[float],
    settings: OptimizerSettings,
    only: npt.NDArray[np.int64] | None = None,
) -> tuple[Tensor, int]:
    """The refined ``T_cam_map`` (4, 4) float64, and the number of iterations.

    :param image: (1, 3, H, W) normalised query. :param camera: of it. :param T_cam_map: (4, 4) to begin with.
    :param points: (P, 3) of the map. :param references: the nearest ones. :param only: rows of ``points`` to use.
    """
    allowed = None if only is None else set(only.tolist())
    T, total = T_cam_map.double().cpu(), 0
    for scale in scales:
        query = _features(network, image, scale)
        views = [_features(network, reference.image, scale) for reference in references]
        height, width = image.shape[-2:]
        rows, columns = scaled_size(height, width, scale, network.settings.strides[-1])
        small = resized(camera, columns, rows)
        for number, level in enumerate(query):
            gathered = _gather(references, [view[number] for view in views], (width, height), small, allowed)
            slack = width / network.settings.strides[0] * level.stride / small.width
            T, steps = _refine_level(T, level, small, points, gathered, damping[number], settings, slack)
            total += steps
    return T, total


def _features(network: FeatureNet, image: Tensor, scale: float) -> list[FeatureLevel]:
    height, width = image.shape[-2:]
    size = scaled_size(height, width, scale, network.settings.strides[-1])
    if size != (height, width):
        image = functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    return list(network(image))


def _lookup(maps: Tensor, uv: Tensor) -> Tensor:
    """[.] of eq. 1: (1, C, h, w) at (n, 2) pixels -> (n, C), bilinear."""
    h, w = maps.shape[-2:]
    grid = uv.to(maps) * 2.0 / maps.new_tensor([w - 1, h - 1]) - 1.0
    found = functional.grid_sample(maps, grid[None, None], mode="bilinear", align_corners=True)
    return found[0, :, 0].T


def _gradient_maps(maps: Tensor) -> Tensor:
    """Central differences along x and y, one-sided at the border: (1, 2 C, h, w)."""
    dx, dy = torch.empty_like(maps), torch.empty_like(maps)
    dx[..., 1:-1] = 0.5 * (maps[..., 2:] - maps[..., :-2])
    dx[..., 0], dx[..., -1] = maps[..., 1] - maps[..., 0], maps[..., -1] - maps[..., -2]
    dy[..., 1:-1, :] = 0.5 * (maps[..., 2:, :] - maps[..., :-2, :])
    dy[..., 0, :], dy[..., -1, :] = maps[..., 1, :] - maps[..., 0, :], maps[..., -1, :] - maps[..., -2, :]
    return torch.cat([dx, dy], dim=1)


def _gather(
    references: Sequence[ReferenceView],
    levels: Sequence[FeatureLevel],
    size: tuple[int, int],
    camera: CameraModel,
    allowed: set[int] | None,
) -> tuple[list[int], Tensor, Tensor]:
    """Every point that the references observe, one by one: ids, features averaged by confidence, mean confidence."""
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for reference, level in zip(references, levels, strict=True):
        h, w = level.features.shape[-2:]
        ratio = np.array([camera.width / size[0], camera.height / size[1]]) / level.stride
        uv = np.clip((reference.pixels + 0.5) * ratio - 0.5, 0.0, [w - 1.0, h - 1.0])
        where = torch.from_numpy(uv).to(level.features.device, torch.float32)
        features, confidence = _lookup(level.features, where), _lookup(level.confidence, where)
        for row, point in enumerate(reference.point_ids.tolist()):
            if allowed is None or point in allowed:
                found.setdefault(point, []).append((features[row], confidence[row, 0]))
    ids = sorted(found)
    averages, confidences = [], []
    for point in ids:
        weights = torch.stack([c for _, c in found[point]])
        raised = weights + 1e-6
        averages.append((torch.stack([f for f, _ in found[point]]) * raised[:, None]).sum(0) / raised.sum())
        confidences.append((weights * raised).sum() / raised.sum())
    return ids, torch.stack(averages), torch.stack(confidences)


def _refine_level(
    T: Tensor,
    level: FeatureLevel,
    camera: CameraModel,
    points: Array,
    gathered: tuple[list[int], Tensor, Tensor],
    damping: Tensor,
    settings: OptimizerSettings,
    slack: float,
) -> tuple[Tensor, int]:
    ids, reference, confidence = gathered
    robust, dtype, device = settings.robust_cost(), level.features.dtype, level.features.device
    gradients = _gradient_maps(level.features)
    p_map = points[np.asarray(ids)]
    h, w = level.features.shape[-2:]
    for step in range(settings.iterations):
        pose = T.numpy()
        local = p_map @ pose[:3, :3].T + pose[:3, 3]
        pixels, valid = project(camera, local)
        uv = (pixels + 0.5) / level.stride - 0.5
        valid &= ((uv >= 0) & (uv <= [w - 1, h - 1])).all(-1)
        if int(valid.sum()) < settings.minimum_points:
            return T, step
        rows = np.flatnonzero(valid)
        at = torch.from_numpy(uv[rows]).to(device)
        residual = _lookup(level.features, at) - reference[rows]
        # eq. 3: the derivative of every channel by the pixel, of the pixel by the point, of the point by the pose.
        by_pixel = _lookup(gradients, at).reshape(len(rows), 2, -1).transpose(1, 2)
        by_point = torch.from_numpy(projection_jacobian(camera, local[rows]) / level.stride).to(device, dtype)
        p = torch.from_numpy(local[rows]).to(device, dtype)
        by_pose = torch.cat([torch.eye(3, device=device, dtype=dtype).expand(len(rows), 3, 3), -skew(p)], dim=-1)
        jacobian = by_pixel @ (by_point @ by_pose)
        squared = (residual * residual).sum(-1)
        weight = robust.weight(squared) * confidence[rows] * _lookup(level.confidence, at)[:, 0]
        gradient = torch.einsum("ncd,n,nc->d", jacobian, weight, residual).double().cpu()
        hessian = torch.einsum("ncd,n,nce->de", jacobian, weight, jacobian).double().cpu()
        diagonal = torch.diag(hessian).clamp(min=1e-6)
        damped = hessian + torch.diag((damping.double().cpu() + 1e-7) * diagonal)
        delta = -torch.linalg.solve(damped, gradient)  # eq. 4
        T = se3_exp(delta) @ T  # eq. 5
        small = float(delta[:3].norm()) < slack * settings.stop_m
        if small and float(delta[3:].norm()) < slack * np.radians(settings.stop_deg):
            return T, step + 1
    return T, settings.iterations
