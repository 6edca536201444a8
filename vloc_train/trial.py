"""``vloc try``: a part of a recording becomes a map, the rest is localized in it, and a page says how well it went.

What is asked was neither in the map nor calibrated on: the drive is parted first (another drive, else another passage,
else gaps of a single one, else every fifth frame), and the map is made of the rest. Every frame is asked for itself, as
the first one after a start would be: no odometry, no track, no prior.
"""

from __future__ import annotations

import shlex
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vloc_ros
from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.evaluation.document import require_jinja2
from vloc_ros.evaluation.figure import require_matplotlib
from vloc_ros.evaluation.metrics import FrameRecord, evaluate, frame_errors, nearest
from vloc_ros.evaluation.report import build_report
from vloc_ros.geometry.se3 import covariance_of_base, inverse
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer, load_localizer
from vloc_ros.localizers.cascade.bundle import calibration_of, whole_size
from vloc_ros.localizers.device import device_name
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array, Estimate, LocalizationState, Query
from vloc_train.build_map import make_map
from vloc_train.frame_choice.route import extent, metres_along
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings, scale_of
from vloc_train.frame_choice.split import Split, split
from vloc_train.training.recipe import Trainer
from vloc_train.training.run import RunOptions
from vloc_train.training.scenes import common_datum
from vloc_train.trial_page import Asked, in_short, write_page

__all__ = ["Trial", "print_trial", "try_drives"]

_PUBLISHED = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)
#: A map that localizes a smaller share of what is asked is not yet one to drive with.
_ENOUGH = 0.7
#: Of fewer frames that were asked nobody knows how it will drive.
_FEW = 15
#: Frames with this many times the median distance to the map are looked at apart.
_FAR = 1.5
#: A LOCALIZED error that is so many times the median, which counts as 2 cm at least, is told of.
_GROSS, _LEAST_M = 10.0, 0.02
#: Where a drive allows neither passages nor gaps, one frame of so many is asked.
_EVERY = 5
#: Frames of the map that it is calibrated on, at most.
_CALIBRATION = 100
#: What is asked, by the kind of the hold-out.
_WORDS = {
    "drive": "of {name}, another drive",
    "pass": "of later passages of places that the map knows",
    "gaps": "in gaps of the only passage",
    "stretches": "of stretches that the map has not seen",
    "every": "in between the map's frames",
}


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

    @property
    def enough(self) -> bool:
        """Whether the map localizes enough to drive with."""
        return float(self.report["states"].get(LocalizationState.LOCALIZED.value, 0.0)) >= _ENOUGH


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
    :param own: default: lengths by the size of the place.
    :param queries: frames to ask at most, evenly taken.
    :param progress: show it on the terminal.
    :raises DatasetError: drives that leave nothing to ask, or have different origins.
    :raises ConfigError: the packages for pictures and page are not installed.
    """
    require_matplotlib()
    require_jinja2()
    if own is None:
        own = OwnDriveSettings().scaled(max(scale_of(extent(d.T_map_cam[:, :3, 3])) for d in drives))
    common_datum({"map": drives})
    parts = _parts(drives, own)
    asked = _thinned(parts.held_out, queries)
    total = sum(len(sequence) for sequence in asked)
    words = _asked_in_words(parts, total)
    _tell(progress, f"{_length_in_words(drives)}; a map of {sum(map(len, parts.training))} frames is made ...")
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    # --hold-out says what is asked; for its covariance the map holds out as it does best.
    inner = replace(own.hold_out, kind="auto")
    bundle = make_map(
        maker,
        {"map": parts.training},
        out / "map",
        _quick(settings if settings is not None else maker.settings(maker.presets[0], {}, "vloc try")),
        RunOptions(device=device, progress=progress),
        replace(own, hold_out=inner),
        problems=problems,
    )
    seconds = time.perf_counter() - begin
    found: list[Asked] = []
    with load_localizer(bundle.path, device) as localizer, progress_bar("localizing what was held out") as told:
        localizer.warm_up()
        for sequence in asked:
            for index, estimate in _estimates(localizer, sequence):
                found.append(Asked(sequence, index, estimate, _record(sequence, index, estimate)))
                if progress:
                    told(len(found), total)
        device_used = device_name(localizer.device)
    cameras = np.concatenate([drive.T_map_cam for drive in parts.training])
    records = [one.record for one in found]
    about = {
        "bag": ", ".join(drive.name for drive in drives),
        "backend": bundle.manifest.backend,
        "map": str(bundle.path),
        "map_bytes": whole_size(bundle),
        "device": device_used,
        "hold_out": {"kind": parts.kind, **parts.figures()},
        "try": {"asked": words, "map_frames": sum(map(len, parts.training)), "map_s": round(seconds, 1)},
        "notes": [parts.in_words(), "every frame was asked for itself, without odometry and without its predecessors"],
        "version": vloc_ros.__version__,
    }
    report = build_report(evaluate(records, cameras, asked[0].T_base_cam), records, about)
    advice = _advice(parts, records, [one.estimate for one in found], cameras, bundle)
    page = write_page(out, report, advice, found, parts.training)
    return Trial(bundle, parts, report, tuple(advice), page)


def _quick(settings: Any) -> Any:
    """Settings of a builder with a calibration of minutes at most."""
    if hasattr(settings, "features") and hasattr(settings.features, "calibration_frames"):
        return replace(settings, features=_quick(settings.features))
    if hasattr(settings, "calibration_frames"):
        return replace(settings, calibration_frames=min(settings.calibration_frames, _CALIBRATION))
    return settings


def _tell(progress: bool, text: str) -> None:
    if progress:
        from rich.console import Console

        Console().print(text, markup=False, highlight=False)


def _length_in_words(drives: Sequence[PosedSequence]) -> str:
    frames, metres = sum(map(len, drives)), sum(float(metres_along(d.T_map_base)[-1]) for d in drives if len(d))
    return f"{', '.join(d.name for d in drives)}: {frames} frames over {metres:.0f} m"


def _asked_in_words(parts: Split, count: int) -> str:
    text = f"{count} frames " + _WORDS[parts.kind].format(name=parts.drives[-1].name)
    if np.isfinite(parts.nearest_m):
        near = f"{100 * parts.nearest_m:.0f} cm" if parts.nearest_m < 1.0 else f"{parts.nearest_m:.1f} m"
        text += f", {near} from the nearest frame of the map (median)"
    return text


def _parts(drives: Sequence[PosedSequence], own: OwnDriveSettings) -> Split:
    """The map's frames and those that are asked."""
    if len(drives) > 1:
        *known, last = drives
        parts = [np.zeros(len(d), dtype=np.uint8) for d in known] + [np.ones(len(last), dtype=np.uint8)]
        away, _ = nearest(last.T_map_cam[:, :3, 3], np.concatenate([d.T_map_cam[:, :3, 3] for d in known]))
        return Split("drive", tuple(drives), tuple(parts), float(np.median(away)))
    try:
        parted = split(drives, own.hold_out)
    except ConfigError:
        if own.hold_out.kind != "auto" or len(drives[0]) < 2 * _EVERY:
            raise
        parted = split(drives, HoldOutSettings(kind="every", every=_EVERY))
    if not parted.held_out:
        raise DatasetError(
            f"vloc try: expected a drive of which something can be held out, found {len(drives[0])} frames of "
            f"{drives[0].name} and --hold-out {parted.kind}; leave --hold-out away, record a longer drive, or give "
            "two: vloc try MAP_DRIVE DRIVE"
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
    compared = bundle.manifest.provenance.get("images_against_poses", {})
    out = [str(one["in_words"]) for drives in compared.values() for one in drives if not one["good"]]
    localized = np.array([record.state is LocalizationState.LOCALIZED for record in records])
    errors, _ = frame_errors(records)
    share = f"{100 * localized.mean():.0f} % of the frames that were asked are LOCALIZED"
    waiting = float(np.mean([e.awaits_track for e in estimates]))
    if not calibration_of(bundle):
        out.append(
            "The map is not calibrated, so that no frame can be LOCALIZED: too few frames could be held out of it. "
            "Record a longer drive, or a second one over the same way."
        )
    elif len(records) < _FEW:
        out.append(
            f"{share}, each by itself, but only {len(records)} were asked: too few to say how it will drive. Record a "
            "longer drive, or a second one over the same way."
        )
    elif waiting > 0.0:
        out.append(
            f"{100 * waiting:.0f} % of the frames that were asked are sure, and none is LOCALIZED by itself: a map "
            "without points has no evidence but a track over real motion. Localize a bag with it, or try --backend "
            "features."
        )
    elif localized.mean() < _ENOUGH:
        out.append(f"{share}: not enough to drive with. {_reasons(estimates)}")
    elif localized.all():
        out.append(f"{share}, each by itself: good enough to drive with.")
    else:
        why = _reasons(estimates)
        out.append(" ".join([f"{share}, each by itself: good enough to drive with a track.", *([why] if why else [])]))
    places = np.array([record.T_reference[:3, 3] for record in records if record.T_reference is not None])
    distance, _ = nearest(places, cameras[:, :3, 3])
    far = distance > _FAR * np.median(distance)
    if far.any() and (~far).any() and localized[~far].mean() - localized[far].mean() > 0.2:
        out.append(
            f"Within {_metres(distance[~far].max())} of a frame of the map {100 * localized[~far].mean():.0f} % are "
            f"LOCALIZED, farther away {100 * localized[far].mean():.0f} %: record where the vehicle will drive, "
            "slower, or twice."
        )
    known = errors[np.isfinite(errors)]
    wrong = np.zeros(len(errors), dtype=bool)
    if len(known):
        wrong = localized & (errors > _GROSS * max(float(np.median(known)), _LEAST_M))
    if wrong.any():
        off = " to ".join(dict.fromkeys(_metres(float(e)) for e in (errors[wrong].min(), errors[wrong].max())))
        some = "1 LOCALIZED frame is" if wrong.sum() == 1 else f"{wrong.sum()} LOCALIZED frames are"
        out.append(
            f"{some} off by {off}, far more than the others: see the worst on the page. Either the map is wrong there, "
            "or the reference poses are."
        )
    if parts.kind in ("gaps", "every"):
        out.append(
            "The way was driven once, in one light, so this says nothing of another day. Record it again and give "
            "both: vloc try FIRST SECOND."
        )
    elif parts.kind == "pass":
        out.append(
            "All of it is of one recording: for another day record it again and give both: vloc try FIRST SECOND."
        )
    dropped = sum((Counter(drive.dropped) for drive in parts.training), Counter())
    if dropped:
        out.append("Not used: " + ", ".join(f"{n} x {name}" for name, n in dropped.items()) + ".")
    return out


def _metres(value: float) -> str:
    return f"{100 * value:.0f} cm" if value < 1.0 else f"{value:.1f} m"


def _reasons(estimates: Sequence[Estimate]) -> str:
    """What the backend says of frames that are not LOCALIZED."""
    from vloc_ros.localizers.features.localizer import FAILURES

    words = {
        "no_features": "nothing to see in {n} (dark, blurred, or a bare wall)",
        "no_pose": "nothing of the map in {n}",
        "unsupported": "too few points of the map in {n}",
        "ambiguous": "{n} that look like two places",
        "ill_posed": "{n} whose points do not fix a pose",
        "unsure": "{n} too inaccurate",
    }
    names = {value: name for name, value in FAILURES.items()}
    failed = Counter(names.get(e.diagnostics.get("failure", 0.0), "none") for e in estimates)
    told = [words[name].format(n=n) for name, n in failed.most_common() if name in words]
    return f"The others: {', '.join(told)}." if told else ""


def print_trial(trial: Trial, sources: Sequence[str], backend: str) -> None:
    """Figures, advice and what to do next, on the terminal.

    :param sources: the drives as they were named. :param backend: as it was named.
    """
    from rich.console import Console

    console = Console()

    def line(start: str, text: str) -> None:
        room = " " * len(start)
        console.print(textwrap.fill(text, console.width, initial_indent=start, subsequent_indent=room),
                      markup=False, highlight=False)  # fmt: skip

    def command(name: str, text: str) -> None:
        console.print(f"{name:<17}{text}", markup=False, highlight=False, soft_wrap=True)

    console.print()
    for name, text in in_short(trial.report):
        line(f"{name:<17}", text)
    console.print()
    for text in trial.advice:
        line("- ", text)
    console.print()
    command("look at it", str(trial.page))
    if trial.enough:
        data = " ".join(f"--data {shlex.quote(source)}" for source in sources)
        command("map all of it", f"vloc map build {backend} {data} --out maps/mine")
        command("localize a bag", f"vloc replay BAG --map {shlex.quote(str(trial.bundle.path))} --out DIR")
        command("drive", f"ros2 launch vloc_ros localizer.launch.py map:={trial.bundle.path.absolute()}")
