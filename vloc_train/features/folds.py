"""Which frames a calibration leaves out of its maps: passes where there are several, blocks of a drive where not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["held_out_folds"]

Ints = npt.NDArray[np.int64]
#: Frames in a row that are left out, in turn: queries are a frame's distance from the map, and far beyond it.
_LENGTHS = (1, 3, 8, 20)
_FOLDS = 4


def held_out_folds(drive: Ints, folds: int = _FOLDS) -> list[npt.NDArray[np.bool_]]:
    """Masks (R,) of frames that a map is made without, one a fold.

    Several drives: each of up to ``folds`` of them as a whole. One: blocks of 1, 3, 8, 20, ... frames (never longer
    than a sixth of the drive), about a third of the frames a fold, other ones in every fold.

    :param drive: (R,) which drive a frame is of; frames of a drive in order.
    """
    names = np.unique(drive)
    if len(names) > 1:
        chosen = names[np.unique(np.linspace(0, len(names) - 1, min(folds, len(names))).astype(np.int64))]
        return [drive == name for name in chosen]
    count = len(drive)
    lengths = [n for n in _LENGTHS if n <= max(count // 6, 1)]
    out = []
    for fold in range(folds):
        mask = np.zeros(count, dtype=bool)
        at, turn = 1 + fold * max(lengths[-1] // 2, 1) % max(count // 4, 1), fold
        while at < count - 1:
            length = lengths[turn % len(lengths)]
            mask[at : min(at + length, count - 1)] = True
            at += length + max(2 * length, 2)
            turn += 1
        out.append(mask)
    return out
