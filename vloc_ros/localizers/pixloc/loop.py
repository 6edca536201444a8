"""The iterations of one level: evaluate, accept, solve the damped system, propose (eqs. 3-5).

Between its steps a level holds the last accepted pose and a candidate to be evaluated. Inside a level nothing is
decided by the host: every iteration is the same operations on tensors of the same shape, so that a GPU may record a
level once (:mod:`vloc_ros.localizers.recorder`). On the CPU, where looking costs nothing, it ends when nothing moves
any more; and what belongs to a pose, not to its points, are numpy's arrays there: of so few numbers an operation of
numpy takes a third of the time. Both are written once: arrays and tensors have the same methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.linalg.lapack import dposv
from torch import Tensor

from vloc_ros.localizers.pixloc.covariance import LEAST_CURVATURE, residual_variance
from vloc_ros.localizers.pixloc.joint import CentredPoints, JointProblem
from vloc_ros.localizers.pixloc.levels import LevelResult, OptimizerSettings, Sight, Stop
from vloc_ros.localizers.pixloc.residuals import Evaluation

__all__ = ["LevelLoop", "exponential"]

# No step is this long (metres, radians); the numbers of a longer one would overflow on the way to the pixels.
_LONGEST = 1e12


@lru_cache(maxsize=1)
def _constants_of_numpy() -> dict[str, Any]:
    generators = np.zeros((6, 4, 4))
    for i, (row, column) in enumerate(((2, 1), (0, 2), (1, 0))):
        generators[i, i, 3] = 1.0
        generators[3 + i, row, column], generators[3 + i, column, row] = 1.0, -1.0
    stops = {f"{stop.name}": np.int64(stop) for stop in Stop}
    return {
        "generators": generators.reshape(6, 16), "eye4": np.eye(4), "eye6": np.eye(6), "aside": 1.0 - np.eye(6),
        "zero": np.zeros(()), "least": np.array(LEAST_CURVATURE), "few": np.array(1.0), **stops,
    }  # fmt: skip


@lru_cache(maxsize=8)
def _constants(device: torch.device | None) -> dict[str, Any]:
    """Numbers that every level needs, on a device, or as arrays; the ``generators`` (6, 16) make 4 x 4 matrices, row by
    row, of tangent vectors, translation first."""
    if device is None:
        return _constants_of_numpy()
    with torch.inference_mode(False):
        return {name: torch.as_tensor(value).to(device) for name, value in _constants_of_numpy().items()}


def exponential(delta: Any) -> Any:
    """:func:`vloc_ros.geometry.torch_ops.se3_exp` in a third of the operations, for float64 alone; (B, 6) -> (B, 4, 4).

    With X the 4 x 4 matrix of the tangent vector: I + X + (1 - cos t)/t^2 X^2 + (t - sin t)/t^3 X^3. What cancels in
    the last coefficient is multiplied by t^2, and the number added to t^2 keeps derivatives finite at zero.
    """
    tensor = isinstance(delta, Tensor)
    constants = _constants(delta.device if tensor else None)
    sin = torch.sin if tensor else np.sin
    X = (delta @ constants["generators"]).reshape(-1, 4, 4)
    phi = delta[:, 3:]
    t2 = (phi * phi).sum(-1)[:, None, None] + 1e-14
    t = t2**0.5
    half = sin(0.5 * t)
    X2 = X @ X
    return constants["eye4"] + X + (2.0 * half * half / t2) * X2 + (1.0 - sin(t) / t) / t2 * (X2 @ X)


def _solve(A: Any, b: Any) -> Any:
    """x of A x = b, (B, 6, 6) and (B, 6); not finite where there is none. Nothing waits for the device."""
    if isinstance(A, Tensor):
        found, info = torch.linalg.solve_ex(A, b[..., None])
        return torch.where((info == 0)[:, None], found[..., 0], torch.inf)
    solved = [dposv(matrix, vector) for matrix, vector in zip(A, b, strict=True)]
    return np.array([x if info == 0 else np.full(6, np.inf) for _, x, info in solved])


class LevelLoop:
    """The iterations of one level of what one camera, or the cameras of a rig, see.

    :param points: of the same sights. :param number: of the level.
    """

    def __init__(
        self,
        T_cam_map: Tensor,
        sights: Sequence[Sight],
        points: CentredPoints,
        number: int,
        alive: Tensor | None,
        settings: OptimizerSettings,
    ) -> None:
        self.settings, dtype = settings, points.dtype
        self.device, self.centre = T_cam_map.device, points.centre
        level = sights[0].levels[number]
        self.channels, self.slack = level.reference.shape[-1], level.slack
        self.problem = JointProblem(sights, points, number, len(T_cam_map), settings.robust_cost())
        self.unrolled = torch.is_grad_enabled()
        self.on_host = self.device.type == "cpu" and not self.unrolled
        self.constants = _constants(None if self.on_host else self.device)
        self.where: Any = np.where if self.on_host else torch.where
        self.maximum: Any = np.maximum if self.on_host else torch.maximum
        T = T_cam_map.double()
        finite = T.isfinite().flatten(1).all(-1)
        start = finite if alive is None else finite & alive
        T = torch.where(finite[:, None, None], T, _constants(self.device)["eye4"])
        B, N = T.shape[0], self.problem.count
        self.valid = torch.zeros(B, N, dtype=torch.bool, device=self.device)
        self.squared = torch.zeros(B, N, dtype=dtype, device=self.device)
        # What belongs to a pose: arrays on the host, else tensors.
        self.T = self.candidate = self._small(self._moved(T, self.centre))
        self.damping = self._small(level.damping.double())[None]
        # The diagonal of the scaled system is one, and what is added to it; a little of it against rounding.
        self.one = 1.0 + (1e-12 if dtype == torch.float64 else 1e-7)
        self.active = self._small(start)
        self.stopped = self.where(self.active, self.constants["ITERATIONS"], self.constants["NOT_FINITE"])
        self.iterations = self._small(torch.zeros(B, dtype=torch.long, device=self.device))
        numbers = self._small(T.new_zeros(B, 49))
        self.cost, self.cost_initial, self.variance = numbers[:, 0], numbers[:, 0], numbers[:, 0]
        self.normal, self.scatter = numbers[:, :42].reshape(B, 6, 7), numbers[:, :36].reshape(B, 6, 6)
        self.factor = self.cost + 1.0
        self.first = True

    def _small(self, tensor: Tensor) -> Any:
        return tensor.numpy() if self.on_host else tensor

    def _large(self, small: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(small)) if self.on_host else small

    @staticmethod
    def _moved(T: Tensor, by: Tensor) -> Tensor:
        """The transform of points that are given relative to ``by`` (B | 1, 1, 3)."""
        translation = T[:, :3, 3:] + T[:, :3, :3] @ by.mT
        return torch.cat([torch.cat([T[:, :3, :3], translation], -1), T[:, 3:]], dim=-2)

    def run(self, report: bool) -> LevelResult:
        for _ in range(self.settings.iterations):
            self._accept(self._evaluate(scatter=False))
            self._propose()
            if self.on_host and not self.active.any():
                break
        if report:
            self._accept(self._evaluate(scatter=self.settings.covariance == "sandwich"), last=True)
        else:
            self.T = self.where(self.failed[:, None, None], self.T, self.candidate)
        large = self._large
        return LevelResult(
            self._moved(large(self.T), -self.centre),
            large(self.cost_initial),
            large(self.cost),
            large(self.normal[..., 6]),
            large(self.normal[..., :6]),
            large(self.scatter),
            self.valid,
            self.squared,
            large(self.variance),
            large(self.iterations),
            large(self.stopped),
        )

    @property
    def failed(self) -> Any:
        return self.stopped >= int(Stop.FEW_POINTS)

    def _evaluate(self, scatter: bool) -> Evaluation:
        return self.problem.evaluate(self._large(self.candidate), scatter)

    def _accept(self, found: Evaluation, last: bool = False) -> None:
        """Take the candidates that are good enough as the poses; mark those that are not."""
        assert found.normal is not None
        where, constants = self.where, self.constants
        count = self._small(found.valid.sum(-1))
        cost = self._small(found.cost.double()) / self.maximum(count, constants["few"])
        normal = self._small(found.normal.double())
        enough = count >= self.settings.minimum_points
        good = enough & (abs(cost + normal.sum((-2, -1))) < np.inf)
        asked = ~self.failed if last else self.active
        taken = asked & good
        if self.first or self.settings.steps == "all":
            reason = where(enough, constants["NOT_FINITE"], constants["FEW_POINTS"])
            self.stopped = where(asked ^ taken, reason, self.stopped)
            self.active = self.active & good
        else:
            taken = taken & (cost <= self.cost)
            factor = where(taken, self.factor * 0.1, self.factor * 10.0).clip(1e-8, 1e12)
            self.factor = where(asked, factor, self.factor)
        if self.first:
            self.cost_initial = where(taken, cost, self.cost_initial)
        self.first = False
        one, two = taken[:, None], taken[:, None, None]
        self.T = where(two, self.candidate, self.T)
        self.cost = where(taken, cost, self.cost)
        self.normal = where(two, normal, self.normal)
        if self.on_host and taken.all():
            self.valid, self.squared = found.valid, found.squared
        else:
            rows = self._large(one)
            self.valid = torch.where(rows, found.valid, self.valid)
            self.squared = torch.where(rows, found.squared, self.squared)
        if last:
            if found.scatter is not None:
                self.scatter = where(two, self._small(found.scatter.double()), self.scatter)
            variance = residual_variance(found.squared, found.weights, found.valid, self.channels)
            self.variance = where(taken, self._small(variance), self.variance)

    def _propose(self) -> None:
        """The damped step (eq. 4) of the poses that still move; those that hardly do have converged."""
        where, constants, settings = self.where, self.constants, self.settings
        H, gradient = where(self.active[:, None, None], self.normal[..., :6], constants["eye6"]), self.normal[..., 6]
        # Scaled to a unit diagonal the system has no units, and damping by diag(H) becomes adding lambda. Parameters
        # without curvature (no texture) get the scale zero, and stay.
        d = H.diagonal(0, -2, -1)
        s = self.maximum(d, constants["least"]) ** -0.5 * (d > LEAST_CURVATURE)
        damping = self.damping if settings.steps == "all" else self.damping * self.factor[:, None]
        A = (
            H * (s[:, :, None] * s[:, None, :]) * constants["aside"]
            + (damping + self.one)[..., None] * constants["eye6"]
        )
        delta = _solve(A, s * gradient) * -s
        solved = abs(delta).sum(-1) < _LONGEST
        moving = self.active & solved
        if settings.steps == "all":
            self.stopped = where(self.active ^ moving, constants["NOT_FINITE"], self.stopped)
            self.active = moving
        else:  # more damping will make it solvable
            self.factor = where(solved, self.factor, self.factor * 10.0)
        step = where(moving[:, None], delta, constants["zero"])
        self.candidate = where(self.active[:, None, None], exponential(step) @ self.T, self.candidate)
        self.iterations = self.iterations + self.active
        squares = (step * step).reshape(-1, 2, 3).sum(-1)
        metres, radians = self.slack * settings.stop_m, self.slack * np.radians(settings.stop_deg)
        small = (squares[:, 0] < metres**2) & (squares[:, 1] < radians**2)
        converged = moving & small
        self.stopped = where(converged, constants["CONVERGED"], self.stopped)
        if not self.unrolled:
            self.active = self.active ^ converged
