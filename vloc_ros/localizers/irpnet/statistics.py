"""What goes with the errors of IRPNet, as a few numbers for the covariance model."""

from __future__ import annotations

import numpy as np

from vloc_ros.localizers.calibration import CovarianceModel
from vloc_ros.types import Array

__all__ = ["DROPOUT_STATISTICS", "RESIDUAL_STATISTICS", "deviations", "regression_statistics"]

#: Names of the entries of :func:`regression_statistics`, in order.
RESIDUAL_STATISTICS = (
    "familiarity",  # log(1 + distance of the descriptor to the nearest stored one / what light alone changes)
    "reference_gap",  # log distance from the regressed position to the nearest stored image's, metres
    "reference_turn",  # the same of the rotation, radians
    "dropout_translation",  # log of the spread of the position under Monte Carlo dropout, metres
    "dropout_rotation",  # the same of the rotation, radians
    "reference_spread",  # log of the spread of the positions of the nearest stored images, metres
    "rotation_norm",  # log of the length of the regressed quaternion (or column) before it is normalised
)
#: Those of ``covariance: dropout``. Dropout alone does not notice an image of another place: the first three do.
DROPOUT_STATISTICS = RESIDUAL_STATISTICS[:5]

_FLOOR = 1e-3
#: Smallest deviation of a statistic among calibration frames that is believed.
_LEAST_SPREAD = 0.1


def _angle(a: Array, b: Array) -> Array:
    """Angles (rad) between unit quaternions ``(..., 4)``."""
    return np.asarray(2.0 * np.arccos(np.clip(np.abs((a * b).sum(axis=-1)), 0.0, 1.0)))


def regression_statistics(
    pose: Array, sampled: Array, norm: float, distance: float, typical: float, near: Array
) -> Array:
    """The numbers named in :data:`RESIDUAL_STATISTICS`, ``(7,)``.

    :param pose: ``(7,)``, regressed.
    :param sampled: ``(K, 7)``, regressed under dropout.
    :param norm: length of the regressed rotation.
    :param distance: of the descriptor to the nearest stored one; ``typical`` makes it free of the descriptor's scale.
    :param near: ``(k, 7)``, poses of the nearest stored images, the nearest first.
    """
    position = np.sqrt(np.square(sampled[:, :3] - pose[:3]).sum(axis=1).mean())
    rotation = np.sqrt(np.square(_angle(sampled[:, 3:], pose[3:])).mean())
    spread = np.sqrt(np.square(near[:, :3] - near[:, :3].mean(axis=0)).sum(axis=1).mean())
    values = [
        1.0 + distance / typical,
        np.linalg.norm(pose[:3] - near[0, :3]) + _FLOOR,
        float(_angle(pose[3:], near[0, 3:])) + _FLOOR,
        position + _FLOOR,
        rotation + _FLOOR,
        spread + _FLOOR,
        norm + _FLOOR,
    ]
    return np.asarray(np.log(values), dtype=np.float64)


def deviations(model: CovarianceModel, numbers: Array) -> Array:
    """How far statistics lie above those of calibration frames, in their standard deviations; 0 where below: ``(F,)``.

    Large values are the bad ones, of ``rotation_norm`` too: far from training data regressed rotations grow.
    """
    return np.asarray(np.maximum((numbers - model.center) / np.maximum(model.spread, _LEAST_SPREAD), 0.0))
