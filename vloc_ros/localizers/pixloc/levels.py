"""What the optimiser works on and what it reports: settings, a feature level, the result of a level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal

from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import FeatureField
from vloc_ros.localizers.pixloc.robust import Robust, RobustKind
from vloc_ros.settings import Fixed, ranged

__all__ = ["Level", "LevelResult", "OptimizerSettings", "Sight", "Stop"]


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
    :param stop_m: a pose has converged once an update is below this and ``stop_deg``, on the finest level; on others
        as much more as their cells are larger.
    :param stop_deg: the same for rotation, degrees.
    :param max_cost_ratio: success requires that the last level's mean cost ended at most this times where it began.
    :param covariance: ``hessian`` (inverse Hessian times residual variance) or ``sandwich`` (also right where the
        channels of a point err together).
    """

    #: A GPU is not asked any more: its iterations are all the same work.
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"check_every": Fixed(5)}

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
    :param slack: how many times the width of the finest level's cells its own have: a step has to be that much longer
        to matter here, for what it leaves the finer levels do.
    """

    field: FeatureField
    camera: TorchCamera
    reference: Tensor
    confidence: Tensor | None
    damping: Tensor
    robust: Robust | None = None
    slack: float = 1.0


@dataclass(frozen=True)
class Sight:
    """What one camera, or K cameras of one kind on a rig, may see: points, and the feature levels of the image.

    On a rig the leading axis of points, mask, references, confidences, cameras and fields is that of the cameras.

    :param points_map: (B | 1, N, 3) m, on a rig (K, N, 3); points that are not finite, or farther than 1e8 m, are left
        out.
    :param levels: coarse to fine, of one image scale or of several (the smallest first).
    :param mask: (B | 1, N), on a rig (K, N), points to use, or None: all.
    :param T_cam_rig: (K, 4, 4) float64, from the frame whose pose is refined into the cameras; None: the pose is that
        of the camera itself.
    """

    points_map: Tensor
    levels: tuple[Level, ...]
    mask: Tensor | None = None
    T_cam_rig: Tensor | None = None


@dataclass(frozen=True)
class LevelResult:
    """What a level did to B poses. Of a rig N are the points of all its cameras, one camera's after the other's.

    Poses, Hessians and gradients are float64; costs are means over the valid points.

    Without ``report``, as on all levels but the last, everything but the pose is that of the last evaluation, before
    the last step.

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
