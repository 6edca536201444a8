"""From an RGB image to the tensor a network reads, and whether a camera may query a map at all.

How an image of another aspect becomes ``width`` x ``height`` (KITTI is 3.3:1, networks often 16:9):

``squash`` (default)
    The whole image is resized without keeping its aspect; fx and fy are rescaled independently. Nothing of
    the view is lost, and the map's camera is squashed alike.
``crop``
    The largest centred window of the wanted aspect is cut out and resized; aspect kept, view lost.
``pad``
    The image is resized keeping its aspect and centred between bars of the mean colour (zero in the tensor).

Images must be free of distortion (:class:`vloc_ros.images.rectify.Rectifier` comes before). Another
resolution of the same lens is the same view and passes; another field of view is refused by :meth:`Preprocess.check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vloc_ros.errors import CameraMismatchError, ConfigError, ImageError
from vloc_ros.geometry.cameras import cropped, field_of_view, resized, undistorted_camera
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import CameraModel, RgbImage

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FITS = ("squash", "crop", "pad")
#: No network reads larger images, and no statistics of RGB in [0, 1] are beyond this or its inverse.
_LARGEST_SIDE, _LARGEST_STATISTIC = 8192, 1e3


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one map.

    :param width: of the tensor, pixels.
    :param height: of the tensor, pixels.
    :param fit: ``squash``, ``crop`` or ``pad``, see the module.
    :param fov_tolerance: largest relative difference of the horizontal and of the vertical field of view.
    :param aspect_tolerance: largest relative difference of the view's aspect, (width / fx) / (height / fy).
    :param principal_tolerance: largest difference of the principal point, as a share of the image's size.
    :param mean: of RGB in [0, 1], subtracted.
    :param std: of RGB in [0, 1], divided by.
    :raises ConfigError: a value out of range.
    """

    width: int
    height: int
    fit: str = "squash"
    fov_tolerance: float = 0.05
    aspect_tolerance: float = 0.05
    principal_tolerance: float = 0.05
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if not (0 < self.width <= _LARGEST_SIDE and 0 < self.height <= _LARGEST_SIDE):
            raise ConfigError(
                f"preprocessing: expected a positive size, at most {_LARGEST_SIDE} pixels a side, found "
                f"{self.width}x{self.height}"
            )
        if self.fit not in _FITS:
            raise ConfigError(f"preprocessing: expected fit to be one of {', '.join(_FITS)}, found {self.fit!r}")
        plain = all(abs(v) <= _LARGEST_STATISTIC for v in self.mean) and all(
            1.0 / _LARGEST_STATISTIC <= v <= _LARGEST_STATISTIC for v in self.std
        )
        if len(self.mean) != 3 or len(self.std) != 3 or not plain:
            raise ConfigError(
                "preprocessing: expected three means and three positive deviations of RGB in [0, 1], found "
                f"{self.mean} and {self.std}"
            )
        for name in ("fov_tolerance", "aspect_tolerance", "principal_tolerance"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"preprocessing: expected {name} >= 0, found {getattr(self, name)}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Preprocess:
        """From the mapping that a map's manifest stores (see :meth:`settings`).

        :raises ConfigError: an unknown key, a missing size, a value of the wrong type or out of range.
        """
        return settings_from_mapping(cls, settings, "preprocessing")

    def settings(self) -> dict[str, Any]:
        """Plain values for a manifest; :meth:`from_settings` reads them back."""
        return settings_to_mapping(self)

    def check(self, camera_query: CameraModel, camera_map: CameraModel) -> None:
        """Refuse a query camera that sees too differently from the camera that the map was made with.

        Distorted cameras are compared by their rectified views; with ``crop``, after cropping. The size in
        pixels does not matter.

        :raises CameraMismatchError: field of view, aspect or principal point beyond the tolerances.
        """
        query, reference = self._view(camera_query), self._view(camera_map)
        for name, found, expected in zip(
            ("horizontal", "vertical"), field_of_view(query), field_of_view(reference), strict=True
        ):
            if abs(found / expected - 1.0) > self.fov_tolerance:
                raise CameraMismatchError(
                    f"camera: expected a {name} field of view of {np.degrees(expected):.1f} deg (within "
                    f"{100 * self.fov_tolerance:g} %) as in the map, found {np.degrees(found):.1f} deg; "
                    "use a map made with this lens, or check camera_info"
                )
        aspect = (query.width / query.fx) / (query.height / query.fy)
        expected = (reference.width / reference.fx) / (reference.height / reference.fy)
        if abs(aspect / expected - 1.0) > self.aspect_tolerance:
            raise CameraMismatchError(
                f"camera: expected a view of aspect {expected:.3f} (within {100 * self.aspect_tolerance:g} %) as in "
                f"the map, found {aspect:.3f}; is the image cropped differently?"
            )
        found_xy, expected_xy = _principal(query), _principal(reference)
        if max(abs(a - b) for a, b in zip(found_xy, expected_xy, strict=True)) > self.principal_tolerance:
            raise CameraMismatchError(
                f"camera: expected the principal point at ({expected_xy[0]:.3f}, {expected_xy[1]:.3f}) of the image's "
                f"size (within {self.principal_tolerance:g}) as in the map, found ({found_xy[0]:.3f}, "
                f"{found_xy[1]:.3f}); is the image cropped differently?"
            )

    def like(self, camera: CameraModel, reference: CameraModel, largest: float = 2.5) -> Preprocess:
        """For a network that takes images of any size: how images of another camera are prepared so that a degree has
        as many pixels as in those of the reference. Of a camera that passes :meth:`check` nothing changes.

        :param largest: images get at most so many times the pixels, and sides of no less than 64 pixels.
        """
        try:
            self.check(camera, reference)
        except CameraMismatchError:
            prepared = self.camera(reference)
        else:
            return self
        width, height = camera.width * prepared.fx / camera.fx, camera.height * prepared.fy / camera.fy
        factor = min(1.0, (largest * self.width * self.height / (width * height)) ** 0.5)
        sides = (min(max(64, round(factor * side)), _LARGEST_SIDE) for side in (width, height))
        return replace(self, width=next(sides), height=next(sides), fit="squash")

    def _view(self, camera: CameraModel) -> CameraModel:
        pinhole = undistorted_camera(camera) if camera.is_distorted else camera
        return self.camera(pinhole) if self.fit == "crop" else pinhole

    def _window(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part (x0, y0, w, h) of the source that is resized."""
        if self.fit != "crop":
            return 0, 0, width, height
        w = min(width, max(1, round(height * self.width / self.height)))
        h = min(height, max(1, round(width * self.height / self.width)))
        return (width - w) // 2, (height - h) // 2, w, h

    def _inner(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Where (x0, y0, w, h) the resized source lies in the result."""
        if self.fit != "pad":
            return 0, 0, self.width, self.height
        scale = min(self.width / width, self.height / height)
        w = min(self.width, max(1, round(width * scale)))
        h = min(self.height, max(1, round(height * scale)))
        return (self.width - w) // 2, (self.height - h) // 2, w, h

    def camera(self, camera: CameraModel) -> CameraModel:
        """The camera of the result; its size is (width, height)."""
        x0, y0, w, h = self._inner(camera.width, camera.height)
        inner = resized(cropped(camera, *self._window(camera.width, camera.height)), w, h)
        return cropped(inner, -x0, -y0, self.width, self.height)

    def apply_uint8(self, image: RgbImage) -> RgbImage:
        """The fitted image, (height, width, 3) uint8, before normalising; what a training cache stores.

        Pixels are averaged over their area when both axes shrink, bilinear otherwise.

        :raises ImageError: not (H, W, 3) uint8.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(f"preprocessing: expected (H, W, 3) uint8 RGB, found {image.dtype} of shape {image.shape}")
        height, width = image.shape[:2]
        x0, y0, w, h = self._window(width, height)
        window = image[y0 : y0 + h, x0 : x0 + w]
        ox, oy, iw, ih = self._inner(width, height)
        inner = window if (iw, ih) == (w, h) else _resize(window, iw, ih)
        if (iw, ih) == (self.width, self.height):
            return np.ascontiguousarray(inner)
        out = np.empty((self.height, self.width, 3), dtype=np.uint8)
        out[:] = [round(255 * v) for v in self.mean]
        out[oy : oy + ih, ox : ox + iw] = inner
        return out

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, h, w] of any device -> float32, in units of the deviations about the mean."""
        import torch

        mean, std = _statistics(self.mean, self.std, images.device)
        return images.to(torch.float32).mul_(1.0 / 255.0).sub_(mean).div_(std)

    def apply(self, image: RgbImage) -> torch.Tensor:
        """The normalised tensor, float32 [3, height, width], contiguous, on the CPU.

        :raises ImageError: not (H, W, 3) uint8.
        """
        return self.normalize(self.fitted(image).permute(2, 0, 1).contiguous())

    def fitted(self, image: RgbImage) -> torch.Tensor:
        """:meth:`apply_uint8` as a tensor [height, width, 3] on the CPU.

        :raises ImageError: not (H, W, 3) uint8.
        """
        import torch

        fitted = self.apply_uint8(image)
        if not fitted.flags.writeable:  # a view of a message's buffer; torch would warn
            fitted = fitted.copy()
        return torch.from_numpy(fitted)


@lru_cache(maxsize=32)
def _statistics(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both (3, 1, 1) on a device; uploaded once."""
    import torch

    with torch.inference_mode(False):
        made = [torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std)]
    return made[0], made[1]


def _principal(camera: CameraModel) -> tuple[float, float]:
    return (camera.cx + 0.5) / camera.width, (camera.cy + 0.5) / camera.height


def _resize(image: RgbImage, width: int, height: int) -> RgbImage:
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8)
