"""The queries of a row: asked, counted, and written for others as trajectories and submissions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS, FrameRecord, Recall, evaluate, nearest
from vloc_ros.evaluation.submission import query_name, write_submission
from vloc_ros.evaluation.trajectory import write_tum
from vloc_ros.geometry.se3 import covariance_of_base, inverse
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.staging import replacing, write_text
from vloc_ros.types import Array, LocalizationState, PosePrior, Query
from vloc_train.benchmark.drives import Part
from vloc_train.benchmark.splits import Fold, Prior

__all__ = [
    "Answers",
    "Asked",
    "answer",
    "asked_of",
    "figures",
    "file_name",
    "join_submissions",
    "once_each",
    "oracle_figures",
    "posed_figures",
    "records_of",
    "submit",
    "write_trajectories",
]

_STATES = tuple(LocalizationState)
#: A frame's own states that would let its pose out; the tracker, which needs a sequence, is not asked here.
_PUBLISHED = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)


@dataclass(frozen=True)
class Asked:
    """The queries of a fold in the order they are asked, with repeats one after the other.

    :ivar queries: the drives' frames, N in all.
    :ivar priors: ``T_map_cam`` (N, 4, 4) that they are told; None: nothing.
    :ivar covariance: (6, 6) of the priors.
    :ivar scene: that they are told; None: nothing.
    """

    queries: tuple[Part, ...]
    priors: Array | None = None
    covariance: Array | None = None
    scene: str | None = None

    def prior(self, row: int) -> PosePrior | None:
        """What query ``row`` is told."""
        if self.priors is None or self.covariance is None:
            return None
        return PosePrior(self.priors[row], self.covariance)


def asked_of(fold: Fold, prior: Prior | None, seed: int, where: str = "") -> Asked:
    """The queries of a fold with their priors.

    :param seed: the protocol's. :param where: the place to name in messages.
    :raises ConfigError: a query has no reference as far away as its prior has to be.
    """
    if prior is None:
        return Asked(fold.query)
    known = (*fold.map, *fold.left_out)
    references = np.concatenate([p.sequence.T_map_cam[p.rows] for p in known])
    # By time, so that the same one is drawn whatever a fold leaves out.
    references = references[np.argsort(np.concatenate([p.sequence.stamps_ns[p.rows] for p in known]), kind="stable")]
    priors = [
        prior.poses(part.sequence.T_map_cam[part.rows], part.sequence.stamps_ns[part.rows], references, seed, n, where)
        for n in range(prior.repeats)
        for part in fold.query
    ]
    return Asked(fold.query * prior.repeats, np.concatenate(priors), prior.covariance)


@dataclass(frozen=True)
class Answers:
    """What a localizer said to N queries, in their order.

    ``T_map_cam`` (N, 4, 4), NaN where the frame was refused; ``covariance`` (N, 6, 6); ``state`` (N,) numbers in the
    order of :class:`LocalizationState`; ``awaits_track`` (N,) bool, see :class:`~vloc_ros.types.Estimate`; ``score``
    (N,); ``milliseconds`` (N,) by the clock.
    """

    T_map_cam: Array
    covariance: Array
    state: npt.NDArray[np.int64]
    awaits_track: npt.NDArray[np.bool_]
    score: Array
    milliseconds: Array

    def save(self, file: Path) -> None:
        """Write atomically."""
        with replacing(file) as stream:
            np.savez_compressed(stream, **{k: getattr(self, k) for k in self.__dataclass_fields__})

    @classmethod
    def load(cls, file: Path) -> Answers:
        """Read what :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as stored:
            return cls(**{k: stored[k] for k in cls.__dataclass_fields__})

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """One after the other."""
        return cls(**{k: np.concatenate([getattr(p, k) for p in parts]) for k in cls.__dataclass_fields__})


def answer(localizer: Localizer, asked: Asked, progress: Callable[[int], None] | None = None) -> Answers:
    """Ask every query, each for itself, in the order of the drives.

    A frame that the localizer refuses has no pose and counts as LOST. Images are rectified first, unless the localizer
    takes them as the lens made them.
    """
    count = sum(len(part) for part in asked.queries)
    T, S = np.full((count, 4, 4), np.nan), np.full((count, 6, 6), np.nan)
    state = np.full(count, _STATES.index(LocalizationState.LOST), dtype=np.int64)
    awaits_track = np.zeros(count, dtype=bool)
    score, milliseconds = np.full(count, np.nan), np.full(count, np.nan)
    row = 0
    for part in asked.queries:
        sequence = part.frames()
        rectifier = None if localizer.takes_distorted else Rectifier(sequence.camera)
        localizer.check_camera(rectifier.target if rectifier else sequence.camera)
        for index, image in sequence.frames():
            seen, camera = rectifier.rectify(image) if rectifier else (image, sequence.camera)
            query = Query(seen, camera, int(sequence.stamps_ns[index]), asked.prior(row), asked.scene)
            begin = time.perf_counter()
            try:
                estimate = localizer.localize(query)
            except VlocError:
                pass  # refused: stays LOST without a pose
            else:
                T[row], S[row], score[row] = estimate.T_map_cam, estimate.covariance, estimate.score
                state[row], awaits_track[row] = _STATES.index(estimate.state), estimate.awaits_track
            milliseconds[row] = 1e3 * (time.perf_counter() - begin)
            row += 1
            if progress:
                progress(row)
    return Answers(T, S, state, awaits_track, score, milliseconds)


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
            truth = part.sequence.T_map_cam[index]
            out.append(
                FrameRecord(
                    stamp_ns=int(part.sequence.stamps_ns[index]),
                    state=state,
                    T_map_base=estimated if published else None,
                    covariance=covariance if published else None,
                    # A benchmark keeps the poses of its queries to itself.
                    T_reference=truth @ T_cam_base if np.isfinite(truth).all() else None,
                    score=float(answers.score[row]),
                    refused="" if estimated is not None else "refused",
                    T_estimated=estimated,
                    awaits_track=bool(answers.awaits_track[row]),
                )
            )
            row += 1
    return out


def figures(records: Sequence[FrameRecord], recall: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    """The figures of a row; ``recall``: limits (m, degrees) besides those of every table.

    Plain names are of published poses, as everywhere: a LOST frame is an infinite error. Names that begin with
    ``localizer_`` are the papers': every frame's pose whatever its state. Names that end in ``awaiting`` are of frames
    that would be LOCALIZED if a track bore them out; here nothing does.
    """
    limits = sorted({*RECALL_THRESHOLDS, *recall})
    published = evaluate(records, thresholds=limits)
    waiting = [replace(r, state=LocalizationState.LOCALIZED) for r in records if r.awaits_track]
    awaiting = evaluate(waiting, thresholds=limits)
    own = evaluate([replace(r, T_map_base=r.T_estimated, covariance=None) for r in records], thresholds=limits)
    return {
        "frames": published.frames,
        "localized": published.localized,
        "lost": published.lost,
        "states": published.states,
        **_errors(published, ""),
        **_errors(own, "localizer_"),
        "max_translation_localized_m": published.max_translation_localized_m,
        "max_rotation_localized_deg": published.max_rotation_localized_deg,
        "nees": asdict(published.nees),
        "nees_localized": asdict(published.nees_localized),
        "awaiting_track": len(waiting) / len(records) if records else 0.0,
        "max_translation_awaiting_m": awaiting.max_translation_localized_m,
        "max_rotation_awaiting_deg": awaiting.max_rotation_localized_deg,
        "nees_awaiting": asdict(awaiting.nees_localized),
        "nees_mean": published.nees.mean,
        "nees_share_in_95": published.nees.share_in_95,
        "nees_share_in_95_thirds": list(published.nees.thirds),
        "sigma_rank_correlation": published.nees.rank_correlation,
    }


def _errors(metrics: Any, prefix: str) -> dict[str, Any]:
    names = ("median_translation_m", "median_rotation_deg", "mean_translation_m", "mean_rotation_deg", "mean_over",
             "ate_rmse_m", "ate_rmse_deg")  # fmt: skip
    recall: Sequence[Recall] = metrics.recall
    return {
        **{prefix + name: getattr(metrics, name) for name in names},
        prefix + "recall": [asdict(r) for r in recall],
    }


def oracle_figures(
    asked: Sequence[tuple[Sequence[Part], Array]], recall: Sequence[tuple[float, float]] = ()
) -> dict[str, Any]:
    """Medians, means and recalls of always answering with the reference pose whose camera is nearest.

    :param asked: the queries of each fold with the (M, 4, 4) camera poses of its map.
    """
    best = []
    for queries, cameras in asked:
        for part in queries:
            _, rows = nearest(np.nan_to_num(part.sequence.T_map_cam[part.rows, :3, 3]), cameras[:, :3, 3])
            best.append(cameras[rows])
    return posed_figures([part for queries, _ in asked for part in queries], np.concatenate(best), recall)


def posed_figures(
    queries: Sequence[Part], T_map_cam: Array, recall: Sequence[tuple[float, float]] = ()
) -> dict[str, Any]:
    """Medians, means and recalls of answering the queries with these (N, 4, 4) poses."""
    records, row = [], 0
    for part in queries:
        T_cam_base = inverse(part.sequence.T_base_cam)
        for stamp, T in zip(part.sequence.stamps_ns[part.rows], part.sequence.T_map_cam[part.rows], strict=True):
            said = T_map_cam[row] @ T_cam_base
            records.append(FrameRecord(
                int(stamp), LocalizationState.LOCALIZED, T_map_base=said, T_estimated=said,
                T_reference=T @ T_cam_base if np.isfinite(T).all() else None,
            ))  # fmt: skip
            row += 1
    return figures(records, recall)


# What is left beside the table: trajectories for evo, and files for the benchmark's server.


def file_name(text: str) -> str:
    """A name that every file system takes."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def once_each(records: Sequence[FrameRecord], queries: Sequence[Part]) -> dict[str, list[FrameRecord]]:
    """Every frame's first record by drive: trajectories have no room for another pose at the same moment."""
    out: dict[str, dict[int, FrameRecord]] = {}
    row = 0
    for part in queries:
        drive = out.setdefault(part.name, {})
        for record in records[row : row + len(part)]:
            drive.setdefault(record.stamp_ns, record)
        row += len(part)
    return {name: list(frames.values()) for name, frames in out.items()}


def write_trajectories(out: Path, split: str, method: str, drives: dict[str, list[FrameRecord]]) -> None:
    """``METHOD.tum`` and ``reference.tum``; drives that share moments have files of their own: ``METHOD.DRIVE.tum``."""
    folder = out / "trajectories" / file_name(split)
    folder.mkdir(parents=True, exist_ok=True)
    stamps = [record.stamp_ns for frames in drives.values() for record in frames]
    groups = {"": [r for frames in drives.values() for r in frames]}
    if len(set(stamps)) < len(stamps):
        groups = {f".{file_name(name)}": frames for name, frames in drives.items()}
    for end, frames in groups.items():
        posed = [(r.stamp_ns, r.T_estimated) for r in frames if r.T_estimated is not None]
        write_tum(folder / f"{file_name(method)}{end}.tum", sorted(posed, key=lambda item: item[0]))
        truth = [(r.stamp_ns, r.T_reference) for r in frames if r.T_reference is not None]
        write_tum(folder / f"reference{end}.tum", sorted(truth, key=lambda item: item[0]))


def submit(out: Path, split: str, method: str, queries: Sequence[Part], answers: Answers) -> Path:
    """``submissions/SPLIT/METHOD.txt``, every query that got a pose, in the world of the data set.

    :raises ConfigError: the images of a drive are no files, whose names the benchmark knows them by, or the drives have
        different worlds.
    """
    poses: list[tuple[str, Array]] = []
    row = 0
    for part in queries:
        paths = _paths(part.sequence.source)
        if paths is None:
            raise ConfigError(f"split {split}: submission: expected queries that are image files, {part.name} has none")
        T_world_map = np.eye(4) if part.sequence.T_world_map is None else part.sequence.T_world_map
        for index in part.rows:
            T_map_cam = answers.T_map_cam[row]
            if np.isfinite(T_map_cam).all():
                poses.append((query_name(paths[index]), T_world_map @ T_map_cam))
            row += 1
    path = out / "submissions" / file_name(split) / f"{file_name(method)}.txt"
    write_submission(path, poses)
    return path


def _paths(source: Any) -> Sequence[Path] | None:
    """The files of a source, through what is wrapped around it."""
    while not hasattr(source, "paths") and hasattr(source, "source"):
        source = source.source
    return getattr(source, "paths", None)


def join_submissions(out: Path, rows: Sequence[tuple[str, str]]) -> None:
    """``submissions/METHOD.txt``: all splits of a method one after the other, as the server takes them."""
    found: dict[str, list[Path]] = {}
    for split, method in rows:
        path = out / "submissions" / file_name(split) / f"{file_name(method)}.txt"
        if path.is_file():
            found.setdefault(method, []).append(path)
    for method, paths in found.items():
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        write_text(out / "submissions" / f"{file_name(method)}.txt", text)
