"""Training frames: posed images in a memory-mapped cache, hold-outs, and random numbers keyed by what they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.settings import ranged
from vloc_ros.staging import staging_beside
from vloc_ros.types import Array, CameraModel
from vloc_train.training.disk import new_array

__all__ = [
    "DatabaseChoice",
    "FrameSet",
    "MappedImages",
    "cache_drives",
    "cache_frames",
    "join",
    "keyed_rng",
    "one_thread",
    "spaced",
]


def keyed_rng(*key: int) -> np.random.Generator:
    """A generator whose numbers depend on ``key`` alone, whatever process asks, and however often."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def one_thread(_worker: int) -> None:
    """Worker processes share the cores: one OpenCV thread each (torch sees to its own)."""
    cv2.setNumThreads(1)


class MappedImages:
    """Some rows of an (N, h, w, 3) uint8 file, read when asked for.

    A drive's images need not fit into memory, and a worker process receives the name of the file and not a copy of it.
    """

    def __init__(self, file: Path, rows: npt.NDArray[np.int64] | None = None) -> None:
        self._file = file
        self._array = np.load(file, mmap_mode="r")
        self._rows = np.arange(len(self._array)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return (len(self._rows), *self._array.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.asarray(self._array[self._rows[index]])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        return self[:]

    def __reduce__(self) -> tuple[type[MappedImages], tuple[Path, npt.NDArray[np.int64]]]:
        return MappedImages, (self._file, self._rows)

    def select(self, indices: npt.NDArray[np.int64]) -> MappedImages:
        """The images at these places among this object's rows."""
        return MappedImages(self._file, self._rows[indices])

    def followed_by(self, other: MappedImages) -> MappedImages | None:
        """This object's images and then another's, where both are of one file."""
        if self._file != other._file:
            return None
        return MappedImages(self._file, np.concatenate([self._rows, other._rows]))


@dataclass(frozen=True)
class FrameSet:
    """Preprocessed frames of one scene: ``images`` (N, h, w, 3) uint8, ``T_map_cam`` (N, 4, 4), their stamps."""

    images: npt.NDArray[np.uint8] | MappedImages
    T_map_cam: Array
    stamps_ns: npt.NDArray[np.int64]
    camera: CameraModel
    scene: str = "map"

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: npt.NDArray[np.int64]) -> FrameSet:
        """The frames with these numbers."""
        images = self.images
        images = images.select(indices) if isinstance(images, MappedImages) else images[indices]
        return FrameSet(images, self.T_map_cam[indices], self.stamps_ns[indices], self.camera, self.scene)


def join(sets: Sequence[FrameSet]) -> FrameSet:
    """The frames of several sets of one camera, in this order; images of one cache file stay in it.

    :param sets: at least one; scene and camera of the result are the first's.
    """
    images = sets[0].images
    for other in sets[1:]:
        both = None
        if isinstance(images, MappedImages) and isinstance(other.images, MappedImages):
            both = images.followed_by(other.images)
        images = both if both is not None else np.concatenate([np.asarray(images), np.asarray(other.images)])
    return FrameSet(
        images,
        np.concatenate([s.T_map_cam for s in sets]),
        np.concatenate([s.stamps_ns for s in sets]),
        sets[0].camera,
        sets[0].scene,
    )


def cache_frames(
    sequences: Sequence[PosedSequence], preprocess: Preprocess, folder: Path, scene: str = "map"
) -> FrameSet:
    """Decode, rectify and fit every frame once, into a memory-mapped file that a resumed run uses again.

    :param folder: where the cache lies; its name holds a digest of what was asked for.
    :raises DatasetError: no frames, or a non-finite pose.
    :raises TrainingError: the disk has no room for them.
    :raises CameraMismatchError: the drives were recorded with different cameras.
    """
    total = sum(len(s) for s in sequences)
    if total == 0:
        names = ", ".join(s.name for s in sequences) or "nothing"
        raise DatasetError(f"expected frames with images and reference poses to train on, found none in {names}")
    poses = np.concatenate([s.T_map_cam for s in sequences])
    stamps = np.concatenate([s.stamps_ns for s in sequences])
    if not np.isfinite(poses).all():
        bad = int(np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))[0])
        raise DatasetError(f"expected finite reference poses, found NaN at frame {bad}; drop frames without a pose")
    rectifiers = [Rectifier(sequence.camera) for sequence in sequences]
    camera = rectifiers[0].target
    for rectifier in rectifiers[1:]:
        preprocess.check(rectifier.target, camera)
    file = folder / f"frames-{_digest(sequences, preprocess, poses, stamps)}.npy"
    shape = (total, preprocess.height, preprocess.width, 3)
    if not file.exists():
        # Processes that start together each write their own and rename the same content.
        with staging_beside(file, folder=False) as staging:
            images = new_array(staging, np.uint8, shape)
            row = 0
            for sequence, rectifier in zip(sequences, rectifiers, strict=True):
                for _, image in sequence.frames():
                    images[row] = preprocess.apply_uint8(rectifier.rectify(image)[0])
                    row += 1
            images.flush()
            staging.rename(file)
    return FrameSet(MappedImages(file), poses, stamps, preprocess.camera(camera), scene)


def cache_drives(
    sequences: Sequence[PosedSequence], preprocess: Preprocess, folder: Path, scene: str = "map"
) -> list[FrameSet]:
    """As :func:`cache_frames`, each drive by itself; all lie in one file."""
    frames = cache_frames(sequences, preprocess, folder, scene)
    ends = np.cumsum([len(s) for s in sequences])
    return [frames.select(np.arange(end - len(s), end)) for s, end in zip(sequences, ends, strict=True)]


def _digest(
    sequences: Sequence[PosedSequence], preprocess: Preprocess, poses: Array, stamps: npt.NDArray[np.int64]
) -> str:
    """What a cache was made from: preprocessing, poses, stamps, cameras, and the first and last image of every drive.

    The images are in it because a drive that was rendered or recorded anew can have the poses of the old one.
    """
    digest = hashlib.sha256(poses.tobytes() + stamps.tobytes() + repr(preprocess).encode())
    for sequence in sequences:
        digest.update(repr((len(sequence), sequence.camera)).encode())
        for index in sorted({0, len(sequence) - 1}) if len(sequence) else ():
            digest.update(np.ascontiguousarray(sequence.image(index)).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class DatabaseChoice:
    """Which frames of a drive go into a map's database: all, or those that moved or turned enough since the last.

    :param spacing_m: 0 takes all frames.
    :param spacing_deg: a turn by this much is enough too; 0: only the way counts.
    """

    spacing_m: float = ranged(0.0, minimum=0.0)
    spacing_deg: float = ranged(0.0, minimum=0.0, maximum=180.0)


def spaced(T_map_cam: npt.NDArray[np.float64], choice: DatabaseChoice) -> npt.NDArray[np.int64]:
    """Numbers of the frames of a drive that moved or turned enough since the last one taken; the first is taken."""
    if choice.spacing_m == 0:
        return np.arange(len(T_map_cam))
    taken: list[int] = []
    for index, T in enumerate(T_map_cam):
        if taken:
            last = T_map_cam[taken[-1]]
            angle = np.degrees(np.arccos(np.clip((np.einsum("ij,ij->", T[:3, :3], last[:3, :3]) - 1) / 2, -1, 1)))
            moved = np.linalg.norm(T[:3, 3] - last[:3, 3]) >= choice.spacing_m
            if not moved and not (choice.spacing_deg and angle >= choice.spacing_deg):
                continue
        taken.append(index)
    return np.asarray(taken, dtype=np.int64)
