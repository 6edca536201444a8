"""Localize every query of a row, keep what came out, and count."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import VlocError
from vloc_ros.evaluation.metrics import FrameRecord, Recall, evaluate, nearest
from vloc_ros.geometry.se3 import covariance_of_base, inverse
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.types import Array, LocalizationState, Query
from vloc_train.evaluate.drives import Part

__all__ = ["Answers", "answer", "figures", "oracle_figures", "records_of"]

_STATES = tuple(LocalizationState)
#: A frame's own verdict that would let its pose out; the tracker, which needs a sequence, is not asked here.
_PUBLISHED = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)


@dataclass(frozen=True)
class Answers:
    """What a localizer said to N queries, in their order.

    ``T_map_cam`` (N, 4, 4), NaN where the frame was refused; ``covariance`` (N, 6, 6); ``state`` (N,) numbers in the
    order of :class:`LocalizationState`; ``score`` (N,); ``milliseconds`` (N,) by the clock.
    """

    T_map_cam: Array
    covariance: Array
    state: npt.NDArray[np.int64]
    score: Array
    milliseconds: Array

    def save(self, file: Path) -> None:
        """Write atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.stem}-{os.getpid()}.npz")
        np.savez_compressed(partial, **{k: getattr(self, k) for k in self.__dataclass_fields__})
        partial.rename(file)

    @classmethod
    def load(cls, file: Path) -> Answers:
        """Read what :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as stored:
            return cls(**{k: stored[k] for k in cls.__dataclass_fields__})

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """One after the other."""
        return cls(**{k: np.concatenate([getattr(p, k) for p in parts]) for k in cls.__dataclass_fields__})


def answer(localizer: Localizer, queries: Sequence[Part], progress: Callable[[int], None] | None = None) -> Answers:
    """Ask every query, each for itself, in the order of the drives.

    A frame that the localizer refuses has no pose and counts as LOST.
    """
    count = sum(len(part) for part in queries)
    T, S = np.full((count, 4, 4), np.nan), np.full((count, 6, 6), np.nan)
    state = np.full(count, _STATES.index(LocalizationState.LOST), dtype=np.int64)
    score, milliseconds = np.full(count, np.nan), np.full(count, np.nan)
    row = 0
    for part in queries:
        sequence = part.frames()
        rectifier = Rectifier(sequence.camera)
        localizer.check_camera(rectifier.target)
        for index, image in sequence.frames():
            rectified, camera = rectifier.rectify(image)
            begin = time.perf_counter()
            try:
                estimate = localizer.localize(Query(rectified, camera, int(sequence.stamps_ns[index])))
            except VlocError:
                pass  # refused: stays LOST without a pose
            else:
                T[row], S[row], score[row] = estimate.T_map_cam, estimate.covariance, estimate.score
                state[row] = _STATES.index(estimate.state)
            milliseconds[row] = 1e3 * (time.perf_counter() - begin)
            row += 1
            if progress:
                progress(row)
    return Answers(T, S, state, score, milliseconds)


def records_of(answers: Answers, queries: Sequence[Part]) -> list[FrameRecord]:
    """Answers beside the truth, both of the base."""
    out: list[FrameRecord] = []
    row = 0
    for part in queries:
        T_cam_base = inverse(part.sequence.T_base_cam)
        for index in part.rows:
            state = _STATES[int(answers.state[row])]
            T = answers.T_map_cam[row]
            estimated, covariance = None, None
            if np.isfinite(T).all():
                estimated = T @ T_cam_base
                covariance = covariance_of_base(T, answers.covariance[row], T_cam_base)
            published = estimated is not None and state in _PUBLISHED
            out.append(
                FrameRecord(
                    stamp_ns=int(part.sequence.stamps_ns[index]),
                    state=state,
                    T_map_base=estimated if published else None,
                    covariance=covariance if published else None,
                    T_reference=part.sequence.T_map_cam[index] @ T_cam_base,
                    score=float(answers.score[row]),
                    refused="" if estimated is not None else "refused",
                    T_estimated=estimated,
                )
            )
            row += 1
    return out


def figures(records: Sequence[FrameRecord]) -> dict[str, Any]:
    """The figures of a row.

    Plain names are of published poses, as everywhere: a LOST frame is an infinite error. Names that begin with
    ``localizer_`` are the papers': every frame's pose whatever its state.
    """
    published = evaluate(records)
    own = evaluate([replace(r, T_map_base=r.T_estimated, covariance=None) for r in records])
    return {
        "frames": published.frames,
        "localized": published.localized,
        "lost": published.lost,
        "states": published.states,
        **_errors(published, ""),
        **_errors(own, "localizer_"),
        "nees_mean": published.nees.mean,
        "nees_share_in_95": published.nees.share_in_95,
        "nees_share_in_95_thirds": list(published.nees.thirds),
        "sigma_rank_correlation": published.nees.rank_correlation,
    }


def _errors(metrics: Any, prefix: str) -> dict[str, Any]:
    names = ("median_translation_m", "median_rotation_deg", "mean_translation_m", "mean_rotation_deg", "mean_over")
    recall: Sequence[Recall] = metrics.recall
    return {
        **{prefix + name: getattr(metrics, name) for name in names},
        prefix + "recall": [asdict(r) for r in recall],
    }


def oracle_figures(asked: Sequence[tuple[Sequence[Part], Array]]) -> dict[str, Any]:
    """Medians, means and recalls of always answering with the reference pose whose camera is nearest.

    :param asked: the queries of each fold with the (M, 4, 4) camera poses of its map.
    """
    records = []
    for queries, cameras in asked:
        for part in queries:
            truth = part.sequence.T_map_cam[part.rows]
            _, rows = nearest(truth[:, :3, 3], cameras[:, :3, 3])
            T_cam_base = inverse(part.sequence.T_base_cam)
            for stamp, T, row in zip(part.sequence.stamps_ns[part.rows], truth, rows, strict=True):
                best = cameras[row] @ T_cam_base
                records.append(FrameRecord(
                    int(stamp), LocalizationState.LOCALIZED, T_map_base=best, T_reference=T @ T_cam_base,
                    T_estimated=best,
                ))  # fmt: skip
    return figures(records)
