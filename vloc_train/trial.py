"""``vloc try``: a part of a recording becomes a map, the rest is localized in it, and a page says how well it went.

What is asked was neither in the map nor calibrated on: the drive is parted first (another drive, else another passage,
else gaps of a single one), the map is made of the rest, and holds out frames of its own for its covariance. Every frame
is asked for itself, as the first one after a start would be: no odometry, no track, no prior.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import vloc_ros
from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.evaluation.document import Document, write_json
from vloc_ros.evaluation.metrics import FrameRecord, evaluate, frame_errors, nearest
from vloc_ros.evaluation.plots import draw_all
from vloc_ros.evaluation.report import build_report, print_rows, table_rows
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import covariance_of_base, inverse
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer, load_localizer
from vloc_ros.localizers.device import device_name
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array, Estimate, LocalizationState, Matches, Query, RgbImage
from vloc_train.build_map import make_map
from vloc_train.frame_choice.settings import OwnDriveSettings
from vloc_train.frame_choice.split import Split, split
from vloc_train.training.recipe import Trainer
from vloc_train.training.run import RunOptions
from vloc_train.training.scenes import common_datum

__all__ = ["Trial", "print_trial", "try_drives"]

_log = logging.getLogger(__name__)

_PUBLISHED = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)
#: A map that localizes a smaller share of what is asked is not yet one to drive with.
_ENOUGH = 0.7
#: Frames with this many times the median distance to the map are looked at apart.
_FAR = 1.5
#: Height of a picture of matches, pixels.
_PICTURE_HEIGHT = 240


@dataclass(frozen=True)
class Trial:
    """What came of it.

    :ivar bundle: the map. :ivar split: which frames it is of, and which were asked. :ivar report: all figures.
    :ivar advice: what to do, in sentences. :ivar page: the report for people.
    """

    bundle: MapBundle
    split: Split
    report: Mapping[str, Any]
    advice: tuple[str, ...]
    page: Path


def try_drives(
    maker: Trainer[Any],
    drives: Sequence[PosedSequence],
    out: Path,
    *,
    settings: Any = None,
    own: OwnDriveSettings | None = None,
    queries: int = 200,
    device: str = "auto",
    problems: Problems | None = None,
    progress: bool = True,
) -> Trial:
    """Make a map of a part of some drives, localize the rest, and write ``OUT/report.html`` with pictures.

    :param maker: what builds the map; ``settings``: its own.
    :param drives: one drive, of which a part is held out; or several, of which the last one is asked.
    :param queries: frames to ask at most, evenly taken.
    :param progress: show it on the terminal.
    :raises DatasetError: drives that leave nothing to ask, or have different origins.
    """
    own = own or OwnDriveSettings()
    common_datum({"map": drives})
    parts = _parts(drives, own)
    out.mkdir(parents=True, exist_ok=True)
    bundle = make_map(
        maker,
        {"map": parts.training},
        out / "map",
        settings if settings is not None else maker.settings(maker.presets[0], {}, "vloc try"),
        RunOptions(device=device, progress=progress),
        own,
        problems=problems,
    )
    asked = _thinned(parts.held_out, queries)
    records: list[FrameRecord] = []
    estimates: list[tuple[PosedSequence, int, Estimate]] = []
    total = sum(len(sequence) for sequence in asked)
    with load_localizer(bundle.path, device) as localizer, progress_bar("localizing what was held out") as told:
        localizer.warm_up()
        for sequence in asked:
            for index, estimate in _estimates(localizer, sequence):
                records.append(_record(sequence, index, estimate))
                estimates.append((sequence, index, estimate))
                if progress:
                    told(len(records), total)
        device_used = device_name(localizer.device)
    cameras = np.concatenate([drive.T_map_cam for drive in parts.training])
    metrics = evaluate(records, cameras, asked[0].T_base_cam)
    about = {
        "bag": ", ".join(drive.name for drive in drives),
        "backend": bundle.manifest.backend,
        "map": str(bundle.path),
        "map_bytes": bundle.size_bytes,
        "device": device_used,
        "hold_out": {"kind": parts.kind, **parts.figures()},
        "notes": [parts.in_words(), "every frame was asked for itself, without odometry and without its predecessors"],
        "version": vloc_ros.__version__,
    }
    report = build_report(metrics, records, about)
    words = _advice(parts, records, [estimate for *_, estimate in estimates], cameras, bundle)
    page = _write(out, report, words, records, estimates, parts, cameras)
    return Trial(bundle, parts, report, tuple(words), page)


def _parts(drives: Sequence[PosedSequence], own: OwnDriveSettings) -> Split:
    """The map's frames and those that are asked."""
    if len(drives) > 1:
        *known, last = drives
        parts = [np.zeros(len(d), dtype=np.uint8) for d in known] + [np.ones(len(last), dtype=np.uint8)]
        return Split("drive", tuple(drives), tuple(parts))
    parted = split(drives, own.hold_out)
    if not parted.held_out:
        raise DatasetError(
            f"vloc try: expected a drive of which something can be held out, found {len(drives[0])} frames of "
            f"{drives[0].name} and --hold-out {parted.kind}; record a longer one, or give two: vloc try MAP_DRIVE DRIVE"
        )
    return parted


def _thinned(drives: Sequence[PosedSequence], most: int) -> list[PosedSequence]:
    """At most so many frames, evenly taken over all drives."""
    total = sum(len(drive) for drive in drives)
    taken = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(np.int64))
    out, before = [], 0
    for drive in drives:
        mine = taken[(taken >= before) & (taken < before + len(drive))] - before
        before += len(drive)
        if len(mine):
            out.append(drive.select(mine))
    return out


def _estimates(localizer: Localizer, sequence: PosedSequence) -> Iterator[tuple[int, Estimate]]:
    rectifier = None if localizer.takes_distorted else Rectifier(sequence.camera)
    for index, image in sequence.frames():
        view, camera = (image, sequence.camera) if rectifier is None else rectifier.rectify(image)
        yield index, localizer.localize(Query(view, camera, int(sequence.stamps_ns[index])))


def _record(sequence: PosedSequence, index: int, estimate: Estimate) -> FrameRecord:
    T_cam_base = inverse(sequence.T_base_cam)
    published = estimate.state in _PUBLISHED
    T_map_base = estimate.T_map_cam @ T_cam_base
    return FrameRecord(
        stamp_ns=estimate.stamp_ns,
        state=estimate.state,
        T_map_base=T_map_base if published else None,
        covariance=covariance_of_base(estimate.T_map_cam, estimate.covariance, T_cam_base) if published else None,
        T_reference=sequence.T_map_base[index],
        score=estimate.score,
        timings_ms=dict(estimate.timings_ms),
        T_estimated=T_map_base,
    )


def _advice(
    parts: Split, records: Sequence[FrameRecord], estimates: Sequence[Estimate], cameras: Array, bundle: MapBundle
) -> list[str]:
    """What to do about it, in sentences with numbers; the most useful first."""
    out = []
    localized = np.array([record.state is LocalizationState.LOCALIZED for record in records])
    errors, _ = frame_errors(records)
    if not bundle.manifest.calibration:
        out.append(
            "The map is not calibrated, so that no frame can be LOCALIZED: too few frames could be held out of it. "
            "Record a longer drive, or a second one over the same way."
        )
    elif localized.mean() < _ENOUGH:
        out.append(
            f"{100 * localized.mean():.0f} % of the {len(records)} frames that were asked are LOCALIZED: not enough to "
            "drive with. " + _reasons(estimates)
        )
    else:
        told = f"{100 * localized.mean():.0f} % of {len(records)} frames that were asked are LOCALIZED, each by itself."
        more = "" if localized.all() else " With odometry and a track more will be: vloc replay BAG --map MAP."
        out.append(told + more)
    places = np.array([record.T_reference[:3, 3] for record in records if record.T_reference is not None])
    distance, _ = nearest(places, cameras[:, :3, 3])
    far = distance > _FAR * np.median(distance)
    if far.any() and (~far).any() and localized[~far].mean() - localized[far].mean() > 0.2:
        out.append(
            f"Within {distance[~far].max():.1f} m of a frame of the map {100 * localized[~far].mean():.0f} % are "
            f"LOCALIZED, farther away {100 * localized[far].mean():.0f} %: drive where the vehicle will drive, slower, "
            "or twice."
        )
    known = errors[np.isfinite(errors)]
    wrong = localized & (errors > 10 * max(float(np.median(known)), 0.02)) if len(known) else np.zeros(0, dtype=bool)
    if wrong.any():
        out.append(
            f"{wrong.sum()} LOCALIZED frames are off by {errors[wrong].min():.2f} to {errors[wrong].max():.2f} m, far "
            "more than the others: look at the worst below. Either the map is wrong there, or the reference poses are."
        )
    if parts.kind in ("gaps", "every"):
        out.append(
            "The way was driven once, in one light, so that this says nothing of another day. Record it again and give "
            "both: vloc try FIRST SECOND."
        )
    dropped = sum((Counter(drive.dropped) for drive in parts.training), Counter())
    if dropped:
        out.append("Frames that could not be used: " + ", ".join(f"{n} {name}" for name, n in dropped.items()) + ".")
    return out


def _reasons(estimates: Sequence[Estimate]) -> str:
    """What the backend says of frames that are not LOCALIZED."""
    from vloc_ros.localizers.features.localizer import FAILURES

    words = {
        "no_features": "there was nothing to see in {n} (dark, blurred, or a bare wall)",
        "no_pose": "{n} had nothing in common with the map",
        "unsupported": "in {n} too few points of the map were seen again",
        "ambiguous": "{n} look like two places",
        "ill_posed": "in {n} the points seen do not fix a pose",
        "unsure": "{n} are too inaccurate",
    }
    names = {value: name for name, value in FAILURES.items()}
    failed = Counter(names.get(e.diagnostics.get("failure", 0.0), "none") for e in estimates)
    told = [words[name].format(n=n) for name, n in failed.most_common() if name in words]
    return f"Of the others: {'; '.join(told)}." if told else ""


def _write(
    out: Path,
    report: Mapping[str, Any],
    advice: Sequence[str],
    records: Sequence[FrameRecord],
    estimates: Sequence[tuple[PosedSequence, int, Estimate]],
    parts: Split,
    cameras: Array,
) -> Path:
    folder = out / "plots"
    pictures = draw_all(records, folder, cameras[:, :3, 3])
    document = Document(f"vloc try: {report['bag']}")
    document.heading("What to do")
    document.items(advice)
    document.heading("Figures")
    document.facts(table_rows(report))
    document.paragraph(
        "Medians, recalls and states are over all frames that were asked; a frame without a published pose is an "
        "infinite error."
    )
    shown = _shown(records, estimates)
    if shown:
        document.heading("What was seen again")
        document.paragraph(
            "Left the frame that was asked, right the nearest frame of the map; green points of the map agree with the "
            "pose, red ones were matched and do not."
        )
        for number, (words, sequence, index, estimate) in enumerate(shown):
            path = folder / f"matches_{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(_picture(sequence, index, estimate, parts), cv2.COLOR_RGB2BGR))
            document.picture(path, words)
    document.heading("Along the way")
    for picture in pictures:
        document.picture(picture, picture.stem)
    write_json(out / "report.json", {**report, "advice": list(advice)})
    document.write(out)
    return out / "report.html"


def _shown(
    records: Sequence[FrameRecord], estimates: Sequence[tuple[PosedSequence, int, Estimate]]
) -> list[tuple[str, PosedSequence, int, Estimate]]:
    """A usual frame, the one with the largest error that was LOCALIZED, and one that was not."""
    errors = np.array([frame_errors([r])[0][0] for r in records])
    localized = [k for k, r in enumerate(records) if r.state is LocalizationState.LOCALIZED]
    silent = [k for k, r in enumerate(records) if r.state not in _PUBLISHED]
    chosen: dict[int, str] = {}
    if localized:
        order = sorted(localized, key=lambda k: errors[k])
        usual, worst = order[len(order) // 2], order[-1]
        chosen[usual] = f"the median of what is LOCALIZED: {errors[usual]:.3f} m off"
        chosen.setdefault(worst, f"the worst that is LOCALIZED: {errors[worst]:.3f} m off")
    if silent:
        chosen[silent[len(silent) // 2]] = "one for which nothing was published"
    out = []
    for k, words in chosen.items():
        sequence, index, estimate = estimates[k]
        if estimate.matches is not None and len(estimate.matches.points):
            out.append((words, sequence, index, estimate))
    return out


def _picture(sequence: PosedSequence, index: int, estimate: Estimate, parts: Split) -> RgbImage:
    """The query with its matches beside the nearest frame of the map with the same points."""
    assert estimate.matches is not None
    query = _drawn(sequence.image(index), estimate.matches.pixels, estimate.matches)
    differences = [np.abs(drive.T_map_cam - estimate.T_map_cam).sum(axis=(1, 2)) for drive in parts.training]
    number = int(np.argmin([d.min() for d in differences]))
    frame, nearest = parts.training[number], int(differences[number].argmin())
    T_cam_map = inverse(frame.T_map_cam[nearest])
    in_camera = estimate.matches.points @ T_cam_map[:3, :3].T + T_cam_map[:3, 3]
    pixels, seen = project(frame.camera, in_camera)
    pixels = np.where((seen & (in_camera[:, 2] > 0))[:, None], pixels, -1e6)
    return np.concatenate([query, _drawn(frame.image(nearest), pixels, estimate.matches)], axis=1)


def _drawn(image: RgbImage, pixels: Array, matches: Matches) -> RgbImage:
    scale = _PICTURE_HEIGHT / image.shape[0]
    size = max(1, round(image.shape[1] * scale)), _PICTURE_HEIGHT
    out = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for (x, y), good in zip((pixels + 0.5) * scale - 0.5, matches.inliers, strict=True):
        if -1 <= x < size[0] and -1 <= y < size[1]:
            cv2.circle(out, (round(x), round(y)), 2, (0, 200, 0) if good else (230, 30, 30), 1, cv2.LINE_AA)
    return np.asarray(out, dtype=np.uint8)


def print_trial(trial: Trial) -> None:
    """Table, advice and where things are, on the terminal."""
    from rich.console import Console

    print_rows(f"vloc try: {trial.report['bag']}", table_rows(trial.report))
    console = Console()
    for text in trial.advice:
        console.print(f"- {text}", markup=False)
    console.print(f"page   {trial.page}", markup=False)
    console.print(f"map    {trial.bundle.path}   (vloc replay BAG --map {trial.bundle.path} --out DIR)", markup=False)
