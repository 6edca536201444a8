"""Is there anything to see? Frames of a covered lens or a dead sensor are refused, not localized."""

from __future__ import annotations

import cv2
import numpy as np

from vloc_ros.errors import ImageError
from vloc_ros.types import RgbImage

__all__ = ["MIN_STANDARD_DEVIATION", "check_content"]

#: Standard deviation in grey levels (of 255), of the liveliest channel, under which an image counts as one colour.
#: Sensor noise of a covered lens stays below it; the darkest usable night image is above.
MIN_STANDARD_DEVIATION = 2.0

_SAMPLES_A_SIDE = 160


def check_content(image: RgbImage, min_standard_deviation: float = MIN_STANDARD_DEVIATION) -> None:
    """Refuse an image that is all black or all one colour; looks at a grid of at most 160x160 pixels.

    :param image: (H, W, 3) uint8.
    :raises ImageError: says which colour was found.
    """
    if image.size == 0:
        raise ImageError(f"image: expected pixels, found an empty image of shape {image.shape}")
    sy, sx = max(1, image.shape[0] // _SAMPLES_A_SIDE), max(1, image.shape[1] // _SAMPLES_A_SIDE)
    mean, deviations = cv2.meanStdDev(np.ascontiguousarray(image[sy // 2 :: sy, sx // 2 :: sx]))
    deviation = float(deviations.max())
    if deviation < min_standard_deviation:
        colour = mean[:, 0]
        what = "black" if colour.max() < 8 else f"one colour, RGB ({', '.join(f'{v:.0f}' for v in colour)})"
        raise ImageError(
            f"image: all {what}: standard deviation {deviation:.2f} of 255, expected at least "
            f"{min_standard_deviation:g}; is the lens covered, or the sensor off?"
        )
