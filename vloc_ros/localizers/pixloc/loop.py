"""The iterations of one level: evaluate, accept, solve the damped system, propose (eqs. 3-5)."""

from __future__ import annotations

import torch
from torch import Tensor

from vloc_ros.localizers.pixloc.covariance import LEAST_CURVATURE, residual_variance
from vloc_ros.localizers.pixloc.levels import Level, LevelResult, OptimizerSettings, Stop
from vloc_ros.localizers.pixloc.residuals import Evaluation, evaluate

__all__ = ["LevelLoop", "exponential"]

# Nothing on Earth is this far from a map's origin, metres.
_FARTHEST = 1e8


def exponential(delta: Tensor) -> Tensor:
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


class LevelLoop:
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
        self.candidate = torch.where(two, exponential(step) @ self.T, self.candidate)
        self.iterations = self.iterations + self.active
        length = step.detach()
        small = (length[:, :3].norm(dim=-1) < self.settings.stop_m) & (
            length[:, 3:].norm(dim=-1) < self.settings.stop_deg * (torch.pi / 180.0)
        )
        converged = self.active & solved & small
        self.stopped = torch.where(converged, int(Stop.CONVERGED), self.stopped)
        if not torch.is_grad_enabled():
            self.active = self.active & ~converged
