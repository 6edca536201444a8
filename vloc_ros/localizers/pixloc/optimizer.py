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
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.covariance import LEAST_CURVATURE, pose_covariance, residual_variance, well_posed
from vloc_ros.localizers.pixloc.field import FeatureField
from vloc_ros.localizers.pixloc.residuals import Evaluation, evaluate
from vloc_ros.localizers.pixloc.robust import Robust, RobustKind
from vloc_ros.settings import ranged

__all__ = ["Level", "LevelResult", "OptimizerSettings", "Refinement", "Stop", "refine", "refine_level"]

# Nothing on Earth is this far from a map's origin, metres.
_FARTHEST = 1e8


class Stop(IntEnum):
    """Why the iterations of a pose ended; the last two are failures."""

    ITERATIONS = 0
    CONVERGED = 1
    FEW_POINTS = 2
    NOT_FINITE = 3


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser. All of it may change at run time; the damping range belongs to the trained network.

    :param iterations: at most, a level (paper: 15 in training).
    :param minimum_points: a pose that sees fewer valid points has failed.
    :param robust: robust cost; see :class:`vloc_ros.localizers.pixloc.robust.Robust`.
    :param robust_scale: norm of a feature residual from which on it counts less.
    :param robust_alpha: shape of ``barron``.
    :param damping: ``learned`` per level and pose parameter (eq. 7) or ``constant``.
    :param damping_log10: range of the learned damping's exponent.
    :param damping_constant: the factor of ``constant``.
    :param steps: ``all`` are taken (the published procedure), or ``decreasing``: one that raises the mean cost is
        undone and the damping grows tenfold; after one that does not it shrinks again.
    :param stop_m: a pose has converged once an update is below this and ``stop_deg``.
    :param stop_deg: the same for rotation, degrees.
    :param check_every: iterations between two looks at whether all poses have converged, on a GPU.
    :param max_cost_ratio: success requires that the last level's mean cost ended at most this times where it began.
    :param covariance: ``hessian`` (inverse Hessian times residual variance) or ``sandwich`` (also right where the
        channels of a point err together).
    """

    iterations: int = ranged(15, minimum=1, maximum=1000)
    minimum_points: int = ranged(10, minimum=3)
    robust: RobustKind = "barron"
    robust_scale: float = ranged(0.1, minimum=1e-6)
    robust_alpha: float = ranged(0.0, minimum=-1000.0, maximum=2.0)
    damping: Literal["learned", "constant"] = "learned"
    damping_log10: tuple[float, float] = (-6.0, 5.0)
    damping_constant: float = ranged(0.01, minimum=0.0)
    steps: Literal["all", "decreasing"] = "all"
    stop_m: float = ranged(5e-4, minimum=0.0)
    stop_deg: float = ranged(5e-3, minimum=0.0)
    check_every: int = ranged(5, minimum=1)
    max_cost_ratio: float = ranged(1.05, minimum=0.0)
    covariance: Literal["hessian", "sandwich"] = "hessian"

    def robust_cost(self) -> Robust:
        """The cost that these settings name."""
        return Robust(self.robust, self.robust_scale, self.robust_alpha)


@dataclass(frozen=True)
class Level:
    """One feature level of one image scale.

    :param field: the query's features.
    :param camera: the query's camera at the level (:meth:`TorchCamera.scaled`).
    :param reference: (B | 1, N, C) features of the points.
    :param confidence: (B | 1, N) of the points, or None: 1.
    :param damping: (6,) lambda, as a row of :meth:`LearnedDamping.forward`.
    :param robust: overrides the settings.
    """

    field: FeatureField
    camera: TorchCamera
    reference: Tensor
    confidence: Tensor | None
    damping: Tensor
    robust: Robust | None = None


@dataclass(frozen=True)
class LevelResult:
    """What a level did to B poses. Poses, Hessians and gradients are float64; costs are means over the valid points.

    Without ``report`` everything but the pose is that of the last evaluation, before the last step.

    :param T_cam_map: (B, 4, 4); where the level failed, the last pose that saw enough points.
    :param cost_initial: (B,) at the pose it began with.
    :param cost: (B,) at the pose it ended with.
    :param gradient: (B, 6) J^T W r there.
    :param hessian: (B, 6, 6) J^T W J there, undamped.
    :param scatter: (B, 6, 6) see :class:`Evaluation`.
    :param valid: (B, N) points that counted there.
    :param squared: (B, N) squared residual norms there.
    :param residual_variance: (B,) of one feature channel at weight one.
    :param iterations: (B,) steps taken.
    :param stopped: (B,) int64, a :class:`Stop`.
    """

    T_cam_map: Tensor
    cost_initial: Tensor
    cost: Tensor
    gradient: Tensor
    hessian: Tensor
    scatter: Tensor
    valid: Tensor
    squared: Tensor
    residual_variance: Tensor
    iterations: Tensor
    stopped: Tensor

    @property
    def failed(self) -> Tensor:
        """(B,) whether the pose lost its points or was not finite."""
        return self.stopped >= Stop.FEW_POINTS


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
        scatter=last.scatter.detach() if settings.covariance == "sandwich" else None,
        known=~last.failed if report else torch.zeros_like(last.failed),
    )
    return Refinement(T, success, posed, covariance, tuple(results))


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
        return _Loop(T_cam_map, points_map, level, mask, alive, settings).run(report)


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


def _exponential(delta: Tensor) -> Tensor:
    """:func:`vloc_ros.geometry.torch_ops.se3_exp` in a third of the operations, for float64 alone; (B, 6) -> (B, 4, 4).

    With X the 4 x 4 matrix of the tangent vector: I + X + (1 - cos t)/t^2 X^2 + (t - sin t)/t^3 X^3. What cancels in
    the last coefficient is multiplied by t^2, and the number added to t^2 keeps derivatives finite at zero.
    """
    u, v, w, x, y, z = delta.unbind(-1)
    o = torch.zeros_like(x)
    X = torch.stack([o, -z, y, u, z, o, -x, v, -y, x, o, w, o, o, o, o], dim=-1).view(-1, 4, 4)
    t2 = (delta[:, 3:] ** 2).sum(-1)[:, None, None] + 1e-14
    t = t2.sqrt()
    half = (0.5 * t).sin()
    X2 = X @ X
    eye = torch.eye(4, dtype=X.dtype, device=X.device)
    return eye + X + (2.0 * half**2 / t2) * X2 + (1.0 - t.sin() / t) / t2 * (X2 @ X)


class _Loop:
    """The iterations of one level. Between steps: the last accepted pose, and a candidate to be evaluated."""

    def __init__(
        self,
        T_cam_map: Tensor,
        points_map: Tensor,
        level: Level,
        mask: Tensor | None,
        alive: Tensor | None,
        settings: OptimizerSettings,
    ) -> None:
        self.level, self.settings = level, settings
        self.robust = level.robust or settings.robust_cost()
        dtype = torch.promote_types(level.reference.dtype, torch.float32)
        self.dtype = dtype
        self.jitter = 1e-12 if dtype == torch.float64 else 1e-7
        self.reference = level.reference.to(dtype)
        self.confidence = None if level.confidence is None else level.confidence.to(dtype)
        self.camera = level.camera.to(points_map.device, dtype)
        usable = (points_map.abs() < _FARTHEST).all(-1)
        self.mask = usable if mask is None else usable & mask
        # Relative to their mean, points fit float32 wherever the map's origin is.
        used = torch.where(self.mask[..., None], points_map.double(), points_map.new_zeros((), dtype=torch.float64))
        count = self.mask.sum(-1).clamp(min=1)[:, None, None]
        self.centre = used.sum(-2, keepdim=True) / count
        self.points = ((used - self.centre) * self.mask[..., None]).to(dtype)
        T = T_cam_map.double()
        start = T.isfinite().flatten(1).all(-1)
        if alive is not None:
            start = start & alive
        eye = torch.eye(4, dtype=torch.float64, device=T.device)
        T = torch.where(T.isfinite().flatten(1).all(-1)[:, None, None], T, eye)
        shift = torch.zeros_like(T)
        shift = torch.cat([shift[..., :3], torch.nn.functional.pad(self._shift(T), (0, 0, 0, 1))], dim=-1)
        self.T = self.candidate = T + shift
        self.shift = shift
        self.eye6 = torch.eye(6, dtype=torch.float64, device=T.device)
        self.damping = level.damping.double().expand(T.shape[0], 6)
        B, N = T.shape[0], points_map.shape[1]
        self.active = start
        self.stopped = torch.where(start, int(Stop.ITERATIONS), int(Stop.NOT_FINITE))
        self.iterations = torch.zeros(B, dtype=torch.long, device=T.device)
        zero = T.new_zeros(B)
        self.cost, self.cost_initial, self.variance = zero, zero, zero
        self.gradient, self.hessian, self.scatter = T.new_zeros(B, 6), T.new_zeros(B, 6, 6), T.new_zeros(B, 6, 6)
        self.valid = torch.zeros(B, N, dtype=torch.bool, device=T.device)
        self.squared = torch.zeros(B, N, dtype=dtype, device=T.device)
        self.factor = torch.ones_like(zero)
        self.first = True
        # Failed poses are reported as they came in.
        self.alive = start

    def _shift(self, T: Tensor) -> Tensor:
        return T[:, :3, :3] @ self.centre.transpose(-1, -2)

    def run(self, report: bool) -> LevelResult:
        wait = 1 if self.points.device.type == "cpu" else self.settings.check_every
        unrolled = torch.is_grad_enabled()
        for i in range(self.settings.iterations):
            self._accept(self._evaluate(scatter=False))
            self._propose()
            if not unrolled and (i + 1) % wait == 0 and not bool(self.active.any()):
                break
        if report:
            self._accept(self._evaluate(scatter=True), last=True)
        else:
            self.T = torch.where(self.failed[:, None, None], self.T, self.candidate)
        rotation = self.T[:, :3, :3]
        translation = self.T[:, :3, 3:] - self._shift(self.T)
        T = torch.cat([torch.cat([rotation, translation], -1), self.T[:, 3:]], dim=-2)
        return LevelResult(
            T,
            self.cost_initial,
            self.cost,
            self.gradient,
            self.hessian,
            self.scatter,
            self.valid,
            self.squared,
            self.variance,
            self.iterations,
            self.stopped,
        )

    @property
    def failed(self) -> Tensor:
        return self.stopped >= Stop.FEW_POINTS

    def _evaluate(self, scatter: bool) -> Evaluation:
        return evaluate(
            self.candidate.to(self.dtype),
            self.points,
            self.reference,
            self.confidence,
            self.mask,
            self.level.field,
            self.camera,
            self.robust,
            scatter=scatter,
        )

    def _accept(self, found: Evaluation, last: bool = False) -> None:
        """Take the candidates that are good enough as the poses; mark those that are not."""
        assert found.gradient is not None and found.hessian is not None
        count = found.valid.sum(-1)
        enough = count >= self.settings.minimum_points
        cost = (found.cost / count.clamp(min=1)).double()
        gradient, hessian = found.gradient.double(), found.hessian.double()
        finite = (cost + gradient.sum(-1) + hessian.sum((-2, -1))).isfinite()
        good = enough & finite
        asked = ~self.failed if last else self.active
        if self.first or self.settings.steps == "all":
            bad = asked & ~good
            taken = asked & good
            reason = torch.where(enough, int(Stop.NOT_FINITE), int(Stop.FEW_POINTS))
            self.stopped = torch.where(bad, reason, self.stopped)
            self.active = self.active & ~bad
        else:
            taken = asked & good & (cost <= self.cost)
            factor = torch.where(taken, self.factor * 0.1, self.factor * 10.0).clamp(1e-8, 1e12)
            self.factor = torch.where(asked, factor, self.factor)
        if self.first:
            self.cost_initial = torch.where(taken, cost, self.cost_initial)
        self.first = False
        one, two = taken[:, None], taken[:, None, None]
        self.T = torch.where(two, self.candidate, self.T)
        self.cost = torch.where(taken, cost, self.cost)
        self.gradient = torch.where(one, gradient, self.gradient)
        self.hessian = torch.where(two, hessian, self.hessian)
        self.valid = torch.where(one, found.valid, self.valid)
        self.squared = torch.where(one, found.squared, self.squared)
        if last:
            assert found.scatter is not None
            self.scatter = torch.where(two, found.scatter.double(), self.scatter)
            variance = residual_variance(found.squared, found.weights, found.valid, self.reference.shape[-1])
            self.variance = torch.where(taken, variance, self.variance)

    def _propose(self) -> None:
        """The damped step (eq. 4) of the poses that still move."""
        move = self.active[:, None]
        H = torch.where(move[..., None], self.hessian, self.eye6)
        g = torch.where(move, self.gradient, torch.zeros_like(self.gradient))
        # Scaled to a unit diagonal the system has no units, and damping by diag(H) becomes adding lambda. Parameters
        # without curvature (no texture) get the scale zero, and stay.
        d = H.diagonal(dim1=-2, dim2=-1)
        curved = d > LEAST_CURVATURE
        s = torch.where(curved, torch.where(curved, d, torch.ones_like(d)).rsqrt(), torch.zeros_like(d))
        damping = self.damping * self.factor[:, None] + self.jitter + ~curved
        A = s[:, :, None] * H * s[:, None, :] + torch.diag_embed(damping)
        L, info = torch.linalg.cholesky_ex(A)
        delta = -s * torch.cholesky_solve((s * g)[..., None], L)[..., 0]
        solved = (info == 0) & delta.isfinite().all(-1)
        if self.settings.steps == "all":
            self.stopped = torch.where(self.active & ~solved, int(Stop.NOT_FINITE), self.stopped)
            self.active = self.active & solved
        else:  # more damping will make it solvable
            self.factor = torch.where(solved, self.factor, self.factor * 10.0)
        step = torch.where((self.active & solved)[:, None], delta, torch.zeros_like(delta))
        two = self.active[:, None, None]
        self.candidate = torch.where(two, _exponential(step) @ self.T, self.candidate)
        self.iterations = self.iterations + self.active
        length = step.detach()
        small = (length[:, :3].norm(dim=-1) < self.settings.stop_m) & (
            length[:, 3:].norm(dim=-1) < self.settings.stop_deg * (torch.pi / 180.0)
        )
        converged = self.active & solved & small
        self.stopped = torch.where(converged, int(Stop.CONVERGED), self.stopped)
        if not torch.is_grad_enabled():
            self.active = self.active & ~converged
