"""Which frames a calibration leaves out of its maps: passes where there are several, blocks of a drive where not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_train.frame_choice.route import MOMENT_NS

__all__ = ["held_out_folds"]

Ints = npt.NDArray[np.int64]
#: Frames in a row that are left out, in turn: queries are a frame's distance from the map, and far beyond it.
_LENGTHS = (1, 2, 4, 8, 16)
#: Of a third of the frames each: four folds of a drive, more of a short one, until so many frames were asked for.
_FOLDS, _MOST, _ENOUGH = 4, 12, 80


def held_out_folds(drive: Ints, stamps_ns: Ints | None = None) -> list[npt.NDArray[np.bool_]]:
    """:func:`_folds_of`, and where ``drive`` is the recording of several cameras, all images of a moment together.

    :param stamps_ns: (R,) of the frames; None: each recording is of one camera.
    """
    if stamps_ns is None:
        return _folds_of(drive)
    order = np.lexsort((stamps_ns, drive))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(drive[order]) != 0) | (np.diff(stamps_ns[order]) > MOMENT_NS)
    moment = np.empty(len(order), dtype=np.int64)
    moment[order] = np.cumsum(new) - 1
    return [mask[moment] for mask in _folds_of(drive[order][new])]


def _folds_of(drive: Ints) -> list[npt.NDArray[np.bool_]]:
    """Masks (R,) of frames that a map is made without, one a fold.

    Several drives: each of up to four of them as a whole. One: blocks of 1, 2, 4, 8, 16 frames in turn (never longer
    than a sixth of the drive), about a third of the frames a fold, other ones in every fold.

    :param drive: (R,) which drive a frame is of; frames of a drive in order.
    """
    names = np.unique(drive)
    if len(names) > 1:
        chosen = names[np.unique(np.linspace(0, len(names) - 1, min(_FOLDS, len(names))).astype(np.int64))]
        return [drive == name for name in chosen]
    count = len(drive)
    if count < 4:
        return []
    lengths = [n for n in _LENGTHS if n <= max(count // 6, 1)]
    folds = int(np.clip(np.ceil(3.0 * _ENOUGH / count), _FOLDS, _MOST))
    out = []
    for fold in range(folds):
        mask = np.zeros(count, dtype=bool)
        # The ends stay: beyond them a map knows nothing, and nobody drives.
        at, turn = 1 + fold * (lengths[-1] + 1) % max(count // 3, 1), fold
        while at < count - 1:
            length = lengths[turn % len(lengths)]
            mask[at : min(at + length, count - 1)] = True
            at += 3 * length
            turn += 1
        out.append(mask)
    return out
