"""Depth of training frames, where a drive has it: what eq. 2 needs, and no more than the grid's points of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.types import Array, CameraModel

__all__ = ["DepthSource", "depth_grids", "grid_pixels", "has_depth"]


@runtime_checkable
class DepthSource(Protocol):
    """An image source that also knows depth.

    ``depth`` gives (H, W) metres along the optical axis at the pixels of ``image(index)``; infinity is the sky, NaN
    or 0 unknown. The images must be free of distortion.
    """

    def depth(self, index: int) -> npt.NDArray[np.float32]: ...


def has_depth(sequences: Sequence[PosedSequence]) -> bool:
    """Whether every drive has depth."""
    return bool(sequences) and all(isinstance(s.source, DepthSource) for s in sequences)


def grid_pixels(camera: CameraModel, n: int = 10) -> Array:
    """(n * n, 2) pixel positions (column, row): the centres of n x n equal cells of the image, row by row."""
    u = (np.arange(n) + 0.5) * camera.width / n - 0.5
    v = (np.arange(n) + 0.5) * camera.height / n - 0.5
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


def depth_grids(sequences: Sequence[PosedSequence], grid: int) -> npt.NDArray[np.float32]:
    """Depths (N, grid * grid) of all frames of the drives in order, at the points of :func:`grid_pixels`.

    The points are the same shares of the image whatever its size, as long as it is squashed and not cropped.

    :raises DatasetError: no depth, or a distorted camera.
    """
    out = []
    for sequence in sequences:
        source = sequence.source
        if not isinstance(source, DepthSource):
            raise DatasetError(f"{sequence.name}: expected a drive with depth images, found none")
        if sequence.camera.is_distorted:
            raise DatasetError(f"{sequence.name}: expected depth of an undistorted camera; rectify it first")
        pixels = np.round(grid_pixels(sequence.camera, grid)).astype(np.int64)
        u, v = np.clip(pixels, 0, (sequence.camera.width - 1, sequence.camera.height - 1)).T
        out += [np.asarray(source.depth(i), dtype=np.float32)[v, u] for i in range(len(sequence))]
    return np.stack(out) if out else np.zeros((0, grid * grid), np.float32)
