"""What to do about a drive and its map, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vloc_train.own_drive.ambiguity import Ambiguity
from vloc_train.own_drive.held_out import HeldOut
from vloc_train.own_drive.hold_out import Split
from vloc_train.own_drive.pieces import Piece, place_in_words, weak_pieces
from vloc_train.own_drive.route import Nearby
from vloc_train.own_drive.selection import IMAGE_REASONS, Choice

__all__ = ["advice", "one_way_share"]


def advice(
    choices: Sequence[Choice],
    split: Split,
    held: Sequence[HeldOut],
    pieces: Sequence[Piece],
    ambiguity: Ambiguity,
    calibrated: bool,
) -> list[str]:
    """What to do about it, in sentences with numbers; the most useful first."""
    out: list[str] = []
    count = sum(len(h.error_m) for h in held)
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
    for piece in weak_pieces(pieces):
        where = place_in_words(piece)
        for reason in piece.reasons:
            bad = next((n for n in IMAGE_REASONS if reason.endswith(f"frames {n}")), None)
            if bad is not None:
                out.append(f"Record again {where}: {reason.replace(' frames ', ' frames were ')}; {remedy[bad]}.")
            elif reason.startswith("no frame"):
                out.append(f"Record again {where}: {reason}; was the reference lost there?")
            elif reason.startswith("frames "):
                out.append(f"Record again {where}, slower or with more frames a second: {reason}.")
            else:
                out.append(f"Expect little {where}: {reason}. Another drive through there helps.")
    if split.kind in ("gaps", "every"):
        out.append(
            "The route was driven once, in one light. Record a second drive at another time of day, add it with --data "
            "(it is then held out as a whole), and keep a third one for the test with vloc replay."
        )
    for pair in ambiguity.pairs[:3]:
        a, b = pair.T_a[:2, 3], pair.T_b[:2, 3]
        out.append(
            f"The places at x {a[0]:.0f}, y {a[1]:.0f} and x {b[0]:.0f}, y {b[1]:.0f}, {pair.distance_m:.0f} m apart, "
            f"look alike ({pair.frames} frames): a vehicle that starts there needs an initial pose, or some metres of "
            "driving."
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
