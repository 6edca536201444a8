"""Structure from motion: its settings, and the frames that it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel, check_transform
from vloc_train.training.frames import DatabaseChoice, spaced

__all__ = ["Frames", "Progress", "SfmSettings", "chosen_frames", "digest_of", "shown_progress"]

Ints = npt.NDArray[np.int64]
#: Called with (stage, done, total).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SfmSettings:
    """How points are made of posed images. All our choice; the paper takes models that others made.

    :param detector: SIFT of COLMAP, of OpenCV, or ``auto``: COLMAP's where pycolmap is installed.
    :param features: of a frame at most.
    :param peak: contrast that a feature needs.
    :param maximum_side: larger images are reduced until their longer side has so many pixels; 0: never. A map of local
        features has a setting of its own for that.
    :param spacing_m: a frame is used when it moved this far since the last one used; 0 uses all. Frames of a standing
        vehicle, and poses that repeat, fall away by this.
    :param spacing_deg: or when it turned by this much.
    :param neighbours: frames that each frame is matched with.
    :param reach_m: farthest neighbour.
    :param reach_deg: largest difference of viewing direction.
    :param baseline_m: nearest neighbour; closer ones have no parallax.
    :param ratio: of the distances to the nearest and second nearest descriptor.
    :param epipolar_px: how far a match may be off the line that the known poses say.
    :param minimum_matches: pairs with fewer are left out.
    :param angle_deg: between some two rays of a point.
    :param error_px: reprojection error that a point's observation may have.
    :param two_view: keep points that only two frames see.
    :param refine_poses: adjust poses together with points; the given ones are priors, so that the map stays in its
        place.
    :param pose_sigma_m: standard deviation of a given position, m.
    :param pose_sigma_deg: of a given orientation, degrees.
    :param block_frames: frames that are triangulated at once; memory grows with it.
    """

    detector: Literal["auto", "colmap", "opencv"] = "auto"
    features: int = ranged(2048, minimum=64, maximum=65535)
    peak: float = ranged(0.0066667, minimum=0.0, maximum=0.2)
    maximum_side: int = ranged(1600, minimum=0, maximum=65535)
    spacing_m: float = ranged(0.2, minimum=0.0)
    spacing_deg: float = ranged(5.0, minimum=0.0)
    neighbours: int = ranged(12, minimum=1)
    reach_m: float = ranged(20.0, minimum=0.01)
    reach_deg: float = ranged(60.0, minimum=0.0, maximum=180.0)
    baseline_m: float = ranged(0.05, minimum=0.0)
    ratio: float = ranged(0.8, minimum=0.1, maximum=1.0)
    epipolar_px: float = ranged(4.0, minimum=0.1)
    minimum_matches: int = ranged(10, minimum=1)
    angle_deg: float = ranged(1.5, minimum=0.0, maximum=90.0)
    error_px: float = ranged(4.0, minimum=0.1)
    two_view: bool = False
    refine_poses: bool = False
    pose_sigma_m: float = ranged(0.05, minimum=1e-4, maximum=100.0)
    pose_sigma_deg: float = ranged(0.3, minimum=1e-3, maximum=90.0)
    block_frames: int = ranged(1000, minimum=2)


@dataclass(frozen=True)
class Frames:
    """The frames of some drives that a model is made of."""

    sequences: tuple[PosedSequence, ...]
    drive: Ints
    number: Ints
    T_map_cam: Array
    stamps_ns: Ints
    cameras: tuple[CameraModel, ...]
    camera_index: Ints

    def __len__(self) -> int:
        return len(self.drive)

    def camera(self, frame: int) -> CameraModel:
        """Of a frame."""
        return self.cameras[int(self.camera_index[frame])]


def chosen_frames(sequences: Sequence[PosedSequence], spacing_m: float, spacing_deg: float) -> Frames:
    """Frames that moved or turned enough since the last one, drive by drive; equal cameras are one.

    :raises DatasetError: no frame, or a pose that is not finite or no rigid transform.
    """
    cameras = list(dict.fromkeys(s.camera for s in sequences))
    rows: list[Ints] = []
    for sequence in sequences:
        for index, T in enumerate(sequence.T_map_cam):
            if not np.isfinite(T).all():
                raise DatasetError(
                    f"{sequence.name}: expected finite reference poses, found NaN at frame {index}; "
                    "drop frames without a pose"
                )
            check_transform(T, f"{sequence.name}: pose of frame {index}")
        rows.append(spaced(sequence.T_map_cam, DatabaseChoice(spacing_m=spacing_m, spacing_deg=spacing_deg)))
    if not sum(len(r) for r in rows):
        raise DatasetError("expected frames with images and poses, found none")
    return Frames(
        tuple(sequences),
        np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        np.concatenate(rows),
        np.concatenate([s.T_map_cam[r] for s, r in zip(sequences, rows, strict=True)]),
        np.concatenate([s.stamps_ns[r] for s, r in zip(sequences, rows, strict=True)]).astype(np.int64),
        tuple(cameras),
        np.repeat([cameras.index(s.camera) for s in sequences], [len(r) for r in rows]).astype(np.int64),
    )


def digest_of(*parts: object) -> str:
    """A short name for what something was made of."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()[:12]


@contextmanager
def shown_progress(shown: bool, prefix: str) -> Iterator[Progress]:
    """One bar after another, a stage each."""
    if not shown:
        yield lambda *_: None
        return
    with progress_bar(prefix) as update:
        yield lambda _, done, total: update(done, total)
