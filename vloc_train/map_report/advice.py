"""What to do about a drive and its map, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vloc_ros.types import LocalizationState
from vloc_train.frame_choice.route import Nearby
from vloc_train.frame_choice.selection import IMAGE_REASONS, Choice
from vloc_train.frame_choice.split import Split
from vloc_train.map_report.accuracy import HeldOutFrames
from vloc_train.map_report.ambiguity import Ambiguity
from vloc_train.map_report.segments import Segment, median, place_in_words, weak_segments

__all__ = ["advice", "one_way_share"]

#: A map that localizes a smaller share of its held-out frames is not yet one to drive with.
_ENOUGH = 0.5
#: So many inaccurate places are told one by one.
_TOLD = 3


def advice(
    choices: Sequence[Choice],
    split: Split,
    held: Sequence[HeldOutFrames],
    segments: Sequence[Segment],
    ambiguity: Ambiguity,
    calibrated: bool,
    in_folds: int = 0,
) -> list[str]:
    """What to do about it, in sentences with numbers; the most useful first.

    :param in_folds: frames that were asked of maps without them, where the map itself has all.
    """
    out: list[str] = []
    count = sum(len(h.error_m) for h in held) or in_folds
    localized = [s is LocalizationState.LOCALIZED for h in held for s in h.state]
    if calibrated and localized and np.mean(localized) < _ENOUGH:
        error = median(np.concatenate([h.error_m for h in held]))
        out.append(
            f"The map is not good enough: {100 * np.mean(localized):.0f} % of {count} held-out frames are LOCALIZED, "
            f"median error {error:.2f} m. Train longer or with a larger preset; if that does not help, look at the "
            "reference (--time-offset, --extrinsics) and at the weak places."
        )
    if not calibrated:
        out.append(
            f"The covariance is not calibrated ({count} held-out frames; 20 are the least, some hundred are good): no "
            "frame will be called LOCALIZED. Record a longer drive, or calibrate on another: "
            "vloc map calibrate MAP --data DRIVE."
        )
    elif count < 60:
        out.append(
            f"The covariance is calibrated on {count} frames only, and widened for that; some hundred are good. "
            "Calibrate on another drive: vloc map calibrate MAP --data DRIVE."
        )
    remedy = {
        "blurred": "drive slower there, or expose for a shorter time",
        "dark": "there is not enough light for the exposure",
        "overexposed": "limit the exposure; was the sun in the lens?",
        "shows nothing": "was the lens covered?",
        "damaged": "the recording lost data; is the disk fast enough?",
    }
    inaccurate = []
    for segment in weak_segments(segments):
        where = place_in_words(segment)
        for reason in segment.reasons:
            bad = next((n for n in IMAGE_REASONS if reason.endswith(f"frames {n}")), None)
            if bad is not None:
                out.append(f"Record again {where}: {reason.replace(' frames ', ' frames were ')}; {remedy[bad]}.")
            elif reason.startswith("no frame"):
                out.append(f"Record again {where}: {reason}; was the reference lost there?")
            elif reason.startswith("frames "):
                out.append(f"Record again {where}, slower or with more frames a second: {reason}.")
        wrong = [r for r in segment.reasons if r.startswith(("error", "sigma"))]
        if wrong:
            inaccurate.append((segment.stop_m - segment.start_m, f"{where}: {', '.join(wrong)}"))
    inaccurate.sort(key=lambda item: -item[0])
    out += [f"Expect little {text}. Another drive through there helps." for _, text in inaccurate[:_TOLD]]
    if len(inaccurate) > _TOLD:
        out.append(f"{len(inaccurate) - _TOLD} more places are inaccurate: see the weak places.")
    if split.kind in ("gaps", "every"):
        out.append(
            "The route was driven once, in one light. Record a second drive at another time of day, add it with --data "
            "(it is then held out as a whole), and keep a third one for the test with vloc replay."
        )
    if ambiguity.pairs:
        where = "; ".join(
            f"x {p.T_a[0, 3]:.0f}, y {p.T_a[1, 3]:.0f} and x {p.T_b[0, 3]:.0f}, y {p.T_b[1, 3]:.0f}, "
            f"{p.distance_m:.0f} m apart ({p.frames} frames)"
            for p in ambiguity.pairs[:3]
        )
        out.append(
            f"{100 * ambiguity.share:.0f} % of the images have a double elsewhere: a vehicle starting there needs an "
            f"initial pose, or some metres of driving. Most alike: {where}."
        )
    way = one_way_share(split)
    if way > 0.8:
        out.append(
            "The streets were driven in one direction: the other one will not be localized. Drive both if both are "
            "needed."
        )
    lost = sum(c.sequence.dropped.get("image without a pose", 0) for c in choices)
    posed = sum(len(c.reason) for c in choices)
    if lost > 0.05 * (lost + posed):
        out.append(
            f"{lost} of {lost + posed} images have no reference pose. Are poses missing, or further apart than "
            "--max-gap-s?"
        )
    return out


def one_way_share(split: Split) -> float:
    """Share of the frames of the map that have none near them that looks the other way."""
    T = np.concatenate([d.T_map_cam for d in split.training])
    rows = np.unique(np.linspace(0, len(T) - 1, min(len(T), 500)).round().astype(np.int64))
    nearby = Nearby(T, 6.0)
    forward = T[:, :3, 2]
    alone = [not (forward[nearby.of(T[i])] @ forward[i] < -0.7).any() for i in rows]
    return float(np.mean(alone))
