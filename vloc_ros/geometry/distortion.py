"""Lens distortion on normalised image coordinates (x/z, y/z), with its Jacobian and its inverse.

The models are those of ``sensor_msgs/CameraInfo``, with OpenCV's coefficient order and formulas (OpenCV
documentation, "Camera Calibration and 3D Reconstruction" and "Fisheye camera model"). Arrays are float64,
[..., 2].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vloc_ros.types import Array, CameraModel

__all__ = ["distort", "distort_with_jacobian", "maximum_radius", "undistort"]

_NEWTON_STEPS = 30
_CONVERGED = 1e-9


def _brown(camera: CameraModel) -> Array:
    """The 14 coefficients of the general model, missing ones zero."""
    d = np.zeros(14)
    d[: len(camera.distortion)] = camera.distortion
    return d


@lru_cache(maxsize=64)
def maximum_radius(camera: CameraModel) -> float:
    """The radius of undistorted normalised coordinates up to which the radial model increases.

    Beyond it the polynomial folds back, and points far outside the view would land inside the image.
    Infinite where the model never folds. For ``equidistant`` it is the tangent of the limiting angle.
    """
    if not camera.is_distorted:
        return float("inf")
    if camera.distortion_model == "equidistant":
        theta = np.linspace(0.0, np.pi / 2, 20001)
        k1, k2, k3, k4 = camera.distortion
        t2 = theta**2
        slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
        folded = np.flatnonzero(slope <= 0)
        return float(np.tan(theta[folded[0] - 1])) if folded.size else float("inf")
    r = np.linspace(0.0, 20.0, 200001)
    d = _brown(camera)
    r2 = r**2
    top, bottom = _radial_terms(d, r2)
    with np.errstate(divide="ignore", invalid="ignore"):
        distorted = r * top / bottom
    folded = np.flatnonzero((np.diff(distorted) <= 0) | ~np.isfinite(np.diff(distorted)) | (bottom[1:] <= 0))
    return float(r[folded[0]]) if folded.size else float("inf")


def _radial_terms(d: Array, r2: Array) -> tuple[Array, Array]:
    top = 1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))
    bottom = 1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7]))
    return np.asarray(top), np.asarray(bottom)


def _tilt(d: Array) -> Array:
    """The 3x3 homography of a tilted sensor (coefficients 13 and 14)."""
    tx, ty = d[12], d[13]
    Rx = np.array([[1, 0, 0], [0, np.cos(tx), np.sin(tx)], [0, -np.sin(tx), np.cos(tx)]])
    Ry = np.array([[np.cos(ty), 0, -np.sin(ty)], [0, 1, 0], [np.sin(ty), 0, np.cos(ty)]])
    R = Ry @ Rx
    return np.asarray(np.array([[R[2, 2], 0, -R[0, 2]], [0, R[2, 2], -R[1, 2]], [0, 0, 1]]) @ R)


def _homography(H: Array, xy: Array) -> tuple[Array, Array]:
    """A homography applied to points, and its Jacobian [..., 2, 2]."""
    p = xy @ H[:, :2].T + H[:, 2]
    w = p[..., 2:]
    out = p[..., :2] / w
    J = (H[:2, :2] - out[..., :, None] * H[2, :2]) / w[..., None]
    return out, J


def _distort_brown(d: Array, xy: Array) -> tuple[Array, Array]:
    """Radial, tangential and thin-prism terms, without the tilt; points and Jacobian."""
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    top, bottom = _radial_terms(d, r2)
    radial = top / bottom
    d_top = d[0] + r2 * (2 * d[1] + r2 * 3 * d[4])
    d_bottom = d[5] + r2 * (2 * d[6] + r2 * 3 * d[7])
    d_radial = (d_top - radial * d_bottom) / bottom  # with respect to r2
    p1, p2, (s1, s2, s3, s4) = d[2], d[3], d[8:12]
    out = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2 * r2,
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2 * r2,
        ],
        axis=-1,
    )
    prism_x, prism_y = s1 + 2 * s2 * r2, s3 + 2 * s4 * r2
    J = np.empty((*xy.shape, 2))
    J[..., 0, 0] = radial + 2 * x * x * d_radial + 2 * p1 * y + 6 * p2 * x + 2 * x * prism_x
    J[..., 0, 1] = 2 * x * y * d_radial + 2 * p1 * x + 2 * p2 * y + 2 * y * prism_x
    J[..., 1, 0] = 2 * x * y * d_radial + 2 * p1 * x + 2 * p2 * y + 2 * x * prism_y
    J[..., 1, 1] = radial + 2 * y * y * d_radial + 6 * p1 * y + 2 * p2 * x + 2 * y * prism_y
    return out, J


def _equidistant_angle(k: tuple[float, ...], theta: Array) -> tuple[Array, Array]:
    """The distorted angle and its derivative."""
    k1, k2, k3, k4 = k
    t2 = theta * theta
    value = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
    return np.asarray(value), np.asarray(slope)


def _distort_equidistant(k: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    r2 = np.sum(xy * xy, axis=-1)
    small = r2 < 1e-12
    r = np.sqrt(np.where(small, 1.0, r2))
    value, slope = _equidistant_angle(k, np.arctan(r))
    scale = np.where(small, 1.0 + (k[0] - 1.0 / 3.0) * r2, value / r)
    # d(scale)/d(r2) = (theta_d'(r) - scale) / (2 r2); its limit at zero is k1 - 1/3.
    d_scale = np.where(small, k[0] - 1.0 / 3.0, (slope / (1 + r * r) - value / r) / (2.0 * r * r))
    J = scale[..., None, None] * np.eye(2) + 2.0 * d_scale[..., None, None] * (xy[..., :, None] * xy[..., None, :])
    return scale[..., None] * xy, J


def distort_with_jacobian(camera: CameraModel, xy: Array) -> tuple[Array, Array]:
    """Distorted normalised coordinates [..., 2], and their Jacobian [..., 2, 2] by the undistorted ones."""
    xy = np.asarray(xy, dtype=np.float64)
    if not camera.is_distorted:
        return xy, np.broadcast_to(np.eye(2), (*xy.shape, 2))
    if camera.distortion_model == "equidistant":
        return _distort_equidistant(camera.distortion, xy)
    d = _brown(camera)
    out, J = _distort_brown(d, xy)
    if d[12] != 0 or d[13] != 0:
        out, J_tilt = _homography(_tilt(d), out)
        J = J_tilt @ J
    return out, J


def distort(camera: CameraModel, xy: Array) -> Array:
    """What the lens does: undistorted to distorted normalised coordinates; [..., 2] -> [..., 2]."""
    return distort_with_jacobian(camera, xy)[0]


def undistort(camera: CameraModel, xy_distorted: Array) -> Array:
    """The inverse of :func:`distort`, by Newton's method to 1e-9; [..., 2] -> [..., 2].

    NaN where no ray within :func:`maximum_radius` (for ``equidistant``: within 90 degrees of the axis)
    reaches the coordinates.
    """
    target = np.asarray(xy_distorted, dtype=np.float64)
    if not camera.is_distorted:
        return target
    if camera.distortion_model == "equidistant":
        return _undistort_equidistant(camera, target)
    d = _brown(camera)
    if d[12] != 0 or d[13] != 0:
        target = _homography(np.asarray(np.linalg.inv(_tilt(d)), np.float64), target)[0]
    limit = maximum_radius(camera)
    xy = _inside(target, limit)
    # Starting from the distorted point Newton approaches monotonously from one side, for barrel and for
    # pincushion distortion alike; the clamp keeps it from leaving the branch of the model that is a lens.
    for _ in range(_NEWTON_STEPS):
        value, J = _distort_brown(d, xy)
        residual = target - value
        det = J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0]
        det = np.where(np.abs(det) < 1e-12, 1e-12, det)
        step = np.stack(
            [
                (J[..., 1, 1] * residual[..., 0] - J[..., 0, 1] * residual[..., 1]) / det,
                (J[..., 0, 0] * residual[..., 1] - J[..., 1, 0] * residual[..., 0]) / det,
            ],
            axis=-1,
        )
        xy = _inside(xy + step, limit)
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    missed = np.abs(_distort_brown(d, xy)[0] - target).max(axis=-1) > _CONVERGED
    return np.where(missed[..., None], np.nan, xy)


def _inside(xy: Array, limit: float) -> Array:
    if not np.isfinite(limit):
        return xy
    r = np.linalg.norm(xy, axis=-1, keepdims=True)
    return np.asarray(np.where(r > limit, xy * (limit / np.maximum(r, 1e-300)), xy))


def _undistort_equidistant(camera: CameraModel, target: Array) -> Array:
    distorted = np.linalg.norm(target, axis=-1)
    theta = equidistant_theta(camera, distorted)
    small = distorted < 1e-9
    scale = np.where(small, 1.0, np.tan(theta) / np.where(small, 1.0, distorted))
    scale = np.where(theta < np.pi / 2 - 1e-9, scale, np.nan)
    return np.asarray(target * scale[..., None])


def equidistant_theta(camera: CameraModel, distorted: Array) -> Array:
    """The angle off the axis in rad of distorted radii, up to where the model folds; NaN beyond."""
    distorted = np.asarray(distorted, dtype=np.float64)
    samples = np.linspace(0.0, np.pi, 4001)
    folded = np.flatnonzero(_equidistant_angle(camera.distortion, samples)[1] <= 0)
    limit = samples[folded[0] - 1] if folded.size else np.pi
    theta = np.clip(distorted, 0.0, limit)
    for _ in range(_NEWTON_STEPS):
        value, slope = _equidistant_angle(camera.distortion, theta)
        step = (distorted - value) / np.maximum(slope, 1e-9)
        theta = np.clip(theta + step, 0.0, limit)
        if np.abs(step).max(initial=0.0) < 1e-15:
            break
    missed = np.abs(_equidistant_angle(camera.distortion, theta)[0] - distorted) > _CONVERGED
    return np.where(missed, np.nan, theta)
