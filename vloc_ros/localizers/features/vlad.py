"""An image descriptor made of the local features that are found anyway: VLAD, with nothing trained elsewhere.

VLAD (Jegou et al., CVPR 2010) with intra-normalisation and signed square root (Arandjelovic and Zisserman, CVPR 2013;
Delhumeau et al. 2013), centred on the map's own images and projected onto their principal axes. Vocabulary and
axes come from the map's images, so that no weights are needed, and none travel from another place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.features.base import Bytes, decode_descriptors
from vloc_ros.maps.tensors import expect

__all__ = ["VLAD_FILE", "Vlad", "fit_vlad"]

VLAD_FILE = "vlad.safetensors"


@dataclass(frozen=True)
class Vlad:
    """Local descriptors to one unit vector.

    :ivar centres: (K, D) words, unit vectors. :ivar mean: (K D,) of the map's images.
    :ivar axes: (n, K D) float16, orthonormal rows.
    """

    centres: Tensor
    mean: Tensor
    axes: Tensor

    @property
    def dimension(self) -> int:
        """n, the length of the result."""
        return len(self.axes)

    @property
    def identity(self) -> str:
        """SHA-256 of all of it: two maps' descriptors compare if and only if it is the same."""
        digest = hashlib.sha256(b"vlad-1")
        for tensor in (self.centres, self.mean, self.axes):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """For a map, under :data:`VLAD_FILE`."""
        return {"centres": self.centres.cpu(), "mean": self.mean.cpu(), "axes": self.axes.cpu()}

    @classmethod
    def from_tensors(cls, stored: Mapping[str, Tensor], device: torch.device, where: str) -> Vlad:
        """What :meth:`tensors` gave. :raises MapTensorError: shapes or types that do not agree."""
        centres = expect(stored, "centres", (None, None), torch.float32, where)
        length = centres.shape[0] * centres.shape[1]
        mean = expect(stored, "mean", (length,), torch.float32, where)
        axes = expect(stored, "axes", (None, length), torch.float16, where)
        return cls(centres.to(device), mean.to(device), axes.to(device))

    def describe(self, unit: Tensor) -> Tensor:
        """(N, D) unit descriptors of an image, on the device, to (n,); zero for none."""
        if not len(unit):
            return torch.zeros(self.dimension, device=self.mean.device)
        vector = functional.normalize(aggregate(unit, self.centres) - self.mean, dim=0)
        return functional.normalize(self.axes.to(vector.dtype) @ vector, dim=0)


def aggregate(unit: Tensor, centres: Tensor) -> Tensor:
    """Residuals (N, D) to their words, summed by word, each word and the whole of unit length: (K D,)."""
    word = (unit @ centres.T).argmax(dim=1)
    sums = torch.zeros_like(centres).index_add_(0, word, unit - centres[word])
    vector = functional.normalize(sums, dim=1).flatten()
    return functional.normalize(vector.sign() * vector.abs().sqrt(), dim=0)


def fit_vlad(
    read: Callable[[int], Bytes],
    images: int,
    words: int = 64,
    dimension: int = 512,
    sample: int = 60_000,
    seed: int = 0,
) -> Vlad:
    """Vocabulary and axes from a map's own images.

    :param read: the stored local descriptors (N, D) of an image by number.
    :param images: how many there are; at most 2048 of them, evenly spaced, are used.
    :param words: K. :param dimension: n at most. :param sample: local descriptors that words are made of.
    """
    rng = np.random.default_rng(seed)
    chosen = np.unique(np.linspace(0, images - 1, min(images, 2048)).astype(np.int64))
    share = max(sample // len(chosen), 1)
    parts = []
    for image in chosen:
        found = read(int(image))
        parts.append(found[np.sort(rng.permutation(len(found))[:share])])
    unit = decode_descriptors(np.concatenate(parts))
    centres = _words(unit, words, rng)
    vectors = torch.stack([aggregate(decode_descriptors(read(int(i))), centres) for i in chosen])
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    # Axes of few long vectors by their small Gram matrix.
    values, small = torch.linalg.eigh((centred @ centred.T).double())
    keep = torch.nonzero(values > 1e-9 * values.max().clamp_min(1e-12))[:, 0].flip(0)[:dimension]
    if not len(keep):  # one image, or all alike
        axes = torch.eye(1, vectors.shape[1])
    else:
        axes = ((small[:, keep] / values[keep].sqrt()).T @ centred.double()).float()
    return Vlad(centres, mean, axes.half())


def _words(unit: Tensor, words: int, rng: np.random.Generator, rounds: int = 12) -> Tensor:
    """Spherical k-means; at most a word for every four descriptors."""
    count = max(min(words, len(unit) // 4), 1)
    if not len(unit):
        return functional.normalize(torch.ones(1, unit.shape[1]), dim=1)
    centres = unit[torch.from_numpy(np.sort(rng.choice(len(unit), count, replace=False)))].clone()
    for _ in range(rounds):
        parts = torch.split(unit, 16384)
        word = torch.cat([(part @ centres.T).argmax(dim=1) for part in parts])
        sums = torch.zeros_like(centres).index_add_(0, word, unit)
        taken = torch.bincount(word, minlength=count) > 0
        centres = torch.where(taken[:, None], functional.normalize(sums, dim=1), centres)
    return centres
