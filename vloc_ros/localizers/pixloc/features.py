"""Feature pyramids of images, and the features at a reference's observations: the same for maps and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.geometry.cameras import resized
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.store import LevelFeatures
from vloc_ros.types import CameraModel

__all__ = [
    "PyramidLevel",
    "PyramidScale",
    "extract_pyramid",
    "level_cameras",
    "pyramid_cells",
    "pyramid_of",
    "sample_observations",
    "scaled_size",
]


@dataclass(frozen=True)
class PyramidLevel:
    """Features and confidence of images at one scale and stride: pixel u of them lies at (u + 0.5) / stride - 0.5."""

    field: GridField
    stride: int

    @property
    def confidence(self) -> Tensor:
        """(B, h, w) in [0, 1]."""
        return self.field.ringed[:, 1:-1, 1:-1, -1]


@dataclass(frozen=True)
class PyramidScale:
    """What the network says about images at one scale: their size there, and the levels, coarse to fine."""

    width: int
    height: int
    levels: tuple[PyramidLevel, ...]

    def of_image(self, number: int) -> PyramidScale:
        """One image of the batch; nothing is copied."""
        part = slice(number, number + 1)
        levels = (replace(x, field=GridField.of_ringed(x.field.ringed[part])) for x in self.levels)
        return replace(self, levels=tuple(levels))


def scaled_size(height: int, width: int, scale: float, stride: int) -> tuple[int, int]:
    """(height, width) of an image at a scale; smaller ones are multiples of the coarsest stride.

    A network's maps leave out what is beyond the last whole cell. The axes may scale a little differently, which the
    cameras of the levels know.
    """
    if scale == 1.0:
        return height, width
    rows, columns = (max(stride, round(size * scale / stride) * stride) for size in (height, width))
    return rows, columns


def extract_pyramid(network: FeatureNet, images: Tensor, scales: Sequence[float]) -> list[PyramidScale]:
    """Features at every scale (Section 4, "Initialization"), low to high.

    :param images: (B, 3, H, W) normalised, float32; the network reads them in its own precision.
    """
    cells = pyramid_cells(network, images, scales)
    return pyramid_of(cells, images.shape[-2], images.shape[-1], scales, network.settings.strides)


def pyramid_cells(network: FeatureNet, images: Tensor, scales: Sequence[float]) -> tuple[Tensor, ...]:
    """:func:`extract_pyramid` as tensors alone: the cells (:attr:`~.field.GridField.ringed`) of every level of every
    scale. What a recorder may record."""
    height, width = images.shape[-2:]
    dtype = next(network.parameters()).dtype
    out = []
    for scale in scales:
        size = scaled_size(height, width, scale, network.settings.strides[-1])
        scaled = images
        if size != (height, width):
            scaled = functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
            if not images.is_contiguous():
                scaled = scaled.contiguous(memory_format=torch.channels_last)
        out += [GridField(level.features, level.confidence).ringed for level in network(scaled.to(dtype))]
    return tuple(out)


def pyramid_of(
    cells: Sequence[Tensor], height: int, width: int, scales: Sequence[float], strides: Sequence[int]
) -> list[PyramidScale]:
    """What :func:`pyramid_cells` says about images of ``width`` x ``height``.

    :param strides: of the network, fine to coarse, as its settings have them.
    """
    out = []
    for number, scale in enumerate(scales):
        rows, columns = scaled_size(height, width, scale, strides[-1])
        mine = cells[number * len(strides) :]
        levels = [PyramidLevel(GridField.of_ringed(x), s) for x, s in zip(mine, reversed(strides), strict=False)]
        out.append(PyramidScale(columns, rows, tuple(levels)))
    return out


def level_cameras(
    camera: CameraModel, scale: PyramidScale, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[TorchCamera]:
    """The camera of every level of a scale.

    :param camera: of the whole image that the pyramid was made of.
    """
    small = TorchCamera.from_model(resized(camera, scale.width, scale.height), device, dtype)
    return [small.scaled(float(level.stride)) for level in scale.levels]


def sample_observations(
    pyramid: Sequence[PyramidScale], pixels: np.ndarray, width: int, height: int
) -> list[list[LevelFeatures]]:
    """Features at observations, for each scale and level; rows as ``pixels``.

    Within half a cell of the image's edge, where a coarse map has no centre further out, the edge's features stand.

    :param pyramid: of one image.
    :param pixels: (n, 2) in the image of ``width`` x ``height`` that the pyramid was made of, centres at integers.
    """
    out = []
    for scale in pyramid:
        levels = []
        for level in scale.levels:
            h, w = level.field.shape[2:]
            ratio = np.array([scale.width / width, scale.height / height]) / level.stride
            uv = np.clip((np.asarray(pixels, dtype=np.float64) + 0.5) * ratio - 0.5, 0.0, [w - 1.0, h - 1.0])
            where = torch.from_numpy(uv).to(level.field.rows.device, torch.float32)[None]
            found = level.field.sample(where, gradients=False)
            assert found.confidence is not None
            levels.append(LevelFeatures(found.values[0], found.confidence[0]))
        out.append(levels)
    return out
