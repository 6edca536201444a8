"""The drives of a protocol as sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.formats import FORMATS, Source, detect, open_source
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import ImageSource, PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import RgbImage
from vloc_train.benchmark.data import SITES, Drive, FolderDrive, Selection, SourceDrive
from vloc_train.benchmark.lens import seen_by
from vloc_train.training.town import town_drive

__all__ = ["Drives", "Part", "check_datum", "join", "overlap"]


@dataclass(frozen=True)
class Part:
    """Some frames of a named drive.

    :ivar source_digest: stands for the drive's images and poses: equal where the frames are.
    :ivar options: how it was opened. Some options change what is made of equal images: where their depth is from.
    """

    name: str
    rows: npt.NDArray[np.int64]
    sequence: PosedSequence
    source_digest: str
    options: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Equal for equal frames of an equal drive that was opened alike."""
        text = self.source_digest + self.options
        return hashlib.sha256(text.encode() + self.rows.tobytes()).hexdigest()[:16]

    def frames(self) -> PosedSequence:
        """The frames as a sequence of their own."""
        return self.sequence if len(self.rows) == len(self.sequence) else self.sequence.select(self.rows)

    def keep(self, kept: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Part:
        """Some of these frames."""
        return replace(self, rows=self.rows[kept])


def join(parts: Sequence[Part]) -> list[Part]:
    """The frames of each drive in one part, in their order, each once."""
    found: dict[str, Part] = {}
    for part in parts:
        before = found.get(part.name)
        found[part.name] = part if before is None else replace(part, rows=np.union1d(before.rows, part.rows))
    return list(found.values())


def overlap(a: Sequence[Part], b: Sequence[Part]) -> str:
    """The name of a drive of which both have a frame, or nothing."""
    for x in a:
        for y in b:
            if x.source_digest == y.source_digest and len(np.intersect1d(x.rows, y.rows)):
                return x.name
    return ""


def check_datum(parts: Sequence[Part], where: str) -> None:
    """Drives that go together must be in one map frame. :raises ConfigError: their datums differ."""
    datums = {part.sequence.datum: part.name for part in parts if part.sequence.datum is not None}
    if len(datums) > 1:
        found = "; ".join(f"{name}: {datum}" for datum, name in datums.items())
        raise ConfigError(f"{where}: expected drives with one datum, found {found}; give all of them the option datum")


@dataclass(frozen=True)
class _Grey:
    """Images without their colour."""

    source: ImageSource

    @staticmethod
    def _grey(image: RgbImage) -> RgbImage:
        return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)

    def image(self, index: int) -> RgbImage:
        return self._grey(self.source.image(index))

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        return ((index, self._grey(image)) for index, image in self.source.frames())


def _queries(name: str, path: Path, reader: Any, drive: SourceDrive) -> PosedSequence:
    """Images whose poses a benchmark keeps to itself, with NaN for poses, in the order of their stamps."""
    if not hasattr(reader, "queries"):
        raise ConfigError(f"data.{name}: queries: expected a layout with queries, found {drive.format or path}")
    options = settings_from_mapping(reader.Options, drive.options, f"data.{name}.options")
    found = reader.queries(path, options.condition, options.camera, Problems())
    order = np.argsort(found.stamps_ns, kind="stable")
    files = FolderImages(tuple(found.source.paths[i] for i in order))
    unknown = np.full((len(order), 4, 4), np.nan)
    return PosedSequence(name, found.stamps_ns[order], unknown, found.T_base_cam, found.camera, files)


def _digest(sequence: PosedSequence) -> str:
    """Of all poses and stamps, the camera, and three images."""
    digest = hashlib.sha256(sequence.T_map_cam.tobytes() + sequence.stamps_ns.tobytes())
    digest.update(repr((sequence.camera, sequence.T_base_cam.tolist())).encode())
    for index in sorted({0, len(sequence) // 2, len(sequence) - 1}):
        digest.update(np.ascontiguousarray(sequence.image(index)).tobytes())
    return digest.hexdigest()[:16]


class Drives:
    """Opens the drives of a protocol by name, each when it is first asked for.

    :param data: by name.
    :param root: what folders and sources are relative to; None where there are none.
    :param cache: where rendered frames are kept.
    :param report: told what is being rendered.
    """

    def __init__(
        self, data: Mapping[str, Drive], root: Path | None, cache: Path, report: Callable[[str], None] | None = None
    ) -> None:
        self._data, self._root, self._cache = data, root, cache
        self._report = report or (lambda _: None)
        self._open: dict[str, list[tuple[PosedSequence, str]]] = {}

    def parts(self, selection: Selection) -> list[Part]:
        """The frames that a selection names, drive by drive.

        :raises ConfigError, DatasetError, BagError: there are none.
        """
        opened = self.opened(selection.name)
        names = [selection.name] if len(opened) == 1 else [f"{selection.name}#{k}" for k in range(len(opened))]
        chosen = list(range(len(opened)))
        if selection.drive is not None:
            if selection.drive >= len(opened):
                raise ConfigError(
                    f"{selection}: expected one of the {len(opened)} drives of {selection.name}, counted from 0"
                )
            chosen = [selection.drive]
        rows = selection.rows(sum(len(opened[k][0]) for k in chosen))
        source = self._data[selection.name].source
        options = "" if source is None else json.dumps(source.options, sort_keys=True, default=str)
        out, before = [], 0
        for k in chosen:
            sequence, digest = opened[k]
            own = rows[(rows >= before) & (rows < before + len(sequence))] - before
            before += len(sequence)
            if len(own):
                out.append(Part(names[k], own, sequence, digest, options))
        return out

    def part(self, selection: Selection) -> Part:
        """The frames of a selection that are all of one drive. :raises ConfigError: they are of several."""
        parts = self.parts(selection)
        if len(parts) > 1:
            raise ConfigError(f"{selection}: expected frames of one drive, found {len(parts)}; name one: NAME#NUMBER")
        return parts[0]

    def all_parts(self, texts: Sequence[str], where: str) -> list[Part]:
        """The frames of several selections, those of one drive in one part. :param where: to name in messages."""
        return join([part for text in texts for part in self.parts(Selection.parse(text, where))])

    def opened(self, name: str) -> list[tuple[PosedSequence, str]]:
        """The drives that a name stands for, with a digest of each."""
        if name not in self._open:
            drive = self._data[name]
            if drive.town is not None:
                self._open[name] = [town_drive(drive.town, self._cache, self._report)]
            elif drive.folder is not None:
                self._open[name] = [self._folder(name, drive.folder)]
            else:
                assert drive.source is not None
                self._open[name] = self._source(name, drive.source)
            if drive.lens is not None:
                seen = [seen_by(drive.lens, sequence) for sequence, _ in self._open[name]]
                self._open[name] = [(sequence, _digest(sequence)) for sequence in seen]
        return self._open[name]

    def _source(self, name: str, drive: SourceDrive) -> list[tuple[PosedSequence, str]]:
        path = self.below_root(f"data.{name}", drive.path)
        if drive.format and drive.format not in FORMATS:
            raise ConfigError(f"data.{name}: format: expected one of {', '.join(FORMATS)}, found {drive.format!r}")
        self._report(f"opening {path}")
        reader = FORMATS[drive.format or detect(path)].reader()
        if drive.queries:
            sequences = [_queries(name, path, reader, drive)]
        else:
            sequences = open_source(Source(drive.format or None, path, drive.options))
        T_map_world = getattr(reader, "T_MAP_WORLD", None)
        if isinstance(T_map_world, np.ndarray):
            sequences = [replace(s, T_world_map=np.linalg.inv(T_map_world)) for s in sequences]
        if drive.grey:
            sequences = [replace(sequence, source=_Grey(sequence.source)) for sequence in sequences]
        return [(sequence, _digest(sequence)) for sequence in sequences]

    def require(self, names: Sequence[str]) -> None:
        """Refuse to begin without the folders of these drives.

        :raises DatasetError: some are not there; the message lists where they were looked for, and where to get them.
        """
        paths = {name: self._data[name].path or "" for name in names}
        absent = [name for name in names if self._root is None or not (self._root / paths[name]).exists()]
        if not absent:
            return
        if self._root is None:
            parts = [f"expected --root, the folder that holds {', '.join(sorted(set(paths.values())))}"]
        else:
            found = ", ".join(dict.fromkeys(str(self._root / paths[name]) for name in absent))
            parts = [f"expected data in {len(names)} folders, found nothing at {len(absent)} of them: {found}"]
        sources = [source for name in absent if (source := self._data[name].source) is not None]
        parts += dict.fromkeys(f"to get it: {site}" for s in sources if (site := s.get or SITES.get(s.format, "")))
        if self._root is not None:
            parts.append("--root names the folder that holds these; --only computes rows that need fewer of them")
        raise DatasetError("; ".join(parts))

    def below_root(self, where: str, path: str) -> Path:
        """A path of the protocol. :raises ConfigError: there is no root, or the path leaves it."""
        if self._root is None:
            raise ConfigError(f"{where}: expected --root, the folder that holds {path}")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ConfigError(f"{where}: expected a path below --root, found {path!r}")
        return self._root / path

    def _folder(self, name: str, drive: FolderDrive) -> tuple[PosedSequence, str]:
        path = self.below_root(f"data.{name}", drive.path)
        layout = detect(path)
        known = {field.name for field in fields(FORMATS[layout].reader().Options)}
        options = drive.options("image" if layout == "bag" else "images")
        # Only the TUM benchmark's own images come with a lens; those of other folders are said to be as it made them.
        lens = options.pop("distortion") if "distortion" in options and "distortion" not in known else ()
        (sequence,) = open_source(Source(layout, path, options))
        if lens:
            camera = replace(sequence.camera, distortion_model="plumb_bob", distortion=lens)
            sequence = replace(sequence, camera=camera)
        if drive.grey:
            sequence = replace(sequence, source=_Grey(sequence.source))
        return sequence, _digest(sequence)
