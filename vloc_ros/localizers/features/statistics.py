"""What a frame says about its own certainty: the diagnostics that the covariance is corrected by."""

from __future__ import annotations

import numpy as np

from vloc_ros.features.pose import LEAST_SCALE
from vloc_ros.features.verification import Evidence, JudgedPose
from vloc_ros.types import Array

__all__ = ["SIGMAS", "STATISTICS", "camera_sigmas", "features_statistics"]

#: Natural logarithms where they say so. ``log_surplus``: of the points in agreement beyond chance. ``log_share``: of
#: their share of those in view. ``log_scale``: of the residuals in units of what they should be. ``log_sigma``: of the
#: position's own standard deviation over the scene's depth (largest axis). ``log_distance``: of the way to the nearest
#: image of the map over the scene's depth.
STATISTICS = ("log_surplus", "log_share", "log_scale", "log_sigma", "log_distance")
#: The frame's own standard deviations along the camera's axes, by the inverse Hessian and the residuals.
SIGMAS = (
    "fit_sigma_x_m", "fit_sigma_y_m", "fit_sigma_z_m",
    "fit_sigma_rx_rad", "fit_sigma_ry_rad", "fit_sigma_rz_rad",
)  # fmt: skip


def camera_sigmas(covariance: Array, R_map_cam: Array) -> Array:
    """(6,) standard deviations along the camera's axes of a 6x6 covariance in map axes."""
    parts = [R_map_cam.T @ block @ R_map_cam for block in (covariance[:3, :3], covariance[3:, 3:])]
    return np.asarray(np.sqrt(np.maximum(np.concatenate([np.diag(part) for part in parts]), 1e-18)))


def scaled_covariance(found: JudgedPose) -> Array:
    """The fit's covariance times its residuals' scale, at least a tenth of what sigmas alone would say.

    What several cameras of a rig see is off the same way where the map is: their matches count as those of one camera.
    What they gain by looking in different directions stays. Another pose that explains what is seen adds its own.
    """
    assert found.refined is not None
    surplus = [part.surplus for part in found.evidence.parts]
    cameras = sum(surplus) / max(surplus) if any(surplus) else 1.0
    covariance = found.refined.covariance * cameras * max(found.refined.scale, LEAST_SCALE) ** 2
    return covariance if found.refined.doubt is None else covariance + found.refined.doubt


def features_statistics(found: JudgedPose, nearest_m: float, depth_m: float) -> Array:
    """The numbers of :data:`STATISTICS`; of a rig those of the camera that sees most, as calibrations know one."""
    assert found.refined is not None
    evidence: Evidence = max(found.evidence.parts or (found.evidence,), key=lambda part: part.surplus)
    sigma = float(np.sqrt(max(np.linalg.eigvalsh(scaled_covariance(found)[:3, :3])[-1], 1e-18)))
    return np.array(
        [
            np.log1p(evidence.surplus),
            np.log(evidence.share + 1e-3),
            np.log(max(found.refined.scale, LEAST_SCALE)),
            np.log(sigma / depth_m + 1e-6),
            np.log(nearest_m / depth_m + 1e-2),
        ]
    )
