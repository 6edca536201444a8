"""One pass over a drive's images: how sharp, how bright, and a thumbnail of each; nothing else is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError, VlocError
from vloc_ros.staging import replacing
from vloc_ros.types import Array, RgbImage

__all__ = ["THUMBNAIL", "Measures", "figures_of", "measure"]

#: Width and height of the thumbnails.
THUMBNAIL = (32, 18)
#: Images are judged at this width at most: what is lost by it, preprocessing loses as well.
JUDGED_WIDTH = 416

_VERSION = 1
_DAMAGED = "image damaged, or of another size"
_BRIGHT = 250


@dataclass(frozen=True)
class Measures:
    """Of N frames: ``sharpness``, ``dark_grey`` (the grey level that nine tenths of the pixels are below),
    ``bright_share``, ``spread`` (standard deviation, grey levels), ``thumbnails`` (N, h, w) uint8, and ``damaged``:
    those that cannot be decoded or have another size than their camera.
    """

    sharpness: Array
    dark_grey: Array
    bright_share: Array
    spread: Array
    thumbnails: npt.NDArray[np.uint8]
    damaged: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sharpness)


def figures_of(image: RgbImage) -> tuple[float, float, float, float, npt.NDArray[np.uint8]]:
    """``(sharpness, dark_grey, bright_share, spread, thumbnail)`` of an (H, W, 3) uint8 image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > JUDGED_WIDTH:
        height = max(1, round(grey.shape[0] * JUDGED_WIDTH / grey.shape[1]))
        grey = cv2.resize(grey, (JUDGED_WIDTH, height), interpolation=cv2.INTER_AREA)
    variance = float(grey.astype(np.float32).var())
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var()) / max(variance, 1.0)
    small = cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA)
    return (
        sharpness,
        float(np.quantile(grey, 0.9)),
        float((grey >= _BRIGHT).mean()),
        variance**0.5,
        np.asarray(small, dtype=np.uint8),
    )


def measure(
    sequence: PosedSequence,
    folder: Path | None = None,
    problems: Problems | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measures:
    """Look at every image of a drive once; a second call finds the figures in ``folder``.

    :raises VlocError: an image that cannot be decoded or has another size, unless ``problems.keep_going``.
    """
    problems = problems or Problems()
    count = len(sequence)
    file = None if folder is None else folder / f"measures-{_digest(sequence)}.npz"
    if file is not None and file.exists():
        with np.load(file, allow_pickle=False) as stored:
            out = Measures(*(stored[name] for name in _FIELDS))
        if len(out) == count and (problems.keep_going or not out.damaged.any()):
            if out.damaged.any():
                number = int(out.damaged.sum())
                problems.skip(_DAMAGED, f"{sequence.name}: {number} of {count} images cannot be used", number)
            return out
    rows = np.zeros((4, count))
    thumbnails = np.zeros((count, THUMBNAIL[1], THUMBNAIL[0]), dtype=np.uint8)
    damaged = np.zeros(count, dtype=bool)
    for index, image in _images(sequence, problems):
        if image is None:
            damaged[index] = True
        else:
            *figures, thumbnails[index] = figures_of(image)
            rows[:, index] = figures
        if progress is not None:
            progress(index + 1, count)
    out = Measures(rows[0], rows[1], rows[2], rows[3], thumbnails, damaged)
    if file is not None:
        with replacing(file) as stream:
            np.savez(stream, **{name: getattr(out, name) for name in _FIELDS})
    return out


_FIELDS = ("sharpness", "dark_grey", "bright_share", "spread", "thumbnails", "damaged")


def _images(sequence: PosedSequence, problems: Problems) -> Iterator[tuple[int, RgbImage | None]]:
    """Every frame in order, None where it is damaged: a reader that broke off is started again behind the frame."""
    start = 0
    size = sequence.camera.size
    while start < len(sequence):
        rest = sequence if start == 0 else sequence.select(np.arange(start, len(sequence)))
        index = start
        try:
            for offset, image in rest.frames():
                index = start + offset
                if image.shape[1::-1] != size:
                    raise DatasetError(
                        f"{sequence.name}: image {index} (stamp {int(sequence.stamps_ns[index])} ns): expected "
                        f"{size[0]}x{size[1]} as the camera says, found {image.shape[1]}x{image.shape[0]}; "
                        "--keep-going leaves such images out"
                    )
                yield index, image
                index += 1
            if index < len(sequence):
                raise DatasetError(f"{sequence.name}: expected {len(sequence)} images, found {index}")
            return
        except VlocError as problem:
            if not problems.keep_going:
                raise
            problems.skip(_DAMAGED, str(problem))
        yield index, None
        start = index + 1


def _digest(sequence: PosedSequence) -> str:
    """Which drive this is: its stamps, its camera, its first and last image that can be decoded."""
    digest = hashlib.sha256(sequence.stamps_ns.tobytes() + repr((_VERSION, JUDGED_WIDTH, sequence.camera)).encode())
    for index in sorted({0, len(sequence) - 1}) if len(sequence) else ():
        try:
            digest.update(np.ascontiguousarray(sequence.image(index)).tobytes())
        except VlocError:
            digest.update(b"damaged")
    return digest.hexdigest()[:16]
