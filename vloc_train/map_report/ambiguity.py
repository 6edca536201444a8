"""Places that look alike although they are far apart: what a vision system confuses them by is its own descriptor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, read_databases
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array
from vloc_train.frame_choice.route import turned_deg
from vloc_train.frame_choice.settings import ReportSettings

__all__ = ["Ambiguity", "AmbiguousPair", "ambiguous_places", "map_descriptors", "thumbnail_descriptors"]

#: More descriptors than this are thinned: all are compared with all.
_MOST = 3000
_COMPONENTS = 32
_SHOWN = 8


@dataclass(frozen=True)
class AmbiguousPair:
    """Two places, by ``T_map_cam`` of a frame at each; ``frames``: how many of the looked at frames belong to them."""

    T_a: Array
    T_b: Array
    similarity: float
    distance_m: float
    frames: int


@dataclass(frozen=True)
class Ambiguity:
    """What was found: the pairs, most alike first, the share of frames that have a double, how alike a frame and its
    surroundings are (median), and what was compared."""

    pairs: tuple[AmbiguousPair, ...]
    share: float
    own: float
    source: str


def map_descriptors(bundle: MapBundle, scene: str) -> tuple[Array, Array, str] | None:
    """``(T_map_cam (M, 4, 4), unit descriptors (M, D), what they are)`` that the map itself localizes with, or None."""
    manifest = bundle.manifest
    if manifest.file(DATABASE_FILE) is not None:
        database = read_databases(bundle)[scene]
        rows = np.flatnonzero(np.asarray(database.origin) == 0)
        vectors = database.descriptors[rows].double().numpy()
        return database.T_map_cam[rows], _unit(vectors), "the map's image descriptors"
    from vloc_ros.localizers.imposing.localizer import REFERENCES_FILE

    if manifest.backend == "imposing" and manifest.file(REFERENCES_FILE) is not None:
        tensors = bundle.tensors(REFERENCES_FILE)
        poses, vectors = tensors[f"{scene}.poses"], tensors[f"{scene}.vectors"].double().numpy()
        return from_vectors(poses), _unit(vectors), "the map's image vectors"
    return None


def thumbnail_descriptors(thumbnails: npt.NDArray[np.uint8]) -> Array:
    """(N, D) unit descriptors of (N, h, w) grey thumbnails: their light taken out, then whitened principal parts.

    A stand-in where a map has none: it knows coarse shape, not meaning.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), 1.0)
    flat -= flat.mean(axis=0)
    _, spread, axes = np.linalg.svd(flat, full_matrices=False)
    count = min(_COMPONENTS, len(spread))
    scale = spread[:count] + 0.1 * spread[0]  # noise is not to be blown up
    return _unit(flat @ axes[:count].T / scale)


def ambiguous_places(T: Array, descriptors: Array, source: str, settings: ReportSettings) -> Ambiguity:
    """Pairs of frames that are ``far_m`` apart and as alike as one of them is to its own surroundings.

    What "alike" means depends on the descriptor and on the place, so each frame brings its own measure: its likeness to
    the most similar frame within ``near_m`` that looks the same way. A frame without one cannot be judged.

    :param T: (M, 4, 4) ``T_map_cam``. :param descriptors: (M, D) of unit length.
    """
    if len(T) > _MOST:
        rows = np.linspace(0, len(T) - 1, _MOST).round().astype(np.int64)
        T, descriptors = T[rows], descriptors[rows]
    positions = T[:, :3, 3]
    likeness = descriptors @ descriptors.T
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    i, j = np.nonzero((distance > 0.05) & (distance <= settings.near_m))
    same_way = turned_deg(T[i], T[j]) < 30.0
    own = np.full(len(T), -np.inf)
    np.maximum.at(own, i[same_way], likeness[i[same_way], j[same_way]])
    judged = np.isfinite(own)
    if not judged.any():
        return Ambiguity((), 0.0, float("nan"), source)
    # As alike as a frame is to its surroundings: another place could be taken for them.
    limit = np.where(judged, own, np.inf)
    far = distance > settings.far_m
    double = far & (likeness >= limit[:, None])
    share = float(double.any(axis=1)[judged].mean())
    a, b = np.nonzero(np.triu(double | double.T, 1))
    order = np.argsort(-likeness[a, b], kind="stable")
    a, b = a[order], b[order]
    pairs: list[AmbiguousPair] = []
    reach = settings.far_m / 2
    while len(a) and len(pairs) < _SHOWN:
        p, q = int(a[0]), int(b[0])
        near = np.stack([distance[p] <= reach, distance[q] <= reach])
        mine = (near[0, a] & near[1, b]) | (near[1, a] & near[0, b])
        frames = len(np.unique(np.concatenate([a[mine], b[mine]])))
        pairs.append(AmbiguousPair(T[p], T[q], float(likeness[p, q]), float(distance[p, q]), frames))
        a, b = a[~mine], b[~mine]
    return Ambiguity(tuple(pairs), share, float(np.median(own[judged])), source)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
