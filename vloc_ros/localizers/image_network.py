"""From the bytes of an image to what a network says about it: the one way of every backend that looks at a whole image.

Images are fitted on the host, where training does it, too, and go up as bytes: a quarter of what float32 takes, and
far less than the camera's image. It is normalised where the network computes. A network reads images of one size, so
that on a device that records all of it is one launch (:mod:`.recorder`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.types import RgbImage

__all__ = ["ImageNetwork"]


class ImageNetwork:
    """A network with its preprocessing, on one device.

    :param network: from normalised images ``(B, 3, h, w)``, channels last in memory, to tensors; in evaluation mode, on
        the device of the recorder.
    :param dtype: what the network reads. :param recorder: of the localizer that it is part of.
    """

    def __init__(
        self,
        network: Callable[[Tensor], tuple[Tensor, ...]],
        preprocess: Preprocess,
        dtype: torch.dtype,
        recorder: Recorder,
    ) -> None:
        self._network, self._preprocess, self._dtype, self._recorder = network, preprocess, dtype, recorder

    def __call__(self, image_rgb: RgbImage, key: Hashable = "image") -> tuple[Tensor, ...]:
        """What the network says about an RGB image (H, W, 3) uint8 of any size, a batch of one.

        :param key: what else that depends on.
        :raises ImageError: not such an image.
        """
        return self.fitted(self._preprocess.fitted(image_rgb)[None], key)

    def fitted(self, images: Tensor, key: Hashable = "image") -> tuple[Tensor, ...]:
        """The same of images ``(B, h, w, 3)`` uint8 on the host that somebody has fitted, whatever their size."""
        return self._recorder.run(key, self.batch, [images])

    @torch.inference_mode()
    def batch(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same of fitted images ``(B, h, w, 3)`` uint8 on the device, never recorded."""
        normal = self._preprocess.normalize(images.permute(0, 3, 1, 2))
        return self._network(normal.to(self._dtype, memory_format=torch.channels_last))
