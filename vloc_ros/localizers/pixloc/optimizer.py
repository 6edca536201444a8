"""Levenberg-Marquardt on SE(3) over a batch of poses, level by level (eqs. 2-5).

The pose is the transform from the map into the camera, updated on the left: ``T <- exp(delta) T`` with
delta = (rho, phi), translation first. (Eq. 5 prints ``exp(delta^)^T``, which is no element of SE(3).)

Poses and linear systems are float64 whatever the precision of the features, and points are taken relative to their
centre, so that float32 features lose nothing far from the map's origin. Nothing in the levels waits for the device,
and one transfer brings back what is reported; whatever happens to one pose of a batch leaves the others alone.
Everything is differentiable: training unrolls the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.covariance import pose_covariance, well_posed
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.joint import CentredPoints
from vloc_ros.localizers.pixloc.levels import Level, LevelResult, OptimizerSettings, Sight, Stop
from vloc_ros.localizers.pixloc.loop import LevelLoop
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.transfer import read_back

__all__ = [
    "Level",
    "LevelResult",
    "OptimizerSettings",
    "Refinement",
    "Sight",
    "Stop",
    "refine",
    "refine_level",
    "refine_rig",
]


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
    :param also: (B, ...) what the caller wanted to know besides; zeros where nothing.
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
) -> Refinement:
    """:func:`refine_rig` of one camera, or of a batch of single ones; see :class:`Sight`."""
    sight = Sight(points_map, tuple(levels), mask)
    return refine_rig(T_cam_map, [sight], settings=settings, detach=detach, report=report)


def refine_rig(
    T_rig_map: Tensor,
    sights: Sequence[Sight],
    *,
    settings: OptimizerSettings | None = None,
    detach: bool = True,
    report: bool = True,
    recorder: Recorder | None = None,
    also: Callable[[Tensor], Tensor] | None = None,
) -> Refinement:
    """Refine B poses over the levels in turn, each level with what all cameras see.

    :param T_rig_map: (B, 4, 4) first poses, map to rig (map to camera where the rig is a camera by itself). A pose that
        is not finite fails, the others go on.
    :param sights: of cameras of one kind each, with equally many levels; damping is that of the first, along the axes
        of the rig.
    :param detach: each level starts from the pose before it without its gradient, as the published training does.
    :param report: evaluate once more after the last level. Without it (training, which only wants poses) success rests
        on the evaluation before the last step, and the covariance is the widest.
    :param recorder: records each level where the device does that.
    :param also: (B, ...) numbers of the poses (B, 4, 4) after the last level, which come to the host with all others.
    :raises ConfigError: no level, or shapes that do not belong together.
    """
    if not sights or not sights[0].levels or len({len(sight.levels) for sight in sights}) > 1:
        found = ", ".join(str(len(sight.levels)) for sight in sights) or "none"
        raise ConfigError(f"pixloc: expected at least one level to refine with, the same in every sight, found {found}")
    settings = settings or OptimizerSettings()
    results: list[LevelResult] = []
    T, alive, points = T_rig_map, None, None
    records = recorder is not None and recorder.records and not torch.is_grad_enabled()
    records = records and all(isinstance(level.field, GridField) for sight in sights for level in sight.levels)
    for number in range(len(sights[0].levels)):
        for sight in sights:
            _check_shapes(T_rig_map, sight, sight.levels[number])
        start = T.detach() if detach else T
        # What a level ends with, the next one evaluates first.
        told = report and number == len(sights[0].levels) - 1
        if records and recorder is not None:
            result = _recorded(recorder, start, sights, number, alive, settings, told)
        else:
            dtype = _dtype(sights[0].levels[number])
            if points is None or points.dtype != dtype:
                points = CentredPoints(sights, dtype)
            with torch.autocast(device_type=T.device.type, enabled=False):
                result = LevelLoop(start, sights, points, number, alive, settings).run(told)
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
    sights: Sequence[Sight],
    number: int,
    alive: Tensor | None,
    settings: OptimizerSettings,
    report: bool,
) -> LevelResult:
    """A level as work of a recorder: everything that may change from frame to frame is an argument."""
    alive = torch.ones(len(T), dtype=torch.bool, device=T.device) if alive is None else alive
    arguments, key = [T, alive, sights[0].levels[number].damping], list[Hashable]([settings, report])
    for sight in sights:
        changing, fixed = _taken_apart(sight, sight.levels[number])
        arguments += changing
        key.append(fixed)

    def work(T: Tensor, alive: Tensor, damping: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        again, rest = [], list(given)
        for sight in sights:
            again.append(_put_together(sight, sight.levels[number], damping, rest))
        points = CentredPoints(again, _dtype(again[0].levels[0]))
        result = LevelLoop(T, again, points, 0, alive, settings).run(report)
        return tuple(getattr(result, name) for name in _RESULTS)

    return LevelResult(*recorder.run(tuple(key), work, arguments))


def _taken_apart(sight: Sight, level: Level) -> tuple[list[Tensor], Hashable]:
    """The tensors of a sight's level, and what else it is."""
    field, camera, points = level.field, level.camera, sight.points_map
    assert isinstance(field, GridField)
    confidence = torch.ones_like(level.reference[..., 0]) if level.confidence is None else level.confidence
    mask = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if sight.mask is None else sight.mask
    rig = [] if sight.T_cam_rig is None else [sight.T_cam_rig]
    lens = [camera.size, camera.focal, camera.centre, camera.coefficients, camera.radius2]
    fixed = (field.shape, camera.model, camera.tilted, level.robust, level.slack, len(rig))
    return [points, mask, field.rows, level.reference, confidence, *lens, *rig], fixed


def _put_together(sight: Sight, level: Level, damping: Tensor, given: list[Tensor]) -> Sight:
    """The first of some tensors as a sight of one level; they are taken from the list."""
    points, mask, rows, reference, confidence, size, focal, centre, coefficients, radius2 = given[:10]
    del given[:10]
    rig = None if sight.T_cam_rig is None else given.pop(0)
    camera = TorchCamera(level.camera.model, size, focal, centre, coefficients, radius2, level.camera.tilted)
    assert isinstance(level.field, GridField)
    again = Level(level.field.with_rows(rows), camera, reference, confidence, damping, level.robust, level.slack)
    return Sight(points, (again,), mask, rig)


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
    sight = Sight(points_map, (level,), mask)
    _check_shapes(T_cam_map, sight, level)
    points = CentredPoints([sight], _dtype(level))
    with torch.autocast(device_type=points_map.device.type, enabled=False):
        return LevelLoop(T_cam_map, [sight], points, 0, alive, settings).run(report)


def _check_shapes(T: Tensor, sight: Sight, level: Level) -> None:
    points, rig = sight.points_map, sight.T_cam_rig
    B, N = T.shape[0], points.shape[1] if points.ndim == 3 else -1
    leading, told = ((1, B), f"{B} (or 1) poses") if rig is None else ((len(rig),), f"{len(rig)} cameras")
    wanted = {"points_map": (points, 3, (3,)), "reference": (level.reference, 3, None)}
    if level.confidence is not None:
        wanted["confidence"] = (level.confidence, 2, None)
    if sight.mask is not None:
        wanted["mask"] = (sight.mask, 2, None)
    for name, (tensor, ndim, tail) in wanted.items():
        wrong = tensor.ndim != ndim or tensor.shape[0] not in leading or tensor.shape[1] != N
        if wrong or (tail is not None and tensor.shape[2:] != tail):
            raise ConfigError(f"pixloc: expected {name} of {told} and {N} points, found shape {tuple(tensor.shape)}")
    if T.shape[1:] != (4, 4) or level.damping.shape != (6,) or (rig is not None and rig.shape[1:] != (4, 4)):
        raise ConfigError(
            f"pixloc: expected poses (B, 4, 4) and damping (6,), found {tuple(T.shape)} and "
            f"{tuple(level.damping.shape)}" + ("" if rig is None else f"; cameras on the rig {tuple(rig.shape)}")
        )
