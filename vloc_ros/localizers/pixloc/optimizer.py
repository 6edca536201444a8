"""Levenberg-Marquardt on SE(3) over a batch of poses, level by level (eqs. 2-5).

The pose is the transform from the map into the camera, updated on the left: ``T <- exp(delta) T`` with
delta = (rho, phi), translation first. (Eq. 5 prints ``exp(delta^)^T``, which is no element of SE(3).)

Poses and linear systems are float64 whatever the precision of the features, and points are taken relative to their
centre, so that float32 features lose nothing far from the map's origin. Nothing in the loop waits for the device except
one question every :attr:`OptimizerSettings.check_every` iterations; whatever happens to one pose of a batch
leaves the others alone. Everything is differentiable: training unrolls the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.covariance import pose_covariance, well_posed
from vloc_ros.localizers.pixloc.levels import Level, LevelResult, OptimizerSettings, Stop
from vloc_ros.localizers.pixloc.loop import LevelLoop

__all__ = ["Level", "LevelResult", "OptimizerSettings", "Refinement", "Stop", "refine", "refine_level"]


@dataclass(frozen=True)
class Refinement:
    """Poses after all levels.

    :param T_cam_map: (B, 4, 4) float64; where a level failed, the last pose that saw enough points.
    :param success: (B,) no level failed, the geometry determines all six parameters, and the cost did not grow.
    :param well_posed: (B,) the last level's Hessian determines all six parameters.
    :param covariance: (B, 6, 6) float64 of T_map_cam in map axes, before any calibration; large where it knows little.
    :param levels: coarse to fine.
    """

    T_cam_map: Tensor
    success: Tensor
    well_posed: Tensor
    covariance: Tensor
    levels: tuple[LevelResult, ...]


def refine(
    T_cam_map: Tensor,
    points_map: Tensor,
    levels: Sequence[Level],
    *,
    mask: Tensor | None = None,
    settings: OptimizerSettings | None = None,
    detach: bool = True,
    report: bool = True,
) -> Refinement:
    """Refine B poses over the levels in turn.

    :param T_cam_map: (B, 4, 4) first poses, map to camera. A pose that is not finite fails, the others go on.
    :param points_map: (B | 1, N, 3) m; points that are not finite, or farther than 1e8 m, are left out.
    :param levels: coarse to fine, of one image scale or of several (the smallest first).
    :param mask: (B | 1, N) points to use, or None: all.
    :param detach: each level starts from the pose before it without its gradient, as the published training does.
    :param report: evaluate once more after each level. Without it (training, which only wants poses) success rests on
        the evaluation before the last step, and the covariance is the widest.
    :raises ConfigError: no level, or shapes that do not belong together.
    """
    if not levels:
        raise ConfigError("pixloc: expected at least one level to refine with, found none")
    settings = settings or OptimizerSettings()
    results: list[LevelResult] = []
    T, alive = T_cam_map, None
    for level in levels:
        result = refine_level(
            T.detach() if detach else T, points_map, level, mask=mask, alive=alive, settings=settings, report=report
        )
        results.append(result)
        T, alive = result.T_cam_map, ~result.failed
    last = results[-1]
    posed = well_posed(last.hessian)
    success = ~last.failed & posed & (last.cost <= settings.max_cost_ratio * last.cost_initial + 1e-12)
    covariance = pose_covariance(
        last.T_cam_map.detach(),
        last.hessian.detach(),
        last.residual_variance.detach(),
        scatter=_unbiased(last) if settings.covariance == "sandwich" else None,
        known=~last.failed if report else torch.zeros_like(last.failed),
    )
    return Refinement(T, success, posed, covariance, tuple(results))


def _unbiased(level: LevelResult) -> Tensor:
    """The scatter of few points, fitted by six parameters, is that much too small."""
    count = level.valid.sum(-1).double()
    return level.scatter.detach() * (count / (count - 6.0).clamp(min=1.0))[:, None, None]


def refine_level(
    T_cam_map: Tensor,
    points_map: Tensor,
    level: Level,
    *,
    mask: Tensor | None = None,
    alive: Tensor | None = None,
    settings: OptimizerSettings | None = None,
    report: bool = True,
) -> LevelResult:
    """Refine B poses on one level; the arguments are those of :func:`refine`.

    :param alive: (B,) poses that no level before has failed, or None: all.
    :raises ConfigError: shapes that do not belong together.
    """
    settings = settings or OptimizerSettings()
    _check_shapes(T_cam_map, points_map, level, mask)
    with torch.autocast(device_type=points_map.device.type, enabled=False):
        return LevelLoop(T_cam_map, points_map, level, mask, alive, settings).run(report)


def _check_shapes(T: Tensor, points: Tensor, level: Level, mask: Tensor | None) -> None:
    B, N = T.shape[0], points.shape[1] if points.ndim == 3 else -1
    wanted = {"points_map": (points, 3, (3,)), "reference": (level.reference, 3, None)}
    if level.confidence is not None:
        wanted["confidence"] = (level.confidence, 2, None)
    if mask is not None:
        wanted["mask"] = (mask, 2, None)
    for name, (tensor, ndim, tail) in wanted.items():
        wrong = tensor.ndim != ndim or tensor.shape[0] not in (1, B) or tensor.shape[1] != N
        if wrong or (tail is not None and tensor.shape[2:] != tail):
            raise ConfigError(
                f"pixloc: expected {name} of {B} (or 1) poses and {N} points, found shape {tuple(tensor.shape)}"
            )
    if T.shape[1:] != (4, 4) or level.damping.shape != (6,):
        raise ConfigError(
            f"pixloc: expected poses (B, 4, 4) and damping (6,), found {tuple(T.shape)} and "
            f"{tuple(level.damping.shape)}"
        )
