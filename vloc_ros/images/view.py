"""What another camera than the map's would have seen through the map's: an image warped into the map's view.

Both cameras share their centre and axes, so that depth does not matter and the pose of one is the pose of the other.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from vloc_ros.errors import ImageError
from vloc_ros.geometry.cameras import project, resized, unproject
from vloc_ros.images.rectify import Rectifier
from vloc_ros.images.reduction import reduced_image
from vloc_ros.types import CameraModel, RgbImage

__all__ = ["ViewWarp"]

#: Points a side of the grid on which pixel sizes are compared.
_GRID = 9
#: Pixels that are at most this much smaller than the view's need no averaging.
_FINE = 1.25


class ViewWarp:
    """From images of one camera to the view of another; tables are made once, with the first image.

    An image with more pixels than the view is first averaged down to about as many, as images of the map were. What the
    camera does not see shows the nearest pixel that it sees: networks are misled less by that than by any one colour.

    :param source: the camera, distorted or not. :param target: the view, without distortion.
    :raises CameraError: coefficients that are no lens, or a size that no camera has.
    """

    def __init__(self, source: CameraModel, target: CameraModel) -> None:
        self.source, self.target = source, target
        self.pixels = _pixel_sizes(source, target)
        shrunk = [max(1, round(n / p)) if p > _FINE else n for n, p in zip(source.size, self.pixels, strict=True)]
        self._rectifier = Rectifier(resized(source, *shrunk), target, beyond="nearest")

    @cached_property
    def covered(self) -> float:
        """Share of the view that the camera sees."""
        return self._rectifier.coverage

    @property
    def enlarged(self) -> float:
        """How many pixels of the view a pixel of the image becomes, along the axis where they are most; below 1 the
        image has more pixels than the view."""
        return 1.0 / min(self.pixels)

    def warp(self, image: RgbImage) -> RgbImage:
        """The view (target height, target width, 3) uint8 of an image.

        :raises ImageError: an image of another size than the camera's.
        """
        if image.shape[:2] != (self.source.height, self.source.width):
            raise ImageError(
                f"view: expected an image of {self.source.width}x{self.source.height} as in the camera model, found "
                f"{image.shape[1]}x{image.shape[0]}; image and camera_info disagree"
            )
        return self._rectifier.rectify(reduced_image(image, self._rectifier.camera))[0]


def _pixel_sizes(source: CameraModel, target: CameraModel) -> tuple[float, float]:
    """Pixels of the source that a pixel of the target is wide and high, in the median of what both see; 1 where they
    see nothing in common."""
    u, v = np.meshgrid(
        np.linspace(0.0, target.width - 1.0, _GRID), np.linspace(0.0, target.height - 1.0, _GRID), indexing="xy"
    )
    at = np.stack([u, v], axis=-1).reshape(-1, 2)
    sizes = []
    for step in ((0.5, 0.0), (0.0, 0.5)):
        ends = [project(source, unproject(target, at + sign * np.array(step))) for sign in (-1.0, 1.0)]
        both = ends[0][1] & ends[1][1]
        length = np.linalg.norm(ends[1][0] - ends[0][0], axis=-1)[both]
        sizes.append(float(np.median(length)) if len(length) else 1.0)
    return sizes[0], sizes[1]
