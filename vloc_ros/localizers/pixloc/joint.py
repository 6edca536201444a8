"""The cost of what all cameras of a rig see as a function of the rig's one pose (a generalised camera).

A camera's residuals know the rig's pose through the camera's alone, ``T_cam_map = T_cam_rig T_rig_map``. An update on
the left of the rig's pose is one on the left of the camera's, ``T_cam_rig exp(delta) = exp(Ad delta) T_cam_rig`` with
Ad the adjoint of T_cam_rig. So each camera's normal equations, made as for a camera by itself, are carried over
exactly: Ad^T H Ad and Ad^T g, and their sum over the cameras is the rig's. A camera by itself is a rig of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.geometry.torch_ops import adjoint
from vloc_ros.localizers.pixloc.field import FeatureField, GridField
from vloc_ros.localizers.pixloc.levels import Level, Sight
from vloc_ros.localizers.pixloc.residuals import Evaluation, Problem, joined
from vloc_ros.localizers.pixloc.robust import Robust

__all__ = ["CentredPoints", "JointProblem", "for_poses", "level_for_poses"]

# Nothing on Earth is this far from a map's origin, metres.
_FARTHEST = 1e8


def for_poses(x: Tensor, poses: int) -> Tensor:
    """What the cameras (K, ...) of a rig have, for each of some poses in turn: (poses K, ...)."""
    return x if poses == 1 else x.repeat(poses, *[1] * (x.ndim - 1))


def _field_for_poses(field: FeatureField, cameras: int, poses: int, device: torch.device) -> FeatureField:
    if poses == 1 or cameras == 1:
        return field
    if not isinstance(field, GridField):
        found = type(field).__name__
        raise ConfigError(f"pixloc: expected a grid of features for {poses} poses of a rig, found {found}")
    return field.of(torch.arange(cameras, device=device).repeat(poses))


def _camera_for_poses(camera: TorchCamera, poses: int) -> TorchCamera:
    if poses == 1 or camera.focal.ndim == 1:
        return camera
    names = ("size", "focal", "centre", "coefficients", "radius2")
    tensors = {name: for_poses(getattr(camera, name), poses) for name in names}
    return TorchCamera(camera.model, tilted=camera.tilted, **tensors)


def level_for_poses(sight: Sight, level: Level, poses: int) -> Level:
    """A level of a rig's cameras for a batch of some poses: all cameras at the first pose, then at the next."""
    if sight.T_cam_rig is None or poses == 1:
        return level
    cameras, confidence = len(sight.T_cam_rig), level.confidence
    return replace(
        level,
        field=_field_for_poses(level.field, cameras, poses, level.reference.device),
        camera=_camera_for_poses(level.camera, poses),
        reference=for_poses(level.reference, poses),
        confidence=None if confidence is None else for_poses(confidence, poses),
    )


class CentredPoints:
    """The points of all sights relative to one mean, which fit float32 wherever the map's origin is; the same for every
    level.

    :param dtype: of the features that they are compared with; at least float32.
    """

    def __init__(self, sights: Sequence[Sight], dtype: torch.dtype) -> None:
        self.masks, used = [], []
        for sight in sights:
            usable = (sight.points_map.abs() < _FARTHEST).all(-1)
            mask = usable if sight.mask is None else usable & sight.mask
            self.masks.append(mask)
            used.append(torch.where(mask[..., None], sight.points_map.double(), 0.0))
        if len(sights) == 1 and sights[0].T_cam_rig is None:
            together, mask = used[0], self.masks[0]
        else:
            together = torch.cat([points.reshape(1, -1, 3) for points in used], dim=1)
            mask = torch.cat([each.reshape(1, -1) for each in self.masks], dim=1)
        #: (B | 1, 1, 3) m.
        self.centre = together.sum(-2, keepdim=True) / mask.sum(-1).clamp(min=1)[:, None, None]
        self.points = [
            ((points - self.centre) * mask[..., None]).to(dtype) for points, mask in zip(used, self.masks, strict=True)
        ]
        self.dtype = dtype


class JointProblem:
    """The cost of one level of all sights.

    :param points: of the same sights. :param number: of the level. :param poses: B, how many poses are evaluated.
    """

    def __init__(self, sights: Sequence[Sight], points: CentredPoints, number: int, poses: int, robust: Robust) -> None:
        self._dtype = points.dtype
        self._parts: list[tuple[Problem, Tensor | None, Tensor | None]] = []
        #: Points of all cameras, a pose.
        self.count = 0
        for sight, centred, mask in zip(sights, points.points, points.masks, strict=True):
            level, rig = level_for_poses(sight, sight.levels[number], poses), sight.T_cam_rig
            if rig is not None:
                centred, mask = for_poses(centred, poses), for_poses(mask, poses)
            problem = Problem(
                centred,
                level.reference.to(self._dtype),
                None if level.confidence is None else level.confidence.to(self._dtype),
                mask,
                level.field,
                level.camera.to(centred.device, self._dtype),
                level.robust or robust,
            )
            self._parts.append((problem, rig, None if rig is None else _with_gradient(adjoint(rig.double()))))
            self.count += centred.shape[1] * (1 if rig is None else len(rig))

    def evaluate(self, T_rig_map: Tensor, scatter: bool = False) -> Evaluation:
        """See :class:`Evaluation`. :param T_rig_map: (B, 4, 4) float64, of points relative to their centre."""
        out = []
        for problem, rig, carried in self._parts:
            if rig is None or carried is None:
                out.append(problem.evaluate(T_rig_map.to(self._dtype), scatter=scatter))
                continue
            T = (rig.double() @ T_rig_map[:, None]).flatten(0, 1)
            found = problem.evaluate(T.to(self._dtype), scatter=scatter)
            out.append(_of_rig(found, len(T_rig_map), carried))
        return joined(out)


def _with_gradient(adjoints: Tensor) -> Tensor:
    """(K, 7, 7): what carries the columns of Hessian and gradient side by side."""
    out = torch.nn.functional.pad(adjoints, (0, 1, 0, 1))
    out[:, 6, 6] = 1.0
    return out


def _of_rig(found: Evaluation, poses: int, carried: Tensor) -> Evaluation:
    """Of each camera at each pose (B K), that of the rig (B)."""

    def rows(x: Tensor) -> Tensor:
        return x.reshape(poses, -1)

    def each(x: Tensor) -> Tensor:
        return x.double().view(poses, -1, *x.shape[1:])

    assert found.normal is not None
    left = carried[:, :6, :6].mT
    scatter = found.scatter
    if scatter is not None:
        scatter = (left @ each(scatter) @ left.mT).sum(1)
    return Evaluation(
        rows(found.cost).sum(-1),
        rows(found.valid),
        rows(found.squared),
        rows(found.weights),
        (left @ each(found.normal) @ carried).sum(1),
        scatter,
    )
