"""One posed sequence to one bag, on the topics that all of the package uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from vloc_ros.convert.writer import BagWriter, Storage
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import ConfigError
from vloc_ros.types import Array, RgbImage

__all__ = [
    "BASE_FRAME",
    "CAMERA_FRAME",
    "IMAGE_TOPIC",
    "ODOM_FRAME",
    "TRUTH_TOPIC",
    "ImageFormat",
    "encode",
    "noisy_odometry",
    "write_frame",
    "write_sequence",
]

ImageFormat = Literal["raw", "png", "jpeg"]
IMAGE_TOPIC = "/camera/image"
COMPRESSED_TOPIC = "/camera/image/compressed"
INFO_TOPIC = "/camera/camera_info"
ODOMETRY_TOPIC = "/odometry"
TRUTH_TOPIC = "/reference/pose"
MAP_FRAME, ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = "map", "odom", "base_link", "camera_optical_frame"


def encode(image: RgbImage, image_format: ImageFormat, quality: int = 95) -> tuple[bytes, str]:
    """``(bytes, CompressedImage.format)`` as image_transport's compressed plugin writes it."""
    suffix = ".png" if image_format == "png" else ".jpg"
    settings = [] if image_format == "png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), settings)
    if not done:
        raise ConfigError(f"image format {image_format}: OpenCV was built without it; use raw")
    return data.tobytes(), f"bgr8; {image_format} compressed bgr8"


def write_frame(
    bag: BagWriter,
    stamp_ns: int,
    image: RgbImage | tuple[bytes, str],
    sequence: PosedSequence,
    T_map_base: Array,
    T_odom_base: Array | None,
) -> None:
    """Everything of one frame. An image may be pixels, or encoded bytes with their format string."""
    # What describes the image goes first, so that a player delivers it first.
    if T_odom_base is not None and np.isfinite(T_odom_base).all():
        bag.transforms("/tf", stamp_ns, [(ODOM_FRAME, BASE_FRAME, stamp_ns, T_odom_base)])
        bag.odometry(ODOMETRY_TOPIC, stamp_ns, ODOM_FRAME, BASE_FRAME, T_odom_base)
    bag.pose(TRUTH_TOPIC, stamp_ns, MAP_FRAME, T_map_base)
    bag.camera_info(INFO_TOPIC, stamp_ns, CAMERA_FRAME, sequence.camera)
    if isinstance(image, tuple):
        bag.compressed_image(COMPRESSED_TOPIC, stamp_ns, CAMERA_FRAME, *image)
    else:
        bag.image(IMAGE_TOPIC, stamp_ns, CAMERA_FRAME, image)


def write_sequence(
    sequence: PosedSequence,
    out: str | Path,
    *,
    image_format: ImageFormat | None = None,
    storage: Storage = "mcap",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a drive as a bag; ``image_format`` None keeps image files as they are (else: raw pixels).

    :raises BagError: the output exists. :raises DatasetError: an image cannot be read.
    """
    source = sequence.source
    T_map_base = sequence.T_map_base
    with BagWriter(out, storage, overwrite) as bag:
        for index in range(len(sequence)):
            stamp = int(sequence.stamps_ns[index])
            if index == 0:
                bag.transforms("/tf_static", stamp, [(BASE_FRAME, CAMERA_FRAME, stamp, sequence.T_base_cam)])
            image: RgbImage | tuple[bytes, str]
            if image_format is None and isinstance(source, FolderImages):
                image = source.encoded(index)
            else:
                image = sequence.image(index)
                if image_format in ("png", "jpeg"):
                    image = encode(image, image_format)
            odometry = None if sequence.T_odom_base is None else sequence.T_odom_base[index]
            write_frame(bag, stamp, image, sequence, T_map_base[index], odometry)
            if progress:
                progress(index + 1, len(sequence))
    return Path(out)


def noisy_odometry(T_map_base: Array, translation: float, rotation_rad_m: float, seed: int) -> Array:
    """Drifting odometry (N, 4, 4) made from true poses: each step is measured with noise, and the errors add up.

    :param translation: standard deviation of a step's translation, as a share of its length.
    :param rotation_rad_m: standard deviation of the heading's drift after one metre, growing with the square
        root of the distance, as a random walk does.
    """
    from vloc_ros.geometry.se3 import se3_exp

    random = np.random.default_rng(seed)
    T = np.broadcast_to(np.eye(4), T_map_base.shape).copy()
    for index in range(1, len(T)):
        step = np.linalg.inv(T_map_base[index - 1]) @ T_map_base[index]
        length = float(np.linalg.norm(step[:3, 3]))
        noise = np.zeros(6)
        noise[:3] = random.normal(size=3) * translation * length
        noise[5] = random.normal() * rotation_rad_m * np.sqrt(length)
        T[index] = T[index - 1] @ step @ se3_exp(noise)
    return T
