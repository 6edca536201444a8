"""Levenberg-Marquardt on SE(3) over a batch of poses, level by level (eqs. 2-5).

The pose is the transform from the map into the camera, updated on the left: ``T <- exp(delta) T`` with
delta = (rho, phi), translation first. (Eq. 5 prints ``exp(delta^)^T``, which is no element of SE(3).)

Poses and linear systems are float64 whatever the precision of the features, and points are taken relative to their
centre, so that float32 features lose nothing far from the map's origin. Nothing in the levels waits for the device,
and one transfer brings back what is reported; whatever happens to one pose of a batch leaves the others alone.
Everything is differentiable: training unrolls the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.covariance import pose_covariance, well_posed
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.levels import Level, LevelResult, OptimizerSettings, Stop
from vloc_ros.localizers.pixloc.loop import CentredPoints, LevelLoop
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.transfer import read_back

__all__ = ["Level", "LevelResult", "OptimizerSettings", "Refinement", "Stop", "refine", "refine_level"]


@dataclass(frozen=True)
class Refinement:
    """Poses after all levels; all but ``levels`` on the host.

    :param T_cam_map: (B, 4, 4) float64; where a level failed, the last pose that saw enough points.
    :param before: (B, 4, 4) the same before the last level.
    :param success: (B,) no level failed, the geometry determines all six parameters, and the cost did not grow.
    :param well_posed: (B,) the last level's Hessian determines all six parameters.
    :param covariance: (B, 6, 6) float64 of T_map_cam in map axes, before any calibration; large where it knows little.
    :param cost: (B,) mean cost of the last level.
    :param agreement: (B,) sum over its valid points of how well their features agree, each in [0, 1].
    :param valid: (B,) how many these are.
    :param iterations: (B,) of all levels together.
    :param also: (B,) what the caller wanted to know besides; zeros where nothing.
    :param levels: coarse to fine.
    """

    T_cam_map: Tensor
    before: Tensor
    success: Tensor
    well_posed: Tensor
    covariance: Tensor
    cost: Tensor
    agreement: Tensor
    valid: Tensor
    iterations: Tensor
    also: Tensor
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
    recorder: Recorder | None = None,
    also: Callable[[Tensor], Tensor] | None = None,
) -> Refinement:
    """Refine B poses over the levels in turn.

    :param T_cam_map: (B, 4, 4) first poses, map to camera. A pose that is not finite fails, the others go on.
    :param points_map: (B | 1, N, 3) m; points that are not finite, or farther than 1e8 m, are left out.
    :param levels: coarse to fine, of one image scale or of several (the smallest first).
    :param mask: (B | 1, N) points to use, or None: all.
    :param detach: each level starts from the pose before it without its gradient, as the published training does.
    :param report: evaluate once more after each level. Without it (training, which only wants poses) success rests on
        the evaluation before the last step, and the covariance is the widest.
    :param recorder: records each level where the device does that.
    :param also: (B,) numbers of the poses (B, 4, 4) after the last level, which come to the host with all others.
    :raises ConfigError: no level, or shapes that do not belong together.
    """
    if not levels:
        raise ConfigError("pixloc: expected at least one level to refine with, found none")
    settings = settings or OptimizerSettings()
    results: list[LevelResult] = []
    T, alive, points = T_cam_map, None, None
    records = recorder is not None and recorder.records and not torch.is_grad_enabled()
    for level in levels:
        _check_shapes(T_cam_map, points_map, level, mask)
        start = T.detach() if detach else T
        if records and recorder is not None and isinstance(level.field, GridField):
            result = _recorded(recorder, start, points_map, level, mask, alive, settings)
        else:
            dtype = _dtype(level)
            if points is None or points.points.dtype != dtype:
                points = CentredPoints(points_map, mask, dtype)
            with torch.autocast(device_type=points_map.device.type, enabled=False):
                result = LevelLoop(start, points, level, alive, settings).run(report)
        results.append(result)
        T, alive = result.T_cam_map, ~result.failed
    last = results[-1]
    # Unit vectors agree by 1 - |difference|^2 / 2; points that are not seen agree not at all.
    agreement = torch.where(last.valid, (1.0 - 0.5 * last.squared).clamp(0.0, 1.0), torch.zeros_like(last.squared))
    before = results[-2].T_cam_map if len(results) > 1 else last.T_cam_map
    iterations = torch.stack([level.iterations for level in results]).sum(0)
    wanted = torch.zeros_like(last.cost) if also is None else also(last.T_cam_map)
    numbers: tuple[Tensor, ...] = (
        before, last.hessian, last.scatter, last.residual_variance, last.cost, last.cost_initial, last.failed,
        agreement.double().sum(-1), last.valid.sum(-1), iterations, wanted,
    )  # fmt: skip
    # On the host the pose keeps its gradient.
    host_T, *there = (T, *(n.detach() for n in numbers)) if T.device.type == "cpu" else read_back(T, *numbers)
    host_before, hessian, scatter, variance, cost, cost_initial, failed, agreed, valid, steps, known = there
    posed = well_posed(hessian)
    success = ~failed & posed & (cost <= settings.max_cost_ratio * cost_initial + 1e-12)
    covariance = pose_covariance(
        host_T.detach(),
        hessian,
        variance,
        scatter=_unbiased(scatter, valid) if settings.covariance == "sandwich" else None,
        known=~failed if report else torch.zeros_like(failed),
    )
    return Refinement(
        host_T, host_before, success, posed, covariance, cost, agreed, valid, steps, known, tuple(results)
    )


def _dtype(level: Level) -> torch.dtype:
    return torch.promote_types(level.reference.dtype, torch.float32)


_RESULTS = tuple(field.name for field in fields(LevelResult))


def _recorded(
    recorder: Recorder,
    T: Tensor,
    points_map: Tensor,
    level: Level,
    mask: Tensor | None,
    alive: Tensor | None,
    settings: OptimizerSettings,
) -> LevelResult:
    """A level as work of a recorder: everything that may change from frame to frame is an argument."""
    field, camera = level.field, level.camera
    assert isinstance(field, GridField)
    confidence = torch.ones_like(level.reference[..., 0]) if level.confidence is None else level.confidence
    mask = torch.ones(points_map.shape[:2], dtype=torch.bool, device=T.device) if mask is None else mask
    alive = torch.ones(len(T), dtype=torch.bool, device=T.device) if alive is None else alive
    lens = (camera.size, camera.focal, camera.centre, camera.coefficients, camera.radius2)

    def work(*given: Tensor) -> tuple[Tensor, ...]:
        T, points_map, mask, alive, rows, reference, confidence, damping = given[:8]
        size, focal, centre, coefficients, radius2 = given[8:]
        again = TorchCamera(camera.model, size, focal, centre, coefficients, radius2, camera.tilted)
        at = Level(field.with_rows(rows), again, reference, confidence, damping, level.robust)
        points = CentredPoints(points_map, mask, _dtype(at))
        result = LevelLoop(T, points, at, alive, settings).run(True)
        return tuple(getattr(result, name) for name in _RESULTS)

    key = (settings, field.shape, camera.model, camera.tilted, level.robust)
    arguments = (T, points_map, mask, alive, field.rows, level.reference, confidence, level.damping, *lens)
    return LevelResult(*recorder.run(key, work, arguments))


def _unbiased(scatter: Tensor, valid: Tensor) -> Tensor:
    """The scatter of few points, fitted by six parameters, is that much too small."""
    count = valid.double()
    return scatter * (count / (count - 6.0).clamp(min=1.0))[:, None, None]


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
        return LevelLoop(T_cam_map, CentredPoints(points_map, mask, _dtype(level)), level, alive, settings).run(report)


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
