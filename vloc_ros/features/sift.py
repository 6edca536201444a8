"""RootSIFT by OpenCV: no weights, every processor, and still hard to beat where images are alike in light."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np

from vloc_ros.features.base import FeatureExtractor, FeatureSettings, LocalFeatures, encode_descriptors
from vloc_ros.types import RgbImage

__all__ = ["SiftExtractor"]


class SiftExtractor(FeatureExtractor):
    """SIFT (Lowe, IJCV 2004), compared as RootSIFT (Arandjelovic and Zisserman, CVPR 2012).

    Of a feature with several orientations the strongest is kept: the others are the same place again.
    """

    dimension: ClassVar[int] = 128
    signed: ClassVar[bool] = False
    scaled: ClassVar[bool] = True

    def __init__(self, settings: FeatureSettings) -> None:
        super().__init__(settings)
        self._shift = 0.0
        self._made: dict[int, Any] = {}

    @property
    def identity(self) -> str:
        return "rootsift-128"

    def _sift(self, limit: int) -> Any:
        if limit not in self._made:
            create: Any = cv2.SIFT_create  # type: ignore[attr-defined, unused-ignore]
            # OpenCV divides its threshold by the three layers of an octave. It is asked for more than the limit:
            # repeated orientations fall away afterwards.
            settings = {"nfeatures": limit + limit // 4, "contrastThreshold": 3.0 * self.settings.peak}
            try:
                self._made[limit] = create(**settings, enable_precise_upscale=True)
            except (TypeError, cv2.error):  # before 4.8 its doubling of the image moved everything by a quarter pixel
                self._made[limit], self._shift = create(**settings), 0.25
        return self._made[limit]

    def _extract(self, image_rgb: RgbImage, limit: int, factor: int) -> LocalFeatures:
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        if factor > 1:
            size = (grey.shape[1] * factor, grey.shape[0] * factor)
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
        found, descriptors = self._sift(limit).detectAndCompute(grey, None)
        if descriptors is None or not len(found):
            return LocalFeatures.none(self.dimension, self.signed)
        table = np.array([(*p.pt, p.size, p.response) for p in found], dtype=np.float32)
        order = np.argsort(-table[:, 3], kind="stable")
        table = table[order]
        first = np.zeros(len(table), dtype=bool)
        first[np.unique(table[:, :3], axis=0, return_index=True)[1]] = True
        table, rows = table[first], order[first]
        root = np.sqrt(np.maximum(descriptors[rows], 0.0))
        root /= np.maximum(np.linalg.norm(root, axis=1, keepdims=True), 1e-9)
        pixels = (table[:, :2] - self._shift + 0.5) / factor - 0.5
        return LocalFeatures(
            pixels.astype(np.float32),
            encode_descriptors(root, self.signed),
            table[:, 2] / np.float32(factor),
            table[:, 3],
        )
