"""Pairs of training images: candidates, their similarities (cached), and the categories of Section 3.1.3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.staging import replacing
from vloc_ros.types import Array
from vloc_train.camnet.settings import MiningSettings
from vloc_train.camnet.similarity import frustum_overlap, orb_descriptors, orb_similarity
from vloc_train.training.frames import FrameSet, keyed_rng

__all__ = ["CATEGORIES", "PairTable", "Similarity", "candidate_pairs", "mine", "pair_similarity"]

CATEGORIES = ("easy", "moderate", "hard")

Rows = npt.NDArray[np.int64]
#: From pairs of frame numbers (P, 2) to similarities (P, 2): of image 1 in image 2, and the reverse.
Similarity = Callable[[Rows], Array]

#: Pairs between two writes of the cache: a run that is interrupted loses at most so much work.
_CHUNK = 4096


@dataclass(frozen=True)
class PairTable:
    """Pairs sorted by anchor: ``pairs`` (P, 2) frame numbers, ``overlap`` (P, 2), ``category`` (P,) 0 to 2.

    ``first`` (frames + 1,): the pairs of frame i are the rows ``first[i]`` to ``first[i + 1]``.
    """

    pairs: Rows
    overlap: npt.NDArray[np.float32]
    category: npt.NDArray[np.int8]
    first: Rows

    @property
    def anchors(self) -> Rows:
        """Frames that have a partner."""
        return np.flatnonzero(np.diff(self.first) > 0)

    def draw(self, anchor: int, rng: np.random.Generator) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Rows of one pair of each category, ``(3,)``, at random, and which of them are truly of their category.

        For a category without a pair another one of the anchor's pairs stands in.
        """
        low, high = int(self.first[anchor]), int(self.first[anchor + 1])
        rows, valid = np.empty(3, np.int64), np.zeros(3, np.bool_)
        for wanted in range(3):
            found = low + np.flatnonzero(self.category[low:high] == wanted)
            valid[wanted] = len(found) > 0
            rows[wanted] = rng.choice(found) if len(found) else rng.integers(low, high)
        return rows, valid


def candidate_pairs(T_map_cam: Array, settings: MiningSettings, seed: int) -> Rows:
    """(P, 2) ordered pairs of frames within reach, at most ``settings.candidates`` of an anchor, keyed by it.

    Half of them are among the images near enough to be easy or moderate, where there are so many: most images within
    reach are far ones.
    """
    positions = T_map_cam[:, :3, 3]
    out = []
    for start in range(0, len(positions), 512):
        apart = np.linalg.norm(positions[start : start + 512, None] - positions[None], axis=-1)
        for i, row in enumerate(apart, start):
            row[i] = np.inf
            near, far = (
                np.flatnonzero(row <= settings.near_m[1]),
                np.flatnonzero((row > settings.near_m[1]) & (row <= settings.reach_m)),
            )
            rng, most = keyed_rng(seed, 31, i), settings.candidates
            of_near = min(len(near), max(-(-most // 2), most - len(far)))
            of_far = min(len(far), most - of_near)
            chosen = np.concatenate((rng.permutation(near)[:of_near], rng.permutation(far)[:of_far]))
            out.append(np.column_stack((np.full(len(chosen), i), np.sort(chosen))))
    return np.concatenate(out).astype(np.int64) if out else np.zeros((0, 2), np.int64)


def pair_similarity(
    frames: FrameSet, settings: MiningSettings, depth: npt.NDArray[np.floating] | None = None
) -> tuple[str, Similarity]:
    """The similarity that the settings ask for: its name and the function.

    :param depth: (N, grid * grid) depths of the frames, where there are any.
    :raises DatasetError: depth is asked for, and there is none.
    """
    kind = settings.similarity
    if kind == "auto":
        kind = "orb" if depth is None else "depth"
    if kind == "orb":
        return kind, _orb(frames, settings)
    if kind == "assumed_depth":
        depth = np.full((1, settings.grid**2), settings.assumed_depth_m)
        depth = np.broadcast_to(depth, (len(frames), settings.grid**2))
    elif depth is None:
        raise DatasetError(
            "similarity: expected drives with depth images, found none; use mining.similarity orb or assumed_depth"
        )
    known, T, camera = depth, frames.T_map_cam, frames.camera

    def overlap(pairs: Rows) -> Array:
        one, two = pairs.T
        return np.stack(
            (
                frustum_overlap(T[one], T[two], known[one], camera),
                frustum_overlap(T[two], T[one], known[two], camera),
            ),
            axis=1,
        )

    return kind, overlap


def _orb(frames: FrameSet, settings: MiningSettings) -> Similarity:
    descriptors: dict[int, npt.NDArray[np.uint8]] = {}

    def of(frame: int) -> npt.NDArray[np.uint8]:
        if frame not in descriptors:
            descriptors[frame] = orb_descriptors(np.array(frames.images[frame]))
        return descriptors[frame]

    def similarity(pairs: Rows) -> Array:
        out = np.empty((len(pairs), 2))
        for row, (one, two) in enumerate(pairs.tolist()):
            a, b = of(one), of(two)
            out[row] = orb_similarity(a, b), orb_similarity(b, a)
        return out

    return similarity


def mine(
    frames: FrameSet,
    settings: MiningSettings,
    seed: int,
    folder: Path,
    depth: npt.NDArray[np.floating] | None = None,
) -> PairTable:
    """The pairs of a scene's frames with their similarities and categories.

    Similarities are written to ``folder`` as they are computed, under a name that holds a digest of everything they
    depend on: a run that was interrupted goes on where it stopped, and the next one reads them.

    :raises DatasetError: no two images within reach of each other, or no depth where it is asked for.
    """
    pairs = candidate_pairs(frames.T_map_cam, settings, seed)
    if not len(pairs):
        raise DatasetError(
            f"scene {frames.scene!r}: expected images within {settings.reach_m} m of each other, found none among "
            f"{len(frames)}; raise mining.reach_m"
        )
    kind, similarity = pair_similarity(frames, settings, depth)
    digest = hashlib.sha256(repr((kind, settings, frames.camera, frames.images.shape)).encode())
    for part in (pairs, frames.T_map_cam, frames.stamps_ns, np.zeros(0) if depth is None else depth):
        digest.update(np.ascontiguousarray(part).tobytes())
    overlap = _cached(folder / f"similarity-{digest.hexdigest()[:16]}.npy", pairs, similarity)
    category = _categories(frames.T_map_cam, pairs, overlap, settings)
    first = np.searchsorted(pairs[:, 0], np.arange(len(frames) + 1))
    return PairTable(pairs, overlap, category, first.astype(np.int64))


def _cached(file: Path, pairs: Rows, similarity: Similarity) -> npt.NDArray[np.float32]:
    """``similarity`` of all pairs, through a file that is filled chunk by chunk; NaN stands for "not yet"."""
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with replacing(file) as stream:
            np.save(stream, np.full((len(pairs), 2), np.nan, np.float32))
    stored = np.load(file, mmap_mode="r+")
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        if np.isnan(stored[part]).any():
            stored[part] = similarity(pairs[part])
            stored.flush()
    return np.array(stored)


def _categories(
    T: Array, pairs: Rows, overlap: npt.NDArray[np.float32], settings: MiningSettings
) -> npt.NDArray[np.int8]:
    """0, 1 or 2 for each pair: alike and near, less so, and the rest."""
    one, two = T[pairs[:, 0]], T[pairs[:, 1]]
    apart = np.linalg.norm(one[:, :3, 3] - two[:, :3, 3], axis=1)
    turned = np.degrees(rotation_angle(one[:, :3, :3], two[:, :3, :3]))
    mean = overlap.mean(axis=1)
    out = np.full(len(pairs), 2, np.int8)
    for category in (1, 0):
        fits = (mean >= settings.overlap[category]) & (apart <= settings.near_m[category])
        out[fits & (turned <= settings.near_deg[category])] = category
    return out
