"""Drives as another lens in the same place would have seen them: a part of the images, other pixels, a fisheye."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.datasets.sequence import ImageSource
from vloc_ros.errors import ConfigError
from vloc_ros.geometry.cameras import cropped, resized
from vloc_ros.images.view import ViewWarp
from vloc_ros.settings import ranged
from vloc_ros.types import CameraModel, RgbImage

__all__ = ["Lens", "seen_by"]


@dataclass(frozen=True)
class Lens:
    """Another lens, which sees a part of what the images show.

    :param window: left, top, width and height of the part, as shares of the image.
    :param scale: pixels of a side of the result for one of the part: part 2/3 and scale 1.5 are a zoom by 1.5.
    :param fisheye_deg: horizontal field of view of an equidistant lens; none: the images' own lens. What it sees beyond
        the images is black.
    """

    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    scale: float = ranged(1.0, minimum=0.05, maximum=8.0)
    fisheye_deg: float | None = ranged(None, minimum=10.0, maximum=170.0)

    def __post_init__(self) -> None:
        x, y, w, h = self.window
        if not (min(x, y) >= 0 and min(w, h) > 0 and max(x + w, y + h) <= 1.0 + 1e-9):
            raise ConfigError(f"lens: expected a window inside the image (0 to 1), found {list(self.window)}")

    def camera(self, camera: CameraModel) -> CameraModel:
        """The lens before a camera's sensor."""
        x, y, w, h = self.window
        left, top = round(x * camera.width), round(y * camera.height)
        part = cropped(
            camera, left, top, max(1, min(round(w * camera.width), camera.width - left)),
            max(1, min(round(h * camera.height), camera.height - top)),
        )  # fmt: skip
        out = resized(part, max(1, round(self.scale * part.width)), max(1, round(self.scale * part.height)))
        if self.fisheye_deg is None:
            return out
        focal = 0.5 * out.width / np.radians(0.5 * self.fisheye_deg)
        return replace(out, fx=focal, fy=focal, distortion_model="equidistant", distortion=(0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class _Seen:
    """Images through another lens."""

    source: ImageSource
    warp: ViewWarp

    def image(self, index: int) -> RgbImage:
        return self.warp.warp(self.source.image(index))

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        return ((index, self.warp.warp(image)) for index, image in self.source.frames())


def seen_by(lens: Lens, sequence: PosedSequence) -> PosedSequence:
    """A drive as the lens would have seen it."""
    camera = lens.camera(sequence.camera)
    return replace(sequence, camera=camera, source=_Seen(sequence.source, ViewWarp(sequence.camera, camera)))
