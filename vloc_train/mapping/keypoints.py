"""Local features of frames: found once, kept on disk, read back few at a time."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import FeatureSettings, LocalFeatures, encode_descriptors
from vloc_ros.features.sift import SiftExtractor
from vloc_ros.geometry.cameras import unproject
from vloc_ros.localizers.device import select_device
from vloc_ros.staging import replacing
from vloc_ros.types import Array, CameraModel, RgbImage
from vloc_train.mapping import colmap

__all__ = ["Detector", "FarDetector", "FeatureStore", "Features", "found_in", "make_detector"]

_log = logging.getLogger(__name__)
F32 = npt.NDArray[np.float32]
#: An RGB image to its features.
Detector = Callable[[RgbImage], LocalFeatures]
#: Bytes of features that stay in memory: 800 frames of 2,048.
_ROOM = 256 << 20
#: Rays further off the axis than this have no place on a plane in front of the camera.
_STEEPEST = np.tan(np.radians(80.0))


@dataclass(frozen=True)
class Features:
    """What was found in one image.

    :ivar pixels: (K, 2) float32 in the image on disk. :ivar descriptors: (K, D) as
        :func:`~vloc_ros.features.base.encode_descriptors` makes them. :ivar sizes: (K,) float32, pixels.
    :ivar plane: (K, 2) x/z, y/z of their rays, free of distortion.
    """

    pixels: F32
    descriptors: npt.NDArray[Any]
    sizes: F32
    plane: Array

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size_bytes(self) -> int:
        """In memory."""
        return self.pixels.nbytes + self.descriptors.nbytes + self.sizes.nbytes + self.plane.nbytes


@dataclass(frozen=True)
class FarDetector:
    """A detector that travels: what it is made of, and nothing that was made.

    :param extractor: the features, or SIFT ``kind``, ``limit``, ``peak`` as :func:`make_detector` takes them.
    :param on_gpu: whether a network may compute on a GPU, where there is one.
    """

    extractor: FeatureSettings | None
    sift: tuple[Literal["auto", "colmap", "opencv"], int, float] = ("auto", 0, 0.0)
    on_gpu: bool = False

    def __call__(self, image: RgbImage) -> LocalFeatures:
        return _made(self)(image)


@functools.lru_cache(maxsize=2)
def _made(far: FarDetector) -> Detector:
    if far.extractor is None:
        return make_detector(*far.sift)
    return make_extractor(far.extractor, select_device("auto" if far.on_gpu else "cpu")).extract


def found_in(piece: tuple[Detector, CameraModel, RgbImage]) -> LocalFeatures:
    """The features of an image that structure can be made of: every place once, and where the lens has a ray."""
    detect, camera, image = piece
    found = detect(image)
    rays = unproject(camera, found.pixels)
    # Where the lens has no ray, or one that a plane cannot hold, a feature is no use.
    usable = np.nan_to_num(np.abs(rays[:, :2]), nan=np.inf).max(axis=1, initial=0.0) < _STEEPEST
    # Of a feature with several orientations one is enough: the others would be the same point again.
    first = np.zeros(len(found), dtype=bool)
    first[np.unique(found.pixels, axis=0, return_index=True)[1]] = True
    return found.select(usable & first)


def make_detector(kind: Literal["auto", "colmap", "opencv"], limit: int, peak: float) -> Detector:
    """SIFT on the CPU; ``auto`` is COLMAP's where pycolmap is installed.

    :param limit: features at most. :param peak: contrast that a feature needs, for images in [0, 1] (COLMAP's scale).
    :raises ConfigError: COLMAP's is asked for and not there.
    """
    if kind != "opencv":
        try:
            return _colmap(limit, peak)
        except ConfigError as problem:
            if kind == "colmap":
                raise
            _log.info("%s; OpenCV's SIFT takes its place", problem)
    return SiftExtractor(FeatureSettings(limit=limit, peak=peak)).extract


def _colmap(limit: int, peak: float) -> Detector:
    found = colmap.sift(limit, peak)

    def detect(image: RgbImage) -> LocalFeatures:
        pixels, descriptors = found(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        ones = np.ones(len(pixels), dtype=np.float32)  # which it orders by, and how large they are, it does not tell
        return LocalFeatures(pixels, encode_descriptors(descriptors, signed=False), ones, ones)

    return detect


class FeatureStore:
    """Features of frames as files in a folder; those asked for last stay in memory, as many as have room.

    :param cameras: of each frame, in the order of the frames. :param room: bytes.
    """

    def __init__(self, folder: Path, cameras: tuple[CameraModel, ...], room: int = _ROOM) -> None:
        self.folder, self.cameras = folder, cameras
        self._room, self._used = room, 0
        self._held: OrderedDict[int, Features] = OrderedDict()

    def _file(self, frame: int) -> Path:
        return self.folder / f"{frame:07d}.npz"

    def has(self, frame: int) -> bool:
        """Whether a frame's features lie there."""
        return self._file(frame).exists()

    def put(self, frame: int, kept: LocalFeatures) -> None:
        """Keep the features of a frame."""
        with replacing(self._file(frame), clean=False) as stream:
            np.savez(stream, pixels=kept.pixels, descriptors=kept.descriptors, sizes=kept.sizes)

    def pixels(self, frame: int) -> F32:
        """(K, 2) without the descriptors."""
        if frame in self._held:
            return self._held[frame].pixels
        with np.load(self._file(frame), allow_pickle=False) as file:
            return np.asarray(file["pixels"], dtype=np.float32)

    def plane(self, frame: int) -> Array:
        """(K, 2) x/z, y/z of the features' rays."""
        if frame in self._held:
            return self._held[frame].plane
        return np.asarray(unproject(self.cameras[frame], self.pixels(frame))[:, :2])

    def read(self, frame: int) -> Features:
        """All of a frame. Every stage asks for them anew, and opening a file takes longer than what is done with it."""
        if frame in self._held:
            self._held.move_to_end(frame)
            return self._held[frame]
        found = self._read(frame)
        self._held[frame] = found
        self._used += found.size_bytes
        while self._used > self._room and len(self._held) > 1:
            self._used -= self._held.popitem(last=False)[1].size_bytes
        return found

    def _read(self, frame: int) -> Features:
        with np.load(self._file(frame), allow_pickle=False) as file:
            pixels, sizes = (np.asarray(file[name], dtype=np.float32) for name in ("pixels", "sizes"))
            descriptors = file["descriptors"]
        return Features(pixels, descriptors, sizes, np.asarray(unproject(self.cameras[frame], pixels)[:, :2]))
