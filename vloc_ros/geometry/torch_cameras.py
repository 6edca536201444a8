"""Torch twin of :mod:`vloc_ros.geometry.cameras`: projection with its Jacobian, batched, on any device, differentiable.

Pixel centres lie at integer coordinates, points are in the optical frame (x right, y down, z forward). Results are
finite for every finite point, also for one that is not valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vloc_ros.errors import CameraError
from vloc_ros.geometry.distortion import maximum_radius
from vloc_ros.types import CameraModel

__all__ = ["TorchCamera"]

# Closer to the camera's plane than this a point has no stable projection.
_MIN_DEPTH = 1e-6
# Points outside the lens are clamped to this radius (normalised coordinates): no polynomial overflows there.
_FAR = 1e4


@dataclass(frozen=True)
class TorchCamera:
    """One camera, or one for every element of a batch (each tensor then has a leading axis B).

    :param model: ``none``, ``brown`` (plumb_bob and rational_polynomial) or ``equidistant``.
    :param size: (..., 2) width and height in pixels; fractions are allowed in scaled cameras.
    :param focal: (..., 2) fx and fy.
    :param centre: (..., 2) cx and cy.
    :param coefficients: (..., 0), (..., 14) or (..., 4) in OpenCV's order.
    :param radius2: (...) squared radius of normalised coordinates up to which the model is a lens.
    :param tilted: whether any camera has a tilted sensor (coefficients 13 and 14).
    """

    model: str
    size: Tensor
    focal: Tensor
    centre: Tensor
    coefficients: Tensor
    radius2: Tensor
    tilted: bool = False

    @classmethod
    def from_model(
        cls, camera: CameraModel, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> TorchCamera:
        """The camera of the package's run time, without a batch axis."""

        def tensor(*values: float) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype)

        model, coefficients = "none", tensor()
        if camera.is_distorted and camera.distortion_model == "equidistant":
            model, coefficients = "equidistant", tensor(*camera.distortion)
        elif camera.is_distorted:
            d = camera.distortion
            model, coefficients = "brown", tensor(*d, *[0.0] * (14 - len(d)))
        return cls(
            model,
            tensor(camera.width, camera.height),
            tensor(camera.fx, camera.fy),
            tensor(camera.cx, camera.cy),
            coefficients,
            tensor(maximum_radius(camera) ** 2)[0],
            model == "brown" and any(camera.distortion[12:]),
        )

    @classmethod
    def stack(cls, cameras: Sequence[TorchCamera]) -> TorchCamera:
        """One camera with a batch axis out of cameras without one.

        :raises CameraError: no camera, or a fisheye (``equidistant``) among others.
        """
        models = {camera.model for camera in cameras}
        if not models or ("equidistant" in models and len(models) > 1):
            raise CameraError(
                f"camera batch: expected cameras of one family (pinhole and polynomial, or equidistant), found "
                f"{', '.join(sorted(models)) or 'none at all'}; batch them apart"
            )
        model = models.pop() if len(models) == 1 else "brown"
        if model == "brown":
            cameras = [
                camera if camera.model == model else replace(camera, coefficients=camera.focal.new_zeros(14))
                for camera in cameras
            ]
        names = ("size", "focal", "centre", "coefficients", "radius2")
        stacked = {name: torch.stack([getattr(camera, name) for camera in cameras]) for name in names}
        return cls(model=model, tilted=any(camera.tilted for camera in cameras), **stacked)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TorchCamera:
        """The same camera on another device or in another precision."""
        names = ("size", "focal", "centre", "coefficients", "radius2")
        return replace(self, **{name: getattr(self, name).to(device=device, dtype=dtype) for name in names})

    def scaled(self, stride: float | tuple[float, float]) -> TorchCamera:
        """The camera of a feature map whose cells are ``stride`` (or (x, y) strides) pixels wide.

        Cell u covers the pixels around ``(u + 0.5) stride - 0.5``; distortion does not change.
        """
        sx, sy = (stride, stride) if isinstance(stride, int | float) else stride
        s = self.focal.new_tensor([sx, sy])
        return replace(self, size=self.size / s, focal=self.focal / s, centre=(self.centre + 0.5) / s - 0.5)

    def project(self, points_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (..., 2) of points (..., 3) in m, and valid (...): in front, inside image and lens.

        With a batch axis the points are (B, ..., 3).
        """
        uv, _, valid = self.project_components(points_cam.movedim(-1, 0), jacobian=False)
        return uv.movedim(0, -1), valid

    def project_with_jacobian(self, points_cam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (..., 2), their derivative (..., 2, 3) by the point in pixels a metre, and valid (...)."""
        uv, J, valid = self.project_components(points_cam.movedim(-1, 0), jacobian=True)
        assert J is not None
        return uv.movedim(0, -1), J.movedim((0, 1), (-2, -1)), valid

    def project_components(self, points: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same with coordinates first, the layout in which it is fastest: (3, ...) -> (2, ...), (2, 3, ...), (...).

        With a batch axis the points are (3, B, ...).
        """
        z = points[2]
        valid = z > _MIN_DEPTH
        inverse_z = torch.where(valid, z, torch.ones_like(z)).reciprocal()
        xy = points[:2] * inverse_z
        focal, centre = self._each(self.focal, points), self._each(self.centre, points)
        if self.model == "none":
            uv, J_lens = torch.addcmul(centre, xy, focal), None
        else:
            r2 = (xy * xy).sum(0)
            valid = valid & (r2 <= self._each(self.radius2[..., None], points)[0])
            # Beyond the lens only finiteness matters.
            xy = xy * (_FAR / r2.clamp(min=1e-30).sqrt()).clamp(max=1.0)
            distorted, J_lens = self._lens(xy, jacobian)
            uv = torch.addcmul(centre, distorted, focal)
        # -0.5 <= uv <= size - 0.5
        half = 0.5 * self._each(self.size, points)
        valid = valid & ((uv - (half - 0.5)).abs() <= half).all(0)
        if not jacobian:
            return uv, None, valid
        scale = focal * inverse_z
        if J_lens is None:
            (fx, fy), (tx, ty), zero = scale, -scale * xy, torch.zeros_like(z)
            return uv, torch.stack([fx, zero, tx, zero, fy, ty]).view(2, 3, *z.shape), valid
        J = J_lens * scale[:, None]
        return uv, torch.cat([J, -(J * xy).sum(1, keepdim=True)], dim=1), valid

    @staticmethod
    def _each(parameter: Tensor, points: Tensor) -> Tensor:
        """A parameter (k,) or (B, k), shaped to broadcast with components (3, ...) or (3, B, ...)."""
        lead = parameter.movedim(-1, 0)
        return lead.reshape(*lead.shape, *[1] * (points.ndim - lead.ndim))

    def _lens(self, xy: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None]:
        """Distorted (2, ...) of undistorted normalised coordinates (2, ...), and the Jacobian (2, 2, ...)."""
        d = self._each(self.coefficients, xy)
        if self.model == "equidistant":
            return _equidistant(d, xy, jacobian)
        out, J = _brown(d, xy, jacobian)
        if self.tilted:
            out, J_tilt = _tilt(d, out, jacobian)
            J = None if J is None or J_tilt is None else torch.einsum("ij...,jk...->ik...", J_tilt, J)
        return out, J


def _matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Entries of equal shape as (rows, columns, ...)."""
    return torch.stack([torch.stack(list(row)) for row in rows])


def _brown(d: Tensor, xy: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """Radial, tangential and thin-prism terms (OpenCV's general model, without the tilt)."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = d[:12]
    x, y = xy
    xx, yy, xy2 = x * x, y * y, 2.0 * x * y
    r2 = xx + yy
    top = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    bottom = 1.0 + r2 * (k4 + r2 * (k5 + r2 * k6))
    # Only where the model is no lens can the denominator come near zero; the result there is not used.
    bottom = torch.where(bottom.abs() < 1e-6, torch.ones_like(bottom), bottom)
    radial = top / bottom
    out = torch.stack(
        [
            x * radial + p1 * xy2 + p2 * (r2 + 2.0 * xx) + r2 * (s1 + s2 * r2),
            y * radial + p1 * (r2 + 2.0 * yy) + p2 * xy2 + r2 * (s3 + s4 * r2),
        ]
    )
    if not jacobian:
        return out, None
    d_top = k1 + r2 * (2.0 * k2 + r2 * 3.0 * k3)
    d_bottom = k4 + r2 * (2.0 * k5 + r2 * 3.0 * k6)
    d_radial = 2.0 * (d_top - radial * d_bottom) / bottom  # twice the derivative by r2
    prism_x, prism_y = 2.0 * (s1 + 2.0 * s2 * r2), 2.0 * (s3 + 2.0 * s4 * r2)
    cross = 0.5 * xy2 * d_radial + 2.0 * (p1 * x + p2 * y)
    J = [
        [radial + xx * d_radial + 2.0 * p1 * y + 6.0 * p2 * x + x * prism_x, cross + y * prism_x],
        [cross + x * prism_y, radial + yy * d_radial + 6.0 * p1 * y + 2.0 * p2 * x + y * prism_y],
    ]
    return out, _matrix(J)


def _tilt(d: Tensor, xy: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """The homography of a tilted sensor, and its Jacobian."""
    tx, ty = d[12], d[13]
    cx, sx, cy, sy = tx.cos(), tx.sin(), ty.cos(), ty.sin()
    zero, one = torch.zeros_like(tx), torch.ones_like(tx)
    R = _matrix([[cy, sy * sx, -sy * cx], [zero, cx, sx], [sy, -cy * sx, cy * cx]])
    keep = _matrix([[cy * cx, zero, sy * cx], [zero, cy * cx, -sx], [zero, zero, one]])
    H = torch.einsum("ij...,jk...->ik...", keep, R)
    p = (H[:, :2] * xy).sum(1) + H[:, 2]
    w = torch.where(p[2].abs() < 1e-6, torch.ones_like(p[2]), p[2])
    out = p[:2] / w
    if not jacobian:
        return out, None
    return out, (H[:2, :2] - out[:, None] * H[2, :2]) / w


def _equidistant(k: Tensor, xy: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None]:
    """Kannala-Brandt: the angle's polynomial over the radius."""
    k1, k2, k3, k4 = k
    r2 = (xy * xy).sum(0)
    # Below this the closed form of d_scale cancels; the error of its series is of order r^4, both far below rounding.
    small = r2 < (1e-6 if xy.dtype == torch.float64 else 1e-3)
    safe2 = torch.where(small, torch.ones_like(r2), r2)
    r = safe2.sqrt()
    theta = torch.atan(r)
    t2 = theta * theta
    angle = theta * (1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    # The series of theta_d / r in r2.
    c1, c2 = k1 - 1.0 / 3.0, k2 - k1 + 0.2
    c3 = k3 - 5.0 / 3.0 * k2 + 14.0 / 15.0 * k1 - 1.0 / 7.0
    scale = torch.where(small, 1.0 + r2 * (c1 + r2 * (c2 + r2 * c3)), angle / r)
    out = scale * xy
    if not jacobian:
        return out, None
    slope = 1.0 + t2 * (3.0 * k1 + t2 * (5.0 * k2 + t2 * (7.0 * k3 + t2 * 9.0 * k4)))
    closed = (slope / (1.0 + safe2) - angle / r) / safe2
    d_scale = torch.where(small, 2.0 * (c1 + r2 * (2.0 * c2 + r2 * 3.0 * c3)), closed)
    x, y = xy
    cross = d_scale * x * y
    return out, _matrix([[scale + d_scale * x * x, cross], [cross, scale + d_scale * y * y]])
