"""Image augmentation keyed by a random generator: the same generator state gives the same image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["AugmentSettings", "augment", "photometric", "virtual_rotation", "virtual_step"]


@dataclass(frozen=True)
class AugmentSettings:
    """Changes of the training images that keep their poses known. Our choice; the paper states none.

    :param photometric: strength of brightness, contrast, saturation, colour cast and gamma jitter, 0 to 1.
    :param blur: share of the images that are blurred.
    :param erase: share of the images in which a rectangle is painted over, as traffic does.
    :param rotate_deg: virtual camera rotations (pitch, yaw, roll), uniform in plus or minus these angles. A rotation
        about the optical centre is an exact homography of the image whatever the scene, and the pose turns with it.
    :param shift_m: virtual steps to the side, uniform in plus or minus this. Drives of a road are a few lines, and what
        lies between them is never seen; a step needs the depth, which is taken from a street: flat ground, a wall on
        either side, the rest far away. An approximation, unlike the rotations; 0 for scenes that are no streets.
    :param camera_height_m: of that street: height of the camera above the ground.
    :param street_half_width_m: of that street: distance of the walls.
    """

    photometric: float = ranged(0.5, minimum=0.0, maximum=1.0)
    blur: float = ranged(0.1, minimum=0.0, maximum=1.0)
    erase: float = ranged(0.3, minimum=0.0, maximum=1.0)
    rotate_deg: tuple[float, float, float] = ranged((1.0, 2.0, 1.0), minimum=0.0, maximum=30.0)
    shift_m: float = ranged(0.0, minimum=0.0, maximum=5.0)
    camera_height_m: float = ranged(1.6, minimum=0.1, maximum=10.0)
    street_half_width_m: float = ranged(10.0, minimum=1.0, maximum=100.0)


def virtual_rotation(image: RgbImage, camera: CameraModel, R_old_new: Array) -> RgbImage:
    """The image that the same camera would see after turning by ``R_old_new`` (new axes to old axes).

    Exact wherever the old image reaches; borders repeat the edge.
    """
    H = camera.K @ R_old_new.T @ np.linalg.inv(camera.K)
    size = (camera.width, camera.height)
    out = cv2.warpPerspective(image, H, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.uint8)


#: Depth of everything that is neither ground nor wall, metres.
_FAR_M = 60.0


@lru_cache(maxsize=16)
def _street_parallax(camera: CameraModel, height_m: float, half_width_m: float) -> npt.NDArray[np.float32]:
    """Pixels that the image of a street moves to the left for a step of one metre to the right: ``(H, W)``.

    The street is seen along its axis: ground ``height_m`` below the camera, walls ``half_width_m`` to either side.
    """
    x = np.abs((np.arange(camera.width) - camera.cx) / camera.fx)[None, :]
    y = (np.arange(camera.height) - camera.cy)[:, None] / camera.fy
    inverse_depth = np.maximum(np.maximum(y / height_m, x / half_width_m), 1.0 / _FAR_M)
    return np.asarray(camera.fx * inverse_depth, dtype=np.float32)


def virtual_step(image: RgbImage, camera: CameraModel, step_m: float, settings: AugmentSettings) -> RgbImage:
    """About what the same camera would see after a step of ``step_m`` to its right, if it stood in a street."""
    parallax = _street_parallax(camera, settings.camera_height_m, settings.street_half_width_m)
    rows, columns = (np.asarray(axis, dtype=np.float32) for axis in np.indices(parallax.shape, dtype=np.float32))
    source = columns + np.float32(step_m) * parallax
    out = cv2.remap(image, source, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.uint8)


def photometric(image: Tensor, settings: AugmentSettings, rng: np.random.Generator) -> Tensor:
    """Light, colour, sharpness and occlusion; ``(3, H, W)`` uint8 in and out."""
    # Builders read these settings, too: torchvision takes longer to import than torch.
    from torchvision.transforms.v2 import functional as F

    s = settings.photometric
    if s > 0:
        low, high = 1.0 - 0.7 * s, 1.0 + 0.9 * s
        gain = torch.from_numpy(rng.uniform(1.0 - 0.3 * s, 1.0 + 0.3 * s, (3, 1, 1)).astype(np.float32))
        # A ramp over the image: one side in the sun.
        ramp = torch.linspace(-1.0, 1.0, image.shape[2]) * float(rng.uniform(-0.4, 0.4) * s) + 1.0
        x = image.float() * (gain * ramp * float(rng.uniform(low, high)))
        image = x.clamp_(0.0, 255.0).to(torch.uint8)
        image = F.adjust_contrast(image, float(rng.uniform(low, high)))
        image = F.adjust_saturation(image, float(rng.uniform(1.0 - s, 1.0 + s)))
        image = F.adjust_gamma(image, float(np.exp(rng.uniform(-0.6, 0.6) * s)))
    if rng.random() < settings.blur:
        image = F.gaussian_blur(image, [3, 3], [float(rng.uniform(0.3, 1.2))] * 2)
    if rng.random() < settings.erase:
        height, width = image.shape[1:]
        h, w = rng.integers(height // 10, height // 2), rng.integers(width // 12, width // 3)
        y, x0 = rng.integers(0, height - h), rng.integers(0, width - w)
        colour = torch.from_numpy(rng.integers(0, 256, (3, 1, 1)).astype(np.uint8))
        image = F.erase(image, int(y), int(x0), int(h), int(w), colour)
    return image


def augment(
    image: RgbImage, T_map_cam: Array, camera: CameraModel, settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Tensor, Array]:
    """An augmented image ``(3, H, W)`` uint8 and the pose ``T_map_cam`` that belongs to it."""
    if settings.shift_m:
        step = float(rng.uniform(-1.0, 1.0)) * settings.shift_m
        image = virtual_step(image, camera, step, settings)
        T_map_cam = np.array(T_map_cam)
        T_map_cam[:3, 3] += step * T_map_cam[:3, 0]
    limit = np.radians(settings.rotate_deg)
    angles = rng.uniform(-1.0, 1.0, 3) * limit
    if limit.any():
        R = so3_exp(angles)
        image = virtual_rotation(image, camera, R)
        turned = np.array(T_map_cam)
        turned[:3, :3] = T_map_cam[:3, :3] @ R
        T_map_cam = turned
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
    return photometric(tensor, settings, rng), T_map_cam
