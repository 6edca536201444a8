"""Which frames of a drive to keep: ``START:STOP:STEP`` and blocks held out of every so many frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError

__all__ = ["select_frames"]


def select_frames(
    count: int, frames: str | None = None, hold_out: str | None = None, part: str = "train"
) -> npt.NDArray[np.int64]:
    """Indices of the kept frames, increasing.

    :param frames: a slice as Python writes it, ``0::2`` for every other frame.
    :param hold_out: ``LENGTH:PERIOD``: the last LENGTH of every PERIOD consecutive frames are for testing; ``part``
        says which side is wanted, ``train`` or ``test``. Counted before ``frames`` is applied.
    :raises ConfigError: not such text, or nothing is left.
    """
    keep = np.ones(count, dtype=bool)
    if hold_out:
        try:
            length, period = (int(v) for v in hold_out.split(":"))
        except ValueError as error:
            raise ConfigError(f"hold-out: expected LENGTH:PERIOD such as 20:100, found {hold_out!r}") from error
        if not 0 < length < period:
            raise ConfigError(f"hold-out: expected 0 < LENGTH < PERIOD, found {hold_out!r}")
        if part not in ("train", "test"):
            raise ConfigError(f"part: expected train or test, found {part!r}")
        test = np.arange(count) % period >= period - length
        keep = test if part == "test" else ~test
    if frames:
        fields = frames.split(":")
        try:
            values = [int(v) if v else None for v in fields]
        except ValueError as error:
            raise ConfigError(f"frames: expected START:STOP:STEP, found {frames!r}") from error
        if not 2 <= len(values) <= 3 or (len(values) == 3 and values[2] is not None and values[2] <= 0):
            raise ConfigError(f"frames: expected START:STOP:STEP with a positive step, found {frames!r}")
        sliced = np.zeros(count, dtype=bool)
        sliced[slice(*values)] = True
        keep &= sliced
    indices = np.flatnonzero(keep).astype(np.int64)
    if not len(indices):
        raise ConfigError(f"no frame is left of {count} (frames {frames or 'all'}, hold-out {hold_out or 'none'})")
    return indices
