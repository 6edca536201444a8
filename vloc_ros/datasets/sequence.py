"""What every data set looks like to the rest of the package: images with poses, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.images.reduction import reduced_camera, reduced_image
from vloc_ros.types import FARTHEST_M, Array, CameraModel, RgbImage

__all__ = ["R_BODY_OPTICAL", "T_BODY_OPTICAL", "GnssTrack", "ImageSource", "PosedSequence", "encoded_image"]

#: Optical axes (x right, y down, z forward) seen from a body (x forward, y left, z up), REP-103.
R_BODY_OPTICAL: Array = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
T_BODY_OPTICAL: Array = np.block([[R_BODY_OPTICAL, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


class ImageSource(Protocol):
    """Where a sequence's images come from: any image by number, or all of them in order."""

    def image(self, index: int) -> RgbImage: ...

    def frames(self) -> Iterator[tuple[int, RgbImage]]: ...


def encoded_image(source: ImageSource, index: int) -> tuple[bytes, str] | None:
    """Image ``index`` as it is stored, and ``png``, ``jpeg`` or a transport's format; None: pixels alone are to be had.

    A source whose images are files as the camera made them has a method ``encoded``.
    """
    stored = getattr(source, "encoded", None)
    found: tuple[bytes, str] | None = None if stored is None else stored(index)
    return found


@dataclass(frozen=True)
class GnssTrack:
    """Positions of a receiver: ``stamps_ns`` (K,) int64, WGS-84 degrees and ellipsoidal metres (K,) each.

    ``variance_m2`` (K, 3) is that of east, north, up, or None where the receiver says nothing. ``frame_id`` names the
    antenna in the sequence's ``rig``.
    """

    stamps_ns: npt.NDArray[np.int64]
    latitude_deg: Array
    longitude_deg: Array
    altitude_m: Array
    variance_m2: Array | None = None
    frame_id: str = "gnss"


@dataclass(frozen=True)
class PosedSequence:
    """One drive: N images with the camera's pose for each, in a right-handed, z-up map frame.

    ``stamps_ns`` is (N,) int64, strictly increasing; ``T_map_cam`` (N, 4, 4) maps points of the optical camera
    frame into ``frame_id``; ``T_base_cam`` is the mounting of the camera; ``T_odom_base`` (N, 4, 4) is drifting
    odometry, NaN-filled where a frame has none, or None. Images are read on demand from ``source``.

    ``origin_m`` is where the map's origin lies in the coordinates of the data set's own files, where a reader has
    subtracted it from large ones; axes are the same.

    Where a data set knows more: ``datum`` is the place of the map frame on the Earth, ``gnss`` what a receiver said,
    ``rig`` the mounting ``T_base_sensor`` of the other sensors by their frames' names, and ``dropped`` what the reader
    left out, by kind. ``T_world_map`` (4, 4) goes from the map to the data set's own world, where the reader has turned
    or moved that; benchmarks want poses in it.
    """

    name: str
    stamps_ns: npt.NDArray[np.int64]
    T_map_cam: Array
    T_base_cam: Array
    camera: CameraModel
    source: ImageSource
    T_odom_base: Array | None = None
    frame_id: str = "map"
    datum: Datum | None = None
    gnss: GnssTrack | None = None
    rig: Mapping[str, Array] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    T_world_map: Array | None = None
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        n = len(self.stamps_ns)
        if self.T_map_cam.shape != (n, 4, 4):
            raise DatasetError(f"{self.name}: expected {n} poses for {n} stamps, found {self.T_map_cam.shape}")
        if bool((np.abs(self.T_map_cam[:, :3, 3]) > FARTHEST_M).any()):
            raise DatasetError(f"{self.name}: expected positions within {FARTHEST_M:g} m, found one further away")
        if n and bool((np.diff(self.stamps_ns) <= 0).any()):
            first = int(np.flatnonzero(np.diff(self.stamps_ns) <= 0)[0]) + 1
            raise DatasetError(
                f"{self.name}: expected increasing stamps, found frame {first} not after frame {first - 1}"
            )

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def T_map_base(self) -> Array:
        """The base's poses, (N, 4, 4)."""
        out: Array = self.T_map_cam @ np.linalg.inv(self.T_base_cam)
        return out

    def image(self, index: int) -> RgbImage:
        """Image ``index`` as (H, W, 3) uint8 RGB; random access, slower than :meth:`frames` on a bag."""
        return self.source.image(index)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        """All ``(index, image)`` in order, in one pass over the source."""
        return self.source.frames()

    def reduced(self, side: int) -> PosedSequence:
        """The same drive with images whose longer side has at most so many pixels, and their camera; 0: as it is."""
        camera = reduced_camera(self.camera, side)
        return self if camera == self.camera else replace(self, camera=camera, source=_Reduced(self.source, camera))

    def select(self, indices: npt.NDArray[np.int64]) -> PosedSequence:
        """The same drive with only some frames, in the order given (which must be increasing)."""
        indices = np.asarray(indices, dtype=np.int64)
        part: ImageSource
        if hasattr(self.source, "select"):  # one that reads a selection in one pass
            part = self.source.select(indices)
        else:
            part = (_DepthSubset if hasattr(self.source, "depth") else _Subset)(self.source, indices)
        return replace(
            self,
            stamps_ns=self.stamps_ns[indices],
            T_map_cam=self.T_map_cam[indices],
            source=part,
            T_odom_base=None if self.T_odom_base is None else self.T_odom_base[indices],
        )


@dataclass(frozen=True)
class _Reduced:
    source: ImageSource
    camera: CameraModel

    def select(self, indices: npt.NDArray[np.int64]) -> _Reduced:
        chosen = getattr(self.source, "select", None)
        return _Reduced(_Subset(self.source, indices) if chosen is None else chosen(indices), self.camera)

    def image(self, index: int) -> RgbImage:
        return reduced_image(self.source.image(index), self.camera)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index, image in self.source.frames():
            yield index, reduced_image(image, self.camera)


@dataclass(frozen=True)
class _Subset:
    source: ImageSource
    indices: npt.NDArray[np.int64]

    def encoded(self, index: int) -> tuple[bytes, str] | None:
        return encoded_image(self.source, int(self.indices[index]))

    def image(self, index: int) -> RgbImage:
        return self.source.image(int(self.indices[index]))

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.indices)):
            yield index, self.image(index)


@dataclass(frozen=True)
class _DepthSubset(_Subset):
    """Of a source that knows depth, which its frames then do, too."""

    def depth(self, index: int) -> npt.NDArray[np.float32]:
        out: npt.NDArray[np.float32] = self.source.depth(int(self.indices[index]))  # type: ignore[attr-defined]
        return out
