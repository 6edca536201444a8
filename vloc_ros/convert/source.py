"""Any source that can be read (:mod:`vloc_ros.datasets.formats`) to bags: one, or one for each of its drives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.convert.parts import is_finished
from vloc_ros.convert.sequence import ImageFormat, Summary, identity_of, noisy_odometry, write_drive
from vloc_ros.convert.writer import Storage, check_output
from vloc_ros.datasets.formats import Source, detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import GnssTrack, PosedSequence
from vloc_ros.errors import BagError, ConfigError

__all__ = ["Conversion", "convert_drives", "convert_source", "select_frames"]

#: With a selection of frames, fixes so long before the first and after the last of them are kept.
_MARGIN_NS = 10**9


@dataclass(frozen=True)
class Conversion:
    """What is chosen of a drive and how it is written; whichever source it comes from.

    ``frames``, ``hold_out`` and ``part`` as :func:`select_frames` has them.
    ``odometry_noise`` (share of the distance, radians per square root of a metre) replaces the drive's odometry by one
    made from the poses, reproducibly by ``seed``.
    """

    frames: str | None = None
    hold_out: str | None = None
    part: str = "train"
    odometry_noise: tuple[float, float] | None = None
    seed: int = 0
    image_format: ImageFormat | None = None
    storage: Storage = "mcap"

    def of(self, drive: PosedSequence) -> PosedSequence:
        """The chosen frames. :raises ConfigError: nothing is left, or no such selection."""
        if self.frames or self.hold_out:
            chosen = drive.select(select_frames(len(drive), self.frames, self.hold_out, self.part))
            drive = replace(chosen, gnss=_around(chosen.gnss, chosen.stamps_ns))
        if self.odometry_noise is not None:
            drive = replace(drive, T_odom_base=noisy_odometry(drive.T_map_base, *self.odometry_noise, self.seed))
        return drive


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


def convert_source(
    source: Source,
    out: str | Path,
    conversion: Conversion | None = None,
    *,
    overwrite: bool = False,
    keep_going: bool = False,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Summary]:
    """Write the drives of a source: one to ``out`` itself, several to ``out/<name of the drive>``.

    :param keep_going: what is faulty is skipped and counted.
    :param resume: continue an interrupted conversion with the same arguments; of several drives, those that it
        finished are left as they are.
    :raises DatasetError, ConfigError, BagError: see the readers and the writer.
    """
    name = source.format or detect(source.path)
    problems = Problems(keep_going)
    if not overwrite and (Path(out) / "metadata.yaml").exists():  # before a long reading, not after
        check_output(Path(out), "mcap", overwrite)
    drives = open_source(replace(source, format=name), problems)
    settings = {"format": name, "path": str(source.path.resolve()), "options": dict(source.options)}
    return convert_drives(
        drives, out, conversion, settings, overwrite=overwrite, problems=problems, resume=resume, progress=progress
    )


def convert_drives(
    drives: Sequence[PosedSequence],
    out: str | Path,
    conversion: Conversion | None,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    problems: Problems | None = None,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Summary]:
    """:func:`convert_source` for drives that are already open.

    :param settings: plain values that say which images the drives have, so that only the same are continued with.
    """
    conversion, problems, out = conversion or Conversion(), problems or Problems(), Path(out)
    names = [_file_name(drive.name) for drive in drives]
    if len(set(names)) < len(names):
        names = [f"{name}_{number}" for number, name in enumerate(names)]
    paths = [out / name for name in names] if len(drives) > 1 else [out]
    if len(drives) > 1 and (out / "metadata.yaml").exists():
        raise BagError(f"{out}: expected a folder for {len(drives)} bags, found a bag; name another output")
    chosen = [conversion.of(drive) for drive in drives]
    plain = {**settings, "frames": conversion.frames, "hold_out": conversion.hold_out, "part": conversion.part}
    plain.update(image_format=conversion.image_format, storage=conversion.storage)
    identities = [identity_of(drive, {**plain, "drive": drive.name}) for drive in chosen]
    again = resume and not overwrite and len(drives) > 1
    done = [again and is_finished(path, key) for path, key in zip(paths, identities, strict=True)]
    for path, finished in zip(paths, done, strict=True):
        if not finished:  # before minutes of work, not after
            check_output(path, conversion.storage, overwrite)
    if all(done):
        raise BagError(f"{out}: all {len(drives)} drives are already there; delete it or name another output")
    before, total = 0, sum(len(drive) for drive in chosen)
    summaries = []
    for drive, path, key, finished in zip(chosen, paths, identities, done, strict=True):
        base = before
        before += len(drive)
        if finished:
            continue

        def report(frames: int, _: int, base: int = base) -> None:
            if progress:
                progress(base + frames, total)

        summary = write_drive(
            drive, path, image_format=conversion.image_format, storage=conversion.storage, overwrite=overwrite,
            progress=report, problems=problems, identity=key, resume=resume,
        )  # fmt: skip
        summaries.append(summary)
    if len(drives) == 1:  # whatever the reader left out, it left out of this drive
        skipped = {**problems.counts, **summaries[0].skipped}
        summaries = [replace(summaries[0], skipped={k: max(n, problems.counts.get(k, 0)) for k, n in skipped.items()})]
    return summaries


def _around(gnss: GnssTrack | None, stamps_ns: Any) -> GnssTrack | None:
    """The fixes of the time that the chosen frames span."""
    if gnss is None:
        return None
    inside = (gnss.stamps_ns >= stamps_ns[0] - _MARGIN_NS) & (gnss.stamps_ns <= stamps_ns[-1] + _MARGIN_NS)
    variance = None if gnss.variance_m2 is None else np.asarray(gnss.variance_m2)[inside]
    return replace(
        gnss,
        stamps_ns=gnss.stamps_ns[inside],
        latitude_deg=gnss.latitude_deg[inside],
        longitude_deg=gnss.longitude_deg[inside],
        altitude_m=gnss.altitude_m[inside],
        variance_m2=variance,
    )


def _file_name(text: str) -> str:
    """A drive's name as the name of a folder. :raises ConfigError: nothing of it can be."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")
    if not name:
        raise ConfigError(f"expected a drive with a name, found {text!r}")
    return name
