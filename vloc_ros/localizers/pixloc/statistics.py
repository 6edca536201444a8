"""What an alignment says about its own certainty: the diagnostics that the covariance is corrected by."""

from __future__ import annotations

import numpy as np

from vloc_ros.types import Array

__all__ = ["SIGMAS", "STATISTICS", "alignment_statistics", "camera_sigmas"]

#: Natural logarithms where they say so. ``log_cost``: of the last level's mean cost. ``valid_share``: of the points
#: that were asked for. ``log_points``: of those that counted. ``log_settling_m``: of what the last level moved the
#: pose by. ``log_shift_m``: of its whole way from the prior. ``log_sigma_m``: of the Hessian's own idea (largest axis).
STATISTICS = ("log_cost", "valid_share", "log_points", "log_settling_m", "log_shift_m", "log_sigma_m")
#: The frame's own standard deviations along the camera's axes, by the inverse Hessian.
SIGMAS = (
    "hessian_sigma_x_m", "hessian_sigma_y_m", "hessian_sigma_z_m",
    "hessian_sigma_rx_rad", "hessian_sigma_ry_rad", "hessian_sigma_rz_rad",
)  # fmt: skip


def camera_sigmas(covariance: Array, R_map_cam: Array) -> Array:
    """(6,) standard deviations along the camera's axes of a 6x6 covariance in map axes."""
    parts = [R_map_cam.T @ block @ R_map_cam for block in (covariance[:3, :3], covariance[3:, 3:])]
    return np.asarray(np.sqrt(np.maximum(np.concatenate([np.diag(part) for part in parts]), 1e-18)))


def alignment_statistics(
    cost: float, valid: int, asked: int, settling_m: float, shift_m: float, covariance: Array
) -> Array:
    """The numbers of :data:`STATISTICS`."""
    sigma = np.sqrt(max(float(np.linalg.eigvalsh(covariance[:3, :3])[-1]), 1e-18))
    return np.array(
        [
            np.log(max(cost, 1e-9)),
            valid / max(asked, 1),
            np.log(max(valid, 1)),
            np.log(settling_m + 1e-3),
            np.log(shift_m + 1e-2),
            np.log(sigma + 1e-4),
        ]
    )
