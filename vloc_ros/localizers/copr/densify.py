"""From a sparse database to a dense one: regress a descriptor for every target, some at a time (Section III-B).

Only rows of images are anchors. Rows that an earlier densification made stay, so that a map can be interpolated first
and extrapolated then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError, MapTensorError
from vloc_ros.localizers.copr.network import DescriptorRegressor, relative_pose
from vloc_ros.localizers.copr.regressors import (
    combine,
    interpolation_weights,
    nearest_anchors,
    plane_weights,
    two_trajectories,
)
from vloc_ros.localizers.copr.settings import PLANE_ANCHORS, PLANE_TOLERANCE, DensifySettings
from vloc_ros.localizers.copr.targets import Targets, targets_of, trajectories
from vloc_ros.localizers.retrieval.database import EXTRAPOLATED, IMAGE, INTERPOLATED, Database
from vloc_ros.types import Array

__all__ = ["Plan", "densify", "plan", "regressed", "sparsify"]


def sparsify(database: Database, every: int) -> Database:
    """Every n-th image of a database, the first among them (paper: n = 50); nothing that was regressed.

    :raises ConfigError: ``every`` is not positive.
    """
    if every < 1:
        raise ConfigError(f"every: expected at least 1, found {every}")
    return database.select(torch.nonzero(database.origin == IMAGE)[::every, 0].numpy())


@dataclass(frozen=True)
class Plan:
    """What one scene becomes: the rows that are kept, and the poses to regress descriptors for.

    :ivar kept: the database as the result begins with it. :ivar images: ``(A,)`` its rows with an image.
    :ivar targets: their anchors count among ``images``. :ivar settings: how.
    """

    kept: Database
    images: Tensor
    targets: Targets
    settings: DensifySettings

    def __len__(self) -> int:
        return len(self.kept) + len(self.targets)

    def columns(self) -> dict[str, Tensor]:
        """All columns of the result but the descriptors."""
        count = len(self.targets)
        origin = INTERPOLATED if self.settings.targets.scheme == "interpolate" else EXTRAPOLATED
        anchor = self.images[torch.from_numpy(self.targets.anchors[:, 0])].int()
        kept = self.kept
        return {
            "poses": torch.cat((kept.poses, torch.from_numpy(self.targets.poses).float())),
            "origin": torch.cat((kept.origin, torch.full((count,), origin, dtype=torch.uint8))),
            "anchor": torch.cat((kept.anchor, anchor)),
            "stamps": torch.cat((kept.stamps, torch.zeros(count, dtype=torch.int64))),
        }


def plan(database: Database, settings: DensifySettings) -> Plan:
    """Choose what to keep and where to regress.

    :raises InterpolationError: nothing to interpolate between, or no image at all.
    :raises ConfigError: too many targets, or no span.
    """
    kept = sparsify(database, settings.every) if settings.every > 1 else database
    images = torch.nonzero(kept.origin == IMAGE)[:, 0]
    dropped: Array | None = None
    if settings.targets.at == "dropped":
        rows = torch.nonzero(database.origin == IMAGE)[:, 0]
        number = np.arange(len(rows))
        left_out = number % settings.every != 0
        poses = database.poses[rows].double().numpy()[left_out]
        dropped = np.concatenate((poses, (number[left_out] // settings.every)[:, None]), axis=1)
    targets = targets_of(kept.poses[images].double().numpy(), settings.targets, dropped)
    return Plan(kept, images, targets, settings)


def regressed(
    made: Plan,
    regressor: DescriptorRegressor | None = None,
    device: torch.device | None = None,
    reach_m: float = float("inf"),
) -> Iterator[Tensor]:
    """Descriptors of the plan's targets, ``(B, D)`` float16 on the CPU, ``settings.chunk`` at a time, in order.

    Where descriptors are compared by their direction, regressed ones are brought to unit length too.

    :param regressor: H; only for method ``nonlinear``.
    :param reach_m: with ``blend``: only the nearest anchor may be farther away, beyond what H has learned from.
    :raises ConfigError: H is missing. :raises MapTensorError: it makes something that is not finite in float16.
    """
    settings, device = made.settings, device or torch.device("cpu")
    if settings.method == "nonlinear" and regressor is None:
        raise ConfigError("method nonlinear: expected a regressor, found none; give a map that holds one (--regressor)")
    descriptors = made.kept.descriptors[made.images].to(device, torch.float32)
    poses = made.kept.poses[made.images].double()
    numbers = torch.from_numpy(trajectories(poses.numpy(), settings.targets))
    for start in range(0, len(made.targets), settings.chunk):
        part = Targets(
            made.targets.poses[start : start + settings.chunk], made.targets.anchors[start : start + settings.chunk]
        )
        with torch.inference_mode():
            found = _regress(part, descriptors, poses, numbers, settings, regressor, reach_m)
            if made.kept.metric == "cosine":
                found = torch.nn.functional.normalize(found, dim=-1)
            out = found.half().cpu()
        if not bool(torch.isfinite(out).all()):
            raise MapTensorError(
                f"densify: expected finite descriptors within the range of float16, method {settings.method} made "
                "others; take a smaller span, or a ridge (plane.ridge_m)"
            )
        yield out


def _regress(
    targets: Targets,
    descriptors: Tensor,
    poses: Tensor,
    numbers: Tensor,
    settings: DensifySettings,
    regressor: DescriptorRegressor | None,
    reach_m: float,
) -> Tensor:
    at = torch.from_numpy(targets.poses)
    rows = torch.from_numpy(targets.anchors)
    positions = poses[:, :3]
    if settings.method == "linear":
        weights = interpolation_weights(at[:, :3], positions[rows[:, 0]], positions[rows[:, 1]])
    elif settings.method == "plane":
        both = None
        if settings.plane.per_trajectory:
            both = two_trajectories(at[:, :3], positions, numbers, settings.plane.per_trajectory)
        rows = both if both is not None else nearest_anchors(at[:, :3], positions, PLANE_ANCHORS)[1]
        weights = plane_weights(at[:, :3], positions[rows], PLANE_TOLERANCE, settings.plane.ridge_m)
    else:
        assert regressor is not None
        return _by_network(at, rows, descriptors, poses, settings.blend, regressor, reach_m)
    return combine(descriptors, rows.to(descriptors.device), weights.to(descriptors.device))


def _by_network(
    at: Tensor,
    rows: Tensor,
    descriptors: Tensor,
    poses: Tensor,
    blend: int,
    regressor: DescriptorRegressor,
    reach_m: float,
) -> Tensor:
    """H from the nearest anchor, or the mean of H from several, nearer ones weighing more."""
    if blend == 1:
        rows, weights = rows[:, :1], torch.ones(len(rows), 1, dtype=torch.float64)
    else:
        if rows.shape[1] < blend:
            rows = nearest_anchors(at[:, :3], poses[:, :3], blend)[1]
        apart = torch.linalg.vector_norm(at[:, None, :3] - poses[rows, :3], dim=-1)
        weights = 1.0 / apart.clamp_min(1e-6)  # of two anchors on a line: equations 1 to 3
        weights = torch.where((apart <= reach_m) | (apart == apart.amin(dim=1, keepdim=True)), weights, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
    device = descriptors.device
    out = torch.zeros(len(at), descriptors.shape[1], device=device)
    for k in range(rows.shape[1]):
        relative = relative_pose(poses[rows[:, k]], at, regressor.settings.relative_frame).float().to(device)
        out += weights[:, k, None].float().to(device) * regressor(descriptors[rows[:, k].to(device)], relative)
    return out


def densify(
    database: Database,
    settings: DensifySettings,
    regressor: DescriptorRegressor | None = None,
    device: torch.device | None = None,
    reach_m: float = float("inf"),
) -> Database:
    """The densified database in memory: ``database`` (sparsified first where asked) and the regressed rows after it.

    :raises VlocError: see :func:`plan` and :func:`regressed`.
    """
    made = plan(database, settings)
    out = torch.empty(len(made), database.dimension, dtype=torch.float16)
    out[: len(made.kept)] = made.kept.descriptors
    row = len(made.kept)
    for part in regressed(made, regressor, device, reach_m):
        out[row : row + len(part)] = part
        row += len(part)
    columns = made.columns()
    return replace(
        made.kept,
        descriptors=out,
        poses=columns["poses"],
        origin=columns["origin"],
        anchor=columns["anchor"],
        stamps=columns["stamps"],
    )
