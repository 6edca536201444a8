"""What ``vloc try`` shows: some lines on the terminal, and a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.evaluation.document import Document, write_json
from vloc_ros.evaluation.metrics import FrameRecord, frame_errors
from vloc_ros.evaluation.plots import caption, draw_all
from vloc_ros.evaluation.report import table_rows
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.staging import replacing
from vloc_ros.types import Array, Estimate, LocalizationState, Matches, RgbImage

__all__ = ["Asked", "in_short", "write_page"]

#: Pixels of half a picture of matches, upright or wide, and the white between the halves.
_PIXELS, _BETWEEN = 180_000, 8
#: How far away things are, m, where nothing was seen again.
_DEPTH_M = 5.0


_OTHER_STATES = {
    LocalizationState.DEGRADED: "DEGRADED (a pose, but unsure)",
    LocalizationState.LOST: "LOST (no pose)",
}


@dataclass(frozen=True)
class Asked:
    """One frame that was asked: where it is from, and what came of it."""

    drive: PosedSequence
    index: int
    estimate: Estimate
    record: FrameRecord

    @property
    def error(self) -> tuple[float, float]:
        """Of the published pose: metres and degrees, infinite without one."""
        metres, degrees = frame_errors([self.record])
        return float(metres[0]), float(degrees[0])


def in_short(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures that matter first, as names and texts."""
    states, trial = report["states"], report["try"]
    localized = f"{100 * states.get(LocalizationState.LOCALIZED.value, 0.0):.0f} %"
    for state, words in _OTHER_STATES.items():
        if states.get(state.value):
            localized += f"; {100 * states[state.value]:.0f} % {words}"
    size, median = (
        f"{report['map_bytes'] / 1e6:.1f} MB",
        (report[f"median_{k}"] for k in ("translation_m", "rotation_deg")),
    )
    shares = (
        f"{_length(r['translation_m'])} {r['rotation_deg']:g}°: {100 * r['share']:.0f} %" for r in report["recall"][:4]
    )
    rows = [
        ("map", f"{trial['map_frames']} frames, {size}, made in {_time(trial['map_s'])}"),
        ("asked", trial["asked"]),
        ("LOCALIZED", localized),
        ("median error", f"{_pose(*median)} over all that were asked"),
        ("within", ", ".join(shares)),
    ]
    if np.isfinite(report["max_translation_localized_m"]):
        worst = _pose(report["max_translation_localized_m"], report["max_rotation_localized_deg"])
        rows.append(("worst LOCALIZED", worst))
        share = report["nees_localized"]["share_in_95"]
        rows.append(("covariance", f"{100 * share:.0f} % of the LOCALIZED within their 95 % ellipsoid"))
    rows.append(("time a frame", f"{report['latency_ms']['p50']:.0f} ms on {report['device']}"))
    return rows


def write_page(
    out: Path,
    report: Mapping[str, Any],
    advice: Sequence[str],
    asked: Sequence[Asked],
    known: Sequence[PosedSequence],
) -> Path:
    """Write ``OUT/report.json``, ``report.md`` and ``report.html`` with pictures; the path of the last.

    :param known: the frames of the map.
    """
    records = [one.record for one in asked]
    cameras = np.concatenate([drive.T_map_cam for drive in known])
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("seen_*.jpg"):
        old.unlink()
    document = Document(f"vloc try: {report['bag']}")
    document.heading("What to do")
    document.items(advice)
    document.heading("In short")
    document.facts(in_short(report))
    shown, depth = _shown(asked), _usual_depth(asked)
    if shown:
        document.heading("What was seen again")
        document.paragraph(
            "Left a frame that was asked, right the nearest frame of the map with the same points. Green: points "
            "of the map that agree with the pose. Red: they were matched and do not agree."
        )
    for number, (words, one) in enumerate(shown):
        path = folder / f"seen_{number}.jpg"
        with replacing(path) as stream:
            stream.write(
                cv2.imencode(".jpg", cv2.cvtColor(_picture(one, known, depth), cv2.COLOR_RGB2BGR))[1].tobytes()
            )
        document.picture(path, words)
    document.heading("Along the way")
    for picture in draw_all(records, folder, cameras[:, :3, 3]):
        document.picture(picture, caption(picture))
    document.heading("All figures")
    document.facts(table_rows(report))
    document.paragraph(
        "Medians, recalls and states are over all frames that were asked; a frame without a published pose is an "
        "infinite error."
    )
    write_json(out / "report.json", {**report, "advice": list(advice)})
    return document.write(out).with_suffix(".html")


def _shown(asked: Sequence[Asked]) -> list[tuple[str, Asked]]:
    """A usual frame, the one with the largest error that was LOCALIZED, and one that was not; with what they are."""
    localized = sorted((a for a in asked if a.record.state is LocalizationState.LOCALIZED), key=lambda a: a.error[0])
    silent = [a for a in asked if a.record.T_map_base is None]
    chosen: list[tuple[str, Asked]] = []
    if localized:
        usual, worst = localized[len(localized) // 2], localized[-1]
        chosen.append((f"The median of what is LOCALIZED: {_pose(*usual.error)} off.", usual))
        if worst is not usual:
            chosen.append((f"The worst that is LOCALIZED: {_pose(*worst.error)} off.", worst))
    if silent:
        chosen.append(("One for which nothing was published, beside what should have been recognised.",
                       silent[len(silent) // 2]))  # fmt: skip
    return [(w, a) for w, a in chosen if a in silent or _matched(a)]


def _matched(one: Asked) -> bool:
    return one.estimate.matches is not None and len(one.estimate.matches.points) > 0


def _usual_depth(asked: Sequence[Asked]) -> float:
    """Median distance of the points that were seen again, m."""
    depths = [
        float(np.median(np.linalg.norm(a.estimate.matches.points - a.estimate.T_map_cam[:3, 3], axis=1)))
        for a in asked
        if a.estimate.matches is not None and _matched(a)
    ]
    return float(np.median(depths)) if depths else _DEPTH_M


def _picture(one: Asked, known: Sequence[PosedSequence], depth: float) -> RgbImage:
    """The frame beside the nearest one of the map, with its matches; without a pose nearest to where it really was."""
    matches, published = one.estimate.matches, one.record.T_map_base is not None
    T = one.estimate.T_map_cam if published else one.drive.T_map_cam[one.index]
    apart = [_apart(drive.T_map_cam, T, depth) for drive in known]
    number = int(np.argmin([a.min() for a in apart]))
    drive, row = known[number], int(apart[number].argmin())
    left, right = one.drive.image(one.index), drive.image(row)
    height = max(1, round((_PIXELS * left.shape[0] / left.shape[1]) ** 0.5))
    if matches is None or not published:
        halves = [_scaled(left, height)[0], _scaled(right, height)[0]]
    else:
        T_cam_map = inverse(drive.T_map_cam[row])
        in_camera = matches.points @ T_cam_map[:3, :3].T + T_cam_map[:3, 3]
        pixels, seen = project(drive.camera, in_camera)
        pixels = np.where((seen & (in_camera[:, 2] > 0))[:, None], pixels, -1e6)
        halves = [_drawn(left, height, matches.pixels, matches), _drawn(right, height, pixels, matches)]
    return np.concatenate([halves[0], np.full((height, _BETWEEN, 3), 255, dtype=np.uint8), halves[1]], axis=1)


def _apart(T_map_cam: Array, T: Array, depth: float) -> Array:
    """(N,) how differently two cameras see points at this depth, m."""
    turned = np.linalg.norm(T_map_cam[:, :3, 2] - T[:3, 2], axis=1)
    return np.asarray(np.linalg.norm(T_map_cam[:, :3, 3] - T[:3, 3], axis=1) + depth * turned)


def _scaled(image: RgbImage, height: int) -> tuple[RgbImage, float]:
    scale = height / image.shape[0]
    size = max(1, round(image.shape[1] * scale)), height
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)), scale


def _drawn(image: RgbImage, height: int, pixels: Array, matches: Matches) -> RgbImage:
    out, scale = _scaled(image, height)
    for (x, y), good in zip((pixels + 0.5) * scale - 0.5, matches.inliers, strict=True):
        if -1 <= x < out.shape[1] and -1 <= y < height:
            cv2.circle(out, (round(x), round(y)), 3, (0, 200, 0) if good else (230, 30, 30), 1, cv2.LINE_AA)
    return out


def _pose(metres: float, degrees: float) -> str:
    return "none" if not np.isfinite(metres) else f"{_length(metres)} {degrees:.2g}°"


def _length(metres: float) -> str:
    if metres < 0.00995:
        return f"{1000 * metres:.2g} mm"
    return f"{100 * metres:.2g} cm" if metres < 0.995 else f"{metres:.3g} m"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
