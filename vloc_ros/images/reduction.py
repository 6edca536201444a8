"""Images no larger than a bound, and the camera that sees them so.

What a large sensor adds beyond some 1,600 pixels are time and memory (SIFT of 12 megapixels takes seconds and three
gigabytes), while the errors of poses and points grow with it in pixels: in smaller images thresholds in pixels mean
the same whatever the sensor.
"""

from __future__ import annotations

import cv2
import numpy as np

from vloc_ros.geometry.cameras import resized
from vloc_ros.types import CameraModel, RgbImage

__all__ = ["reduced_camera", "reduced_image"]


def reduced_camera(camera: CameraModel, side: int) -> CameraModel:
    """The camera of the image whose longer side is reduced to so many pixels; itself where it has no more.

    :param side: 0: no bound.
    """
    longest = max(camera.size)
    if not side or longest <= side:
        return camera
    width, height = (max(1, round(pixels * side / longest)) for pixels in camera.size)
    return resized(camera, width, height)


def reduced_image(image_rgb: RgbImage, camera: CameraModel) -> RgbImage:
    """An image (H, W, 3) uint8 in the size of its reduced camera, every pixel the mean of its area."""
    if image_rgb.shape[1::-1] == camera.size:
        return image_rgb
    return np.asarray(cv2.resize(image_rgb, camera.size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
