"""Camera models: projection, rays, resizing, cropping, field of view, and CameraInfo.

Pixel centres lie at integer coordinates (OpenCV), so that an image spans [-0.5, width - 0.5]. Points and
rays are in the optical frame: x right, y down, z forward. Arrays are float64, batched over leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import CameraError
from vloc_ros.geometry.distortion import distort, distort_with_jacobian, equidistant_theta, maximum_radius, undistort
from vloc_ros.types import DISTORTION_COEFFICIENTS, Array, CameraModel

__all__ = [
    "cropped",
    "distort",
    "field_of_view",
    "from_camera_info",
    "project",
    "projection_jacobian",
    "resized",
    "undistort",
    "undistorted_camera",
    "unproject",
]

# Closer to the camera's plane than this a point has no stable projection.
_MIN_DEPTH = 1e-6


def project(camera: CameraModel, points_cam: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Pixels of points in the camera's frame.

    :param points_cam: [..., 3] m.
    :returns: pixels [..., 2], and valid [...]: in front of the camera, inside the image, and within the
        radius where the distortion model is a lens (:func:`vloc_ros.geometry.distortion.maximum_radius`).
    """
    p = np.asarray(points_cam, dtype=np.float64)
    in_front = p[..., 2] > _MIN_DEPTH
    xy = p[..., :2] / np.where(in_front, p[..., 2], 1.0)[..., None]
    pixels = distort(camera, xy) * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    valid = (
        in_front
        & (np.sum(xy * xy, axis=-1) <= maximum_radius(camera) ** 2)
        & (pixels[..., 0] >= -0.5)
        & (pixels[..., 0] <= camera.width - 0.5)
        & (pixels[..., 1] >= -0.5)
        & (pixels[..., 1] <= camera.height - 0.5)
    )
    return pixels, valid


def unproject(camera: CameraModel, pixels: npt.ArrayLike) -> Array:
    """Rays of unit depth (z = 1) through pixels; [..., 2] -> [..., 3]. NaN where the lens has no such ray."""
    px = np.asarray(pixels, dtype=np.float64)
    xy = undistort(camera, (px - (camera.cx, camera.cy)) / (camera.fx, camera.fy))
    return np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], axis=-1)


def projection_jacobian(camera: CameraModel, points_cam: npt.ArrayLike) -> Array:
    """Derivative of the pixel by the point in the camera's frame; [..., 3] -> [..., 2, 3] in pixels a metre."""
    p = np.asarray(points_cam, dtype=np.float64)
    x, y, z = p[..., 0], p[..., 1], np.maximum(p[..., 2], _MIN_DEPTH)
    _, J_lens = distort_with_jacobian(camera, np.stack([x / z, y / z], axis=-1))
    J = np.zeros((*p.shape[:-1], 2, 3))
    J[..., 0, 0] = J[..., 1, 1] = 1.0 / z
    J[..., 0, 2], J[..., 1, 2] = -x / z**2, -y / z**2
    return np.asarray(np.array([[camera.fx], [camera.fy]]) * (J_lens @ J))


def resized(camera: CameraModel, width: int, height: int) -> CameraModel:
    """The camera of the image after resizing; the axes scale independently, distortion stays."""
    sx, sy = width / camera.width, height / camera.height
    return replace(
        camera,
        width=width,
        height=height,
        fx=camera.fx * sx,
        fy=camera.fy * sy,
        cx=(camera.cx + 0.5) * sx - 0.5,
        cy=(camera.cy + 0.5) * sy - 0.5,
    )


def cropped(camera: CameraModel, x0: int, y0: int, width: int, height: int) -> CameraModel:
    """The camera of the window whose first pixel is (x0, y0); negative offsets mean padding."""
    return replace(camera, width=width, height=height, cx=camera.cx - x0, cy=camera.cy - y0)


def field_of_view(camera: CameraModel) -> tuple[float, float]:
    """(horizontal, vertical) angle in rad between the image's edges, through the principal point.

    :raises CameraError: an edge of the image that no ray of the distortion model reaches.
    """
    left, right = (-0.5 - camera.cx) / camera.fx, (camera.width - 0.5 - camera.cx) / camera.fx
    top, bottom = (-0.5 - camera.cy) / camera.fy, (camera.height - 0.5 - camera.cy) / camera.fy
    if camera.distortion_model == "equidistant":  # may see beyond 90 degrees off the axis, where z = 1 has no ray
        edges = np.array([left, right, top, bottom])
        angles = np.sign(edges) * equidistant_theta(camera, np.abs(edges))
    else:
        xy = undistort(camera, np.array([[left, 0.0], [right, 0.0], [0.0, top], [0.0, bottom]]))
        angles = np.arctan(xy[[0, 1, 2, 3], [0, 0, 1, 1]])
    if not np.isfinite(angles).all():
        raise CameraError(
            f"camera: the {camera.distortion_model} coefficients {camera.distortion} fold back before the edge of the "
            f"{camera.width}x{camera.height} image; check the calibration"
        )
    return float(angles[1] - angles[0]), float(angles[3] - angles[2])


@lru_cache(maxsize=64)
def undistorted_camera(camera: CameraModel) -> CameraModel:
    """The pinhole camera that :class:`vloc_ros.images.rectify.Rectifier` makes of a distorted one.

    Size and principal point stay. The focal lengths stay too where every pixel of the result then sees
    the source image (barrel distortion, the usual case); otherwise both grow by the smallest common
    factor that leaves no black border.

    :raises CameraError: no factor up to 16 fills the image (the coefficients are no lens).
    """
    pinhole = replace(camera, distortion_model="none", distortion=())
    if not camera.is_distorted:
        return pinhole
    x = np.linspace(0.0, camera.width - 1.0, 65)
    y = np.linspace(0.0, camera.height - 1.0, 65)
    border = np.concatenate(
        [np.stack(np.broadcast_arrays(x, v), -1) for v in (0.0, camera.height - 1.0)]
        + [np.stack(np.broadcast_arrays(u, y), -1) for u in (0.0, camera.width - 1.0)]
    )

    def filled(factor: float) -> bool:
        zoomed = replace(pinhole, fx=camera.fx * factor, fy=camera.fy * factor)
        return bool(project(camera, unproject(zoomed, border))[1].all())

    low, high = 1.0, 1.0
    while not filled(high):
        low, high = high, high * 1.1
        if high > 16.0:
            raise CameraError(
                f"camera: no pinhole view lies inside the image with {camera.distortion_model} coefficients "
                f"{camera.distortion}; check the calibration"
            )
    for _ in range(30 if high > 1.0 else 0):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if filled(middle) else (middle, high)
    return replace(pinhole, fx=camera.fx * high, fy=camera.fy * high)


_MODEL_NAMES = {
    "": "plumb_bob",  # some drivers leave it empty; the coefficient count is checked below
    "none": "none",
    "plumb_bob": "plumb_bob",
    "radtan": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
}


def from_camera_info(
    width: int,
    height: int,
    distortion_model: str,
    D: Sequence[float] | npt.ArrayLike,
    K: Sequence[float] | npt.ArrayLike,
    R: Sequence[float] | npt.ArrayLike | None = None,
    P: Sequence[float] | npt.ArrayLike | None = None,
    rectified: bool = False,
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] | None = None,
) -> CameraModel:
    """The camera of an image that travels with a ``sensor_msgs/CameraInfo``.

    :param rectified: the image is an ``image_rect``. Its CameraInfo still carries K and D of the raw image;
        the rectified image's intrinsics are in P, without distortion. The rotation R of a stereo pair turns
        the optical frame; it belongs to the extrinsics and is not applied here.
    :param binning: (binning_x, binning_y); 0 and 1 both mean none.
    :param roi: (x_offset, y_offset, width, height) in unbinned pixels; None or zero sizes: the full image.
    :raises CameraError: zero, NaN or missing intrinsics, an unknown model, a wrong number of coefficients.
    """
    del R
    k = _values(K, 9, "K")
    d = np.asarray(D, dtype=np.float64).reshape(-1)
    if rectified:
        p = _values(np.zeros(12) if P is None else P, 12, "P")
        if p[0] != 0.0:
            fx, fy, cx, cy = p[0], p[5], p[2], p[6]
        elif not d.any():  # never distorted, and P left unset: K says the same
            fx, fy, cx, cy = k[0], k[4], k[2], k[5]
        else:
            raise CameraError(
                "camera_info: the image is declared rectified, but P is all zero while D is not; fill P, or set "
                "image_is_rectified to false"
            )
        model, d = "none", d[:0]
    else:
        if k[0] == 0.0:
            raise CameraError("camera_info: K is all zero: the camera is not calibrated; calibrate it")
        fx, fy, cx, cy = k[0], k[4], k[2], k[5]
        model = _model_name(distortion_model, d)
        d = _trimmed(model, d)
    camera = CameraModel(int(width), int(height), fx, fy, cx, cy, model, tuple(d.tolist()))
    if roi is not None and roi[2] > 0 and roi[3] > 0:
        camera = cropped(camera, *roi)
    bx, by = max(int(binning[0]), 1), max(int(binning[1]), 1)
    if (bx, by) != (1, 1):
        camera = resized(camera, camera.width // bx, camera.height // by)
    return camera


def _values(values: npt.ArrayLike, count: int, name: str) -> list[float]:
    out = np.asarray(values, dtype=np.float64).reshape(-1)
    if out.size != count:
        raise CameraError(f"camera_info: expected {count} values in {name}, found {out.size}")
    if not np.isfinite(out).all():
        raise CameraError(f"camera_info: expected finite values in {name}, found {out.tolist()}; check the publisher")
    return [float(v) for v in out]


def _trimmed(model: str, d: Array) -> Array:
    """The coefficients without zeros at the end that the model does not have: drivers pad their vectors."""
    allowed = [count for count in DISTORTION_COEFFICIENTS[model] if count <= d.size]
    return d[: allowed[-1]] if allowed and not d[allowed[-1] :].any() else d


def _model_name(name: str, d: Array) -> str:
    if d.size == 0:
        return "none"
    model = _MODEL_NAMES.get(name.strip().lower())
    if model is None:
        raise CameraError(
            f"camera_info: unknown distortion model {name!r}; known: {', '.join(k for k in _MODEL_NAMES if k)}; "
            "rectify the image before, or publish one of these"
        )
    if model == "none" and d.any():
        raise CameraError(f"camera_info: distortion model 'none' with coefficients {d.tolist()}; name the model")
    if model == "plumb_bob" and d.size in (8, 12, 14):
        return "rational_polynomial"  # drivers that pass OpenCV's vector through under the old name
    if model == "rational_polynomial" and d.size in (4, 5):
        return "plumb_bob"
    return model
