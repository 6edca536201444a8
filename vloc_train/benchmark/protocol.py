"""A protocol: drives, splits of them into map and queries, the steps that make maps, and the rows of the table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from vloc_ros.errors import ConfigError
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS
from vloc_ros.settings import ranged, settings_from_mapping
from vloc_train.benchmark.paper import Average, PaperRow, Published
from vloc_train.benchmark.prior import Prior
from vloc_train.training.town import TownDrive

__all__ = [
    "LEFT_OUT",
    "MAP",
    "ORACLE",
    "PRIOR",
    "QUERY_LEFT_OUT",
    "SPECIAL",
    "Claim",
    "Drive",
    "FolderDrive",
    "Protocol",
    "Row",
    "Selection",
    "SourceDrive",
    "Split",
    "Step",
    "Stray",
    "built_in",
    "check_claims",
    "load",
    "protocol_text",
    "share_limits",
]

# The built-in protocols of ``vloc evaluate``, as YAML: which drives, which maps are made of them, which rows.


#: Package data: one YAML file a protocol.
_PROTOCOLS = resources.files("vloc_train.benchmark").joinpath("protocols")


def built_in() -> list[str]:
    """Names of the protocols that come with the package."""
    files = _PROTOCOLS.iterdir()
    return sorted(f.name[: -len(".yaml")] for f in files if f.name.endswith(".yaml"))


def protocol_text(name: str) -> str:
    """The YAML of a built-in protocol. :raises ConfigError: there is none of this name."""
    if name not in built_in():
        raise ConfigError(f"expected a protocol out of {', '.join(built_in())}, or a YAML file, found {name!r}")
    return _PROTOCOLS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


# Where the drives of a protocol come from: the synthetic town, a folder, or a data set in a layout of its own.


@dataclass(frozen=True)
class FolderDrive:
    """A bag or data-set folder below ``--root``; the other fields are those of KITTI's and flat folders
    (:class:`vloc_ros.datasets.kitti.Options`). A folder with ``groundtruth.txt`` is one of the TUM RGB-D benchmark
    and needs ``intrinsics``. ``distortion`` (k1, k2, p1, p2 and perhaps k3) is that of the images, which stay as they
    are; ``grey`` takes the colour out of them."""

    path: str
    images: str | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    camera_offset: tuple[float, float, float] | None = None
    world: Literal["camera", "y_up", "z_up"] = "camera"
    distortion: tuple[float, ...] = ()
    grey: bool = False


@dataclass(frozen=True)
class SourceDrive:
    """A data set below ``--root`` in any layout that ``vloc convert`` reads; it may hold several drives.

    :param path: below ``--root``.
    :param format: a name of :data:`vloc_ros.datasets.formats.FORMATS`; empty: found out from the folder.
    :param options: of the layout; checked when the data is opened.
    :param queries: the images that the data set's list of queries names, whose poses nobody has; they can be localized
        and submitted, not counted.
    :param grey: take the colour out of the images.
    :param get: where to get the data, where the layout alone does not say.
    """

    path: str
    format: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    queries: bool = False
    grey: bool = False
    get: str = ""


@dataclass(frozen=True)
class Drive:
    """Where a drive, or the drives of one source, come from: one of the three."""

    town: TownDrive | None = None
    folder: FolderDrive | None = None
    source: SourceDrive | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.town, self.folder, self.source)) != 1:
            raise ConfigError("expected either town, folder or source")

    @property
    def path(self) -> str | None:
        """The folder below ``--root``; None for a drive that is rendered."""
        given = self.folder or self.source
        return None if given is None else given.path


# ``name[start:stop:step]``: some frames of a named drive, as protocols write it.


#: The frames that the split at hand has its map from.
MAP = "$map"
#: The frames of the same drives that a fold leaves out of its map because they are too close to its queries.
LEFT_OUT = "$left_out"
#: The frames of the query drives at the moments of those, which are queries of other folds.
QUERY_LEFT_OUT = "$query_left_out"
#: Names that stand for other frames in every fold.
SPECIAL = (MAP, LEFT_OUT, QUERY_LEFT_OUT)
_NAME = r"\$map|\$left_out|\$query_left_out|[A-Za-z_][A-Za-z0-9_]*"
_NUMBER = r"-?\d{1,9}"
_PATTERN = re.compile(rf"({_NAME})(?:#(\d{{1,6}}))?(?:\[({_NUMBER})?:({_NUMBER})?(?::({_NUMBER})?)?\])?")


@dataclass(frozen=True)
class Selection:
    """Frames of the drive ``name``, by a slice as Python has it but forwards only.

    :param drive: one of the drives of a source that has several, counted from 0; None: all.
    :raises ConfigError: a step that is not positive.
    """

    name: str
    start: int | None = None
    stop: int | None = None
    step: int | None = None
    drive: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 1:
            raise ConfigError(f"{self.name}: expected a step of at least 1, found {self.step}")

    @classmethod
    def parse(cls, text: object, where: str) -> Selection:
        """Read ``name``, ``name[start:stop]`` or ``name[start:stop:step]``. :raises ConfigError: it is something else.

        :param where: the place to name in messages.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(
                f"{where}: expected NAME or NAME[START:STOP:STEP], or NAME#DRIVE before the bracket, found {text!r}"
            )
        drive, start, stop, step = (None if group is None else int(group) for group in found.groups()[1:])
        if drive is not None and found[1] in SPECIAL:
            raise ConfigError(f"{where}: expected {found[1]} without a number, found {text!r}")
        try:
            return cls(found[1], start, stop, step, drive)
        except ConfigError as problem:
            raise ConfigError(f"{where}: {problem}") from problem

    def __str__(self) -> str:
        name = self.name if self.drive is None else f"{self.name}#{self.drive}"
        if (self.start, self.stop, self.step) == (None, None, None):
            return name
        start, stop = ("" if v is None else v for v in (self.start, self.stop))
        return f"{name}[{start}:{stop}{'' if self.step is None else f':{self.step}'}]"

    def rows(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers of the frames in a drive of ``count``. :raises ConfigError: none is left."""
        rows = np.arange(count, dtype=np.int64)[self.start : self.stop : self.step]
        if not len(rows):
            raise ConfigError(f"{self}: expected at least one frame, found none of the drive's {count}")
        return rows


# The statements of a protocol, and whether they hold for the figures that came out.


_SHARE = re.compile(r"(?:localizer_)?recall_(\d+(?:\.\d+)?)m_(\d+(?:\.\d+)?)deg")


def share_limits(figure: str) -> tuple[float, float] | None:
    """The limits (m, degrees) of a figure that is a share of frames; None for another figure."""
    found = _SHARE.fullmatch(figure)
    return None if found is None else (float(found[1]), float(found[2]))


@dataclass(frozen=True)
class Claim:
    """A statement about figures of the table, checked and printed with them.

    It holds where ``figure`` of the row is at most ``at_most``, at least ``at_least``, or at most ``factor`` times that
    of ``against``.

    :param text: the claim in words.
    :param split: name of a split. :param method: the row. :param against: the row to compare with.
    :param figure: a number of the rows, or a share: ``localizer_recall_0.05m_0.2deg`` of all queries, and
        ``recall_0.05m_0.2deg`` of published poses.
    :param factor: see above. :param at_most: see above. :param at_least: see above.
    """

    text: str
    split: str
    method: str
    figure: str = "localizer_median_translation_m"
    against: str = ""
    factor: float = ranged(1.0, minimum=0.0)
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is not None) + (self.at_least is not None) + bool(self.against) != 1:
            raise ConfigError("expected either at_most, or at_least, or against with a factor")


def check_claims(claims: Sequence[Claim], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every claim with its figures; ``holds`` is None where a row is missing or has no such number."""
    table = {(row["split"], row["method"]): row for row in rows}
    out = []
    for claim in claims:
        found = _number(table.get((claim.split, claim.method)), claim.figure)
        other = _number(table.get((claim.split, claim.against)), claim.figure) if claim.against else None
        limit = claim.at_most if claim.at_least is None else claim.at_least
        if limit is None and other is not None:
            limit = claim.factor * other
        holds = None
        if found is not None and limit is not None:
            holds = found >= limit if claim.at_least is not None else found <= limit
        out.append({
            "text": claim.text,
            "split": claim.split,
            "method": claim.method,
            "against": claim.against,
            "figure": claim.figure,
            "found": found,
            "other": other,
            "limit": limit,
            "at_least": claim.at_least is not None,
            "holds": holds,
        })  # fmt: skip
    return out


def _number(row: Mapping[str, Any] | None, figure: str) -> float | None:
    limits = share_limits(figure)
    value = None if row is None else row.get(figure) if limits is None else _share(row, figure, limits)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return float(value)


def _share(row: Mapping[str, Any], figure: str, limits: tuple[float, float]) -> Any:
    for recall in row.get("localizer_recall" if figure.startswith("localizer_") else "recall", ()):
        if (recall["translation_m"], recall["rotation_deg"]) == limits:
            return recall["share"]
    return None


#: The method whose row every split gets: always answer with the map image nearest to the truth.
ORACLE = "oracle"
#: The method whose row a split with a prior gets: always answer with the prior.
PRIOR = "prior"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Split:
    """What the map is made from and what is localized in it.

    :param map: selections of drives.
    :param query: selections of drives.
    :param folds: with n above 1 there are n maps; fold r asks every n-th query from the r-th on.
    :param apart_frames: map frames less than so many frames from the stamp of one of the fold's queries are left out.
    :param within_m: only queries that come so close to a map frame; 0: all.
    :param within_deg: and look at most so far away from its viewing direction.
    :param prior: what the queries are told about their poses; none: nothing.
    :param submission: write the poses of its queries for the long-term visual localization benchmark.
    :param about: what it is, for the table.
    """

    map: tuple[str, ...]
    query: tuple[str, ...]
    folds: int = ranged(1, minimum=1, maximum=1000)
    apart_frames: int = ranged(0, minimum=0)
    within_m: float = ranged(0.0, minimum=0.0)
    within_deg: float = ranged(180.0, minimum=0.0, maximum=180.0)
    prior: Prior | None = None
    submission: bool = False
    about: str = ""


@dataclass(frozen=True)
class Step:
    """One map: trained, built with what another one has learned, densified, or a cascade of two others.

    In selections ``$map`` stands for the split's map frames, and ``$left_out`` for those of the same drives that a fold
    leaves out of its map (``apart_frames``). ``$query_left_out`` are the frames of the query drives at the moments of
    the latter: queries of other folds.

    :param train: a backend of ``vloc train``.
    :param build: a backend of ``vloc map build``.
    :param densify: the step whose map to densify, as ``vloc map densify`` does.
    :param cascade: the steps whose maps are the coarse and the fine one, as ``vloc map cascade`` takes them.
    :param existing: a map that is there already, its folder below ``--root``; rows that need it fail without it.
    :param get: where to get an existing map.
    :param sees_queries: it may learn from queries, as a paper's own protocol did; otherwise that is refused.
    :param data: selections of drives, or such lists by scene.
    :param calibration: other drives, for the covariance.
    :param extractor: the step whose extractor to use.
    :param regressor: the step whose descriptor regressor to use (densify).
    :param maps: settings that are a map, with the steps that make it (IRPNet: ``densified``).
    :param preset: of the trainer or builder; empty: its first.
    :param settings: what differs from the preset.
    """

    train: str | None = None
    build: str | None = None
    densify: str | None = None
    cascade: tuple[str, str] | None = None
    existing: str | None = None
    get: str = ""
    sees_queries: bool = False
    data: Any = ()
    calibration: Any = ()
    extractor: str | None = None
    regressor: str | None = None
    maps: dict[str, str] = field(default_factory=dict)
    preset: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = (self.train, self.build, self.densify, self.cascade, self.existing)
        if sum(v is not None for v in kinds) != 1:
            raise ConfigError("expected one of train, build, densify, cascade and existing")
        if self.regressor is not None and self.densify is None:
            raise ConfigError("regressor: only densify takes one")
        if self.train is not None or self.build is not None:
            if not self.data:
                raise ConfigError("expected data to make the map from")
        elif self.data or self.extractor or self.preset or self.maps:
            kind = next(k for k in ("densify", "cascade", "existing") if getattr(self, k) is not None)
            raise ConfigError(f"{kind}: expected no data, extractor, preset or maps, the map has them")
        if self.existing is not None and (self.calibration or self.settings):
            raise ConfigError("existing: expected no calibration and no settings, the map has them")
        if self.cascade is not None and self.calibration:
            raise ConfigError("cascade: expected no calibration, its members have theirs")
        for name in ("data", "calibration"):
            self.selections(name)

    def selections(self, name: str) -> dict[str, list[Selection]]:
        """``data`` or ``calibration`` by scene. :raises ConfigError: neither a list nor lists by scene."""
        given = getattr(self, name)
        scenes = given if isinstance(given, Mapping) else ({"map": given} if given else {})
        out: dict[str, list[Selection]] = {}
        for scene, texts in scenes.items():
            if not isinstance(scene, str) or not scene.isidentifier():
                raise ConfigError(f"{name}: expected a name of a scene, found {scene!r}")
            if not isinstance(texts, (list, tuple)) or not texts:
                raise ConfigError(f"{name}: expected a list of selections, found {texts!r}")
            out[scene] = [Selection.parse(text, name) for text in texts]
        return out

    def parents(self) -> dict[str, str]:
        """The steps that must be made before, by what they are for."""
        coarse, fine = self.cascade or (None, None)
        own = {"densify": self.densify, "extractor": self.extractor, "regressor": self.regressor}
        own |= {"coarse": coarse, "fine": fine}
        maps = {f"maps.{setting}": name for setting, name in self.maps.items()}
        return {**{kind: name for kind, name in own.items() if name is not None}, **maps}


@dataclass(frozen=True)
class Row:
    """One method on one or more splits.

    :param method: its name in the table.
    :param map: the step that makes its map.
    :param splits: names of splits.
    :param settings: of the backend, as ``vloc replay --set`` takes them.
    :param prior: what the queries are told, instead of what the split says.
    :param without_prior: ask without a prior, whatever the split says.
    :param scene: of a map of several scenes, told to every query; empty: the map has to find it.
    :param against: the method whose row this one is compared with; empty: the baseline.
    :param about: for the table.
    :param paper: what a paper prints for it.
    """

    method: str
    map: str
    splits: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    prior: Prior | None = None
    without_prior: bool = False
    scene: str = ""
    against: str = ""
    about: str = ""
    paper: Published | None = None

    def __post_init__(self) -> None:
        if self.prior is not None and self.without_prior:
            raise ConfigError("expected either prior or without_prior")

    def asked(self, split: Split) -> Prior | None:
        """The prior of this row's queries on a split."""
        return None if self.without_prior else self.prior or split.prior


@dataclass(frozen=True)
class Stray:
    """The stray-image test of CoPR (section IV-G), see :mod:`vloc_train.benchmark.stray`.

    :param map: the step whose map gives descriptors of the references.
    :param regressor: the step whose regressor makes the descriptor at the query's pose.
    :param split: whose map frames and queries to take.
    :param strays: selections of drives in another place.
    :param references: images around the query.
    :param spacing_m: least distance between them.
    """

    map: str
    regressor: str
    split: str
    strays: tuple[str, ...]
    references: int = ranged(4, minimum=1, maximum=100)
    spacing_m: float = ranged(2.0, minimum=0.0)


@dataclass(frozen=True)
class Protocol:
    """See the module.

    :param baseline: the method that stands beside every other on its split.
    :param recall: limits (m, degrees) whose shares the table shows besides those of every table.
    :param averages: sections of means over several splits, by name.
    :param published: rows that a paper prints for methods that are not made here.
    :param not_stated: what the paper leaves open, and what was chosen.
    :param not_covered: parts of the paper's tables that are not here, and why.
    """

    name: str
    data: dict[str, Drive]
    splits: dict[str, Split]
    steps: dict[str, Step]
    rows: tuple[Row, ...]
    baseline: str
    title: str = ""
    about: str = ""
    seed: int = ranged(0, minimum=0)
    recall: tuple[tuple[float, float], ...] = ()
    claims: tuple[Claim, ...] = ()
    strays: tuple[Stray, ...] = ()
    averages: dict[str, Average] = field(default_factory=dict)
    published: tuple[PaperRow, ...] = ()
    not_stated: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ConfigError("rows: expected at least one")
        if any(not limit > 0 for pair in self.recall for limit in pair):
            raise ConfigError(f"recall: expected limits above 0, found {[list(pair) for pair in self.recall]}")
        for name, split in self.splits.items():
            for text in (*split.map, *split.query):
                self._drive(Selection.parse(text, f"splits.{name}"), f"splits.{name}", with_map=False)
            if not split.map or not split.query:
                raise ConfigError(f"splits.{name}: expected map and query")
        for name, step in self.steps.items():
            for kind in ("data", "calibration"):
                for selection in (s for group in step.selections(kind).values() for s in group):
                    self._drive(selection, f"steps.{name}.{kind}", with_map=True)
            for parent in step.parents().values():
                self._known(parent, self.steps, f"steps.{name}")
        for name in self.steps:
            self.order(name)
        self._check_rows()
        self._check_paper()

    def _check_paper(self) -> None:
        for name, average in self.averages.items():
            if name in self.splits:
                raise ConfigError(f"averages: expected other names than those of splits, found {name!r}")
            for split in average.over:
                self._known(split, self.splits, f"averages.{name}")
            for method in average.rank:
                if not any(row.method == method for row in self.published):
                    raise ConfigError(f"averages.{name}: rank: expected a method of published, found {method!r}")
        printed = [(row.method, row.paper.figures) for row in self.rows if row.paper is not None]
        for method, figures in [*printed, *((row.method, row.figures) for row in self.published)]:
            for name in figures:
                self._known(name, {**self.splits, **self.averages}, f"{method!r}: paper")

    def _check_rows(self) -> None:
        table = [(split, row.method) for row in self.rows for split in row.splits]
        # What the protocol says of a row it may also say of the prior's own.
        priors = [(name, PRIOR) for name, split in self.splits.items() if split.prior is not None]
        for row in self.rows:
            where = f"rows: {row.method!r}"
            self._known(row.map, self.steps, where)
            if not row.splits:
                raise ConfigError(f"{where}: expected at least one split")
            for split in row.splits:
                self._known(split, self.splits, where)
                if row.against and (split, row.against) not in table + priors:
                    raise ConfigError(f"{where}: expected a row {row.against!r} on split {split!r}, found none")
        twice = {entry for entry in table if table.count(entry) > 1}
        if twice:
            raise ConfigError(f"rows: expected each method once on a split, found {sorted(twice)[0]} again")
        for name in {row.method for row in self.rows} & {ORACLE, PRIOR}:
            raise ConfigError(f"rows: {name!r} is a row that splits get by themselves")
        for split in {split for split, _ in table}:
            if (split, self.baseline) not in table:
                raise ConfigError(f"baseline: expected a row {self.baseline!r} on split {split!r}, found none")
        known = {*RECALL_THRESHOLDS, *self.recall}
        for claim in self.claims:
            if share_limits(claim.figure) not in {None, *known}:
                shown = ", ".join(f"{m:g} m {deg:g} deg" for m, deg in sorted(known))
                raise ConfigError(f"claims: {claim.figure}: expected limits out of {shown} (recall adds others)")
            for method in (claim.method, *((claim.against,) if claim.against else ())):
                if (claim.split, method) not in table + priors and method != ORACLE:
                    raise ConfigError(f"claims: expected a row {method!r} on split {claim.split!r}, found none")
        for stray in self.strays:
            self._known(stray.split, self.splits, "strays")
            for step in (stray.map, stray.regressor):
                self._known(step, self.steps, "strays")
            for text in stray.strays:
                self._drive(Selection.parse(text, "strays"), "strays", with_map=False)

    def _drive(self, selection: Selection, where: str, with_map: bool) -> None:
        if selection.name in SPECIAL:
            if not with_map:
                raise ConfigError(f"{where}: expected the name of a drive, found {selection.name}")
        else:
            self._known(selection.name, self.data, where)

    @staticmethod
    def _known(name: str, table: Mapping[str, Any], where: str) -> None:
        if name not in table:
            raise ConfigError(f"{where}: expected one of {', '.join(table) or 'nothing'}, found {name!r}")

    def order(self, step: str) -> list[str]:
        """``step`` after all that it needs. :raises ConfigError: it needs itself."""
        done: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ConfigError(f"steps: {' needs '.join([*path, name])}: expected no circle")
            if name not in done:
                for parent in self.steps[name].parents().values():
                    visit(parent, (*path, name))
                done.append(name)

        visit(step, ())
        return done

    def table(self) -> Iterator[tuple[str, Row]]:
        """Every split with every row on it, split by split in the order of the file."""
        for split in self.splits:
            for row in self.rows:
                if split in row.splits:
                    yield split, row


def load(name_or_file: str) -> Protocol:
    """A built-in protocol by name, or one from a YAML file.

    :raises ConfigError: no such protocol, no YAML, an unknown field, or a name that stands for nothing.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ConfigError(f"{path}: expected a protocol of at most {_MAX_BYTES} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"{path}: cannot be read: {problem}") from problem
        where = str(path)
    else:
        text, where = protocol_text(name_or_file), f"protocol {name_or_file}"
    return parse(text, where)


def parse(text: str, where: str) -> Protocol:
    """A protocol from its YAML. Top-level names that start with a point only carry anchors. :raises ConfigError."""
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ConfigError(f"{where}: expected YAML: {problem}") from problem
    if isinstance(loaded, dict):
        loaded = {k: v for k, v in loaded.items() if not (isinstance(k, str) and k.startswith("."))}
    return settings_from_mapping(Protocol, loaded, where)
