"""Local features of frames: found once, kept on disk, read back few at a time."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.cameras import unproject
from vloc_ros.types import Array, CameraModel, RgbImage
from vloc_train.mapping import colmap

__all__ = ["Detector", "FeatureStore", "Features", "make_detector"]

_log = logging.getLogger(__name__)
F32 = npt.NDArray[np.float32]
#: A grey image to pixels (K, 2), centres at integers, and descriptors (K, 128) of unit length.
Detector = Callable[[npt.NDArray[np.uint8]], tuple[F32, F32]]
#: RootSIFT components are below this, so that a byte holds them (as COLMAP stores them).
_BYTES = 512.0
#: Rays further off the axis than this have no place on a plane in front of the camera.
_STEEPEST = np.tan(np.radians(80.0))


@dataclass(frozen=True)
class Features:
    """What was found in one image.

    :ivar pixels: (K, 2) float32 in the image on disk. :ivar descriptors: (K, 128) uint8, 512 times RootSIFT.
    :ivar plane: (K, 2) x/z, y/z of their rays, free of distortion.
    """

    pixels: F32
    descriptors: npt.NDArray[np.uint8]
    plane: Array

    def __len__(self) -> int:
        return len(self.pixels)


def make_detector(kind: Literal["auto", "colmap", "opencv"], limit: int, peak: float) -> Detector:
    """SIFT on the CPU; ``auto`` is COLMAP's where pycolmap is installed.

    :param limit: features at most. :param peak: contrast that a feature needs, for images in [0, 1] (COLMAP's scale).
    :raises ConfigError: COLMAP's is asked for and not there.
    """
    if kind != "opencv":
        try:
            found: Detector = colmap.sift(limit, peak)
            return found
        except ConfigError as problem:
            if kind == "colmap":
                raise
            _log.info("%s; OpenCV's SIFT takes its place", problem)
    return _opencv(limit, peak)


def _opencv(limit: int, peak: float) -> Detector:
    # OpenCV divides its threshold by the layers of an octave, and means images in [0, 1], too.
    create: Any = cv2.SIFT_create  # type: ignore[attr-defined, unused-ignore]
    settings = {"nfeatures": limit, "contrastThreshold": 3 * peak}
    shift = 0.0
    try:
        sift = create(**settings, enable_precise_upscale=True)
    except (TypeError, cv2.error):  # before 4.8 doubling the image moved everything by a quarter of a pixel
        sift, shift = create(**settings), 0.25

    def detect(grey: npt.NDArray[np.uint8]) -> tuple[F32, F32]:
        points, descriptors = sift.detectAndCompute(grey, None)
        if descriptors is None or not len(points):
            return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
        pixels = np.array([p.pt for p in points], dtype=np.float32)[:limit] - np.float32(shift)
        total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
        root = np.sqrt(np.maximum(descriptors, 0) / total)[:limit]
        return pixels, np.asarray(root, dtype=np.float32)

    return detect


class FeatureStore:
    """Features of frames as files in a folder; the last few stay in memory.

    :param cameras: of each frame, in the order of the frames.
    """

    def __init__(self, folder: Path, cameras: tuple[CameraModel, ...], held: int = 64) -> None:
        self.folder, self.cameras = folder, cameras
        self.read = functools.lru_cache(maxsize=held)(self._read)

    def _file(self, frame: int) -> Path:
        return self.folder / f"{frame:07d}.npz"

    def has(self, frame: int) -> bool:
        """Whether a frame's features lie there."""
        return self._file(frame).exists()

    def add(self, frame: int, image: RgbImage, detect: Detector) -> None:
        """Find and keep the features of a frame."""
        pixels, descriptors = detect(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8))
        rays = unproject(self.cameras[frame], pixels)
        # Where the lens has no ray, or one that a plane cannot hold, a feature is no use.
        usable = np.nan_to_num(np.abs(rays[:, :2]), nan=np.inf).max(axis=1, initial=0.0) < _STEEPEST
        # Of a feature with several orientations one is enough: the others would be the same point again.
        first = np.zeros(len(pixels), dtype=bool)
        first[np.unique(pixels, axis=0, return_index=True)[1]] = True
        usable &= first
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._file(frame).with_suffix(f".partial-{os.getpid()}.npz")
        stored = np.clip(np.round(descriptors * _BYTES), 0, 255).astype(np.uint8)
        np.savez(partial, pixels=pixels[usable], descriptors=stored[usable])
        partial.replace(self._file(frame))

    def pixels(self, frame: int) -> F32:
        """(K, 2) without the descriptors."""
        with np.load(self._file(frame), allow_pickle=False) as file:
            return np.asarray(file["pixels"], dtype=np.float32)

    def plane(self, frame: int) -> Array:
        """(K, 2) x/z, y/z of the features' rays."""
        return np.asarray(unproject(self.cameras[frame], self.pixels(frame))[:, :2])

    def _read(self, frame: int) -> Features:
        with np.load(self._file(frame), allow_pickle=False) as file:
            pixels = np.asarray(file["pixels"], dtype=np.float32)
            descriptors = np.asarray(file["descriptors"], dtype=np.uint8)
        return Features(pixels, descriptors, np.asarray(unproject(self.cameras[frame], pixels)[:, :2]))
