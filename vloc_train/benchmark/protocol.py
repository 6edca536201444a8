"""A protocol: drives, splits of them into map and queries, the steps that make maps, and the rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS
from vloc_ros.settings import ranged, settings_from_mapping
from vloc_ros.yaml_text import parse_yaml
from vloc_train.benchmark.data import MAP, SPECIAL, Drive, Selection
from vloc_train.benchmark.papers import Average, Claim, PaperRow, Published, share_limits
from vloc_train.benchmark.splits import Prior, Split
from vloc_train.frame_choice.settings import HoldOutSettings
from vloc_train.training.registry import BUILDERS

__all__ = [
    "FEATURES",
    "ORACLE",
    "PRIOR",
    "UNTRAINED",
    "Protocol",
    "Row",
    "Step",
    "StrayImages",
    "built_in",
    "load",
    "protocol_text",
]

#: The method whose row every split gets: always answer with the map image nearest to the truth.
ORACLE = "oracle"
#: The method whose row a split with a prior gets: always answer with the prior.
PRIOR = "prior"
#: The method whose row every split gets unless the protocol says otherwise (``untrained``): local features and
#: absolute pose, the yardstick of what anybody gets from the same images.
FEATURES = "features (SIFT)"
#: Methods that need nothing but the map's frames, by the backend of ``vloc map build`` that makes their map.
UNTRAINED = {"features": FEATURES, "auto": "auto"}
_MAX_BYTES = 1 << 20
#: Package data: one YAML file a protocol.
_PROTOCOLS = resources.files("vloc_train.benchmark").joinpath("protocols")


@dataclass(frozen=True)
class Step:
    """One map: trained, built with what another one has learned, densified, or a cascade of others.

    In selections ``$map`` stands for the split's map frames, and ``$left_out`` for those of the same drives that a fold
    leaves out of its map (``apart_frames``). ``$query_left_out`` are the frames of the query drives at the moments of
    the latter: queries of other folds.

    :param train: a backend of ``vloc train``.
    :param build: a backend of ``vloc map build``.
    :param densify: the step whose map to densify, as ``vloc map densify`` does.
    :param cascade: the steps of its two or three maps in the order of the chain, as ``vloc map cascade`` takes them.
    :param existing: a map that is there already, its folder below ``--root``; rows that need it fail without it.
    :param shipped: a map that comes with the package, by its name in ``models``.
    :param get: where to get an existing map.
    :param sees_queries: it may learn from queries, as a paper's own protocol did; otherwise that is refused.
    :param data: selections of drives, or such lists by scene.
    :param calibration: other drives, for the covariance.
    :param extractor: the step whose extractor to use.
    :param regressor: the step whose descriptor regressor to use (densify).
    :param maps: settings that are a map, with the steps that make it (IRPNet: ``densified``).
    :param preset: of the trainer or builder; empty: its first.
    :param settings: what differs from the preset.
    :param hold_out: what is held out of ``data`` where there is no ``calibration``, as ``--hold-out`` says it.
    """

    train: str | None = None
    build: str | None = None
    densify: str | None = None
    cascade: tuple[str, ...] | None = None
    existing: str | None = None
    shipped: str | None = None
    get: str = ""
    sees_queries: bool = False
    data: Any = ()
    calibration: Any = ()
    extractor: str | None = None
    regressor: str | None = None
    maps: dict[str, str] = field(default_factory=dict)
    preset: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    hold_out: str = "auto"

    def __post_init__(self) -> None:
        HoldOutSettings.named(self.hold_out)
        kinds = (self.train, self.build, self.densify, self.cascade, self.existing, self.shipped)
        if sum(v is not None for v in kinds) != 1:
            raise ConfigError("expected one of train, build, densify, cascade, existing and shipped")
        if self.regressor is not None and self.densify is None:
            raise ConfigError("regressor: only densify takes one")
        if self.train is not None or self.build is not None:
            if not self.data:
                raise ConfigError("expected data to make the map from")
        elif self.data or self.extractor or self.preset or self.maps:
            kind = next(k for k in ("densify", "cascade", "existing", "shipped") if getattr(self, k) is not None)
            raise ConfigError(f"{kind}: expected no data, extractor, preset or maps, the map has them")
        if self.is_there and (self.calibration or self.settings):
            raise ConfigError("existing, shipped: expected no calibration and no settings, the map has them")
        if self.cascade is not None and self.calibration:
            raise ConfigError("cascade: expected no calibration, its members have theirs")
        for name in ("data", "calibration"):
            self.selections(name)

    @property
    def is_there(self) -> bool:
        """Whether the map exists before the protocol is run."""
        return self.existing is not None or self.shipped is not None

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
        own = {"densify": self.densify, "extractor": self.extractor, "regressor": self.regressor}
        own |= {f"cascade.{place}": name for place, name in enumerate(self.cascade or ())}
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
class StrayImages:
    """The stray-image test of CoPR (section IV-G), see :mod:`vloc_train.benchmark.stray_images`.

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
    :param untrained: backends out of :data:`UNTRAINED` that every split gets a row of.
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
    untrained: tuple[Literal["features", "auto"], ...] = ("features",)
    recall: tuple[tuple[float, float], ...] = ()
    claims: tuple[Claim, ...] = ()
    strays: tuple[StrayImages, ...] = ()
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
            for text in (*split.map, *split.query, *(text for near in split.near for text in near.of)):
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

    def on_disk(self, chosen: Mapping[str, Sequence[Row]], strays: bool = True) -> list[str]:
        """Names of the drives below ``--root`` that these rows by split, their steps and the stray tests ask for."""
        steps = {step for rows in chosen.values() for row in rows for step in self.order(row.map)}
        splits = {name: self.splits[name] for name in chosen}
        texts: list[str] = []
        for stray in self.strays if strays else ():
            steps |= {step for name in (stray.map, stray.regressor) for step in self.order(name)}
            splits[stray.split] = self.splits[stray.split]
            texts += stray.strays
        for split in splits.values():
            texts += [*split.map, *split.query, *(text for near in split.near for text in near.of)]
        names = {Selection.parse(text, "data").name for text in texts}
        for step in steps:
            for kind in ("data", "calibration"):
                names |= {s.name for group in self.steps[step].selections(kind).values() for s in group}
        return [name for name, drive in self.data.items() if name in names and drive.path is not None]

    def table(self) -> Iterator[tuple[str, Row]]:
        """Every split with every row on it, split by split in the order of the file."""
        for split in self.splits:
            for row in self.rows:
                if split in row.splits:
                    yield split, row


def built_in() -> list[str]:
    """Names of the protocols that come with the package."""
    files = _PROTOCOLS.iterdir()
    return sorted(f.name[: -len(".yaml")] for f in files if f.name.endswith(".yaml"))


def protocol_text(name: str) -> str:
    """The YAML of a built-in protocol. :raises ConfigError: there is none of this name."""
    if name not in built_in():
        raise ConfigError(f"expected a protocol out of {', '.join(built_in())}, or a YAML file, found {name!r}")
    return _PROTOCOLS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


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
        loaded = parse_yaml(text)
    except ValueError as problem:
        raise ConfigError(f"{where}: expected YAML: {problem}") from problem
    if isinstance(loaded, dict):
        loaded = {k: v for k, v in loaded.items() if not (isinstance(k, str) and k.startswith("."))}
    return settings_from_mapping(Protocol, _with_untrained(loaded), where)


def _with_untrained(loaded: Any) -> Any:
    """The mapping of a protocol with the rows of ``untrained`` on each split that has rows and not these."""
    if not isinstance(loaded, dict):
        return loaded
    splits, steps, rows = (loaded.get(name) for name in ("splits", "steps", "rows"))
    wanted = loaded.get("untrained", ["features"])
    if not (
        isinstance(splits, dict) and isinstance(steps, dict) and isinstance(rows, list) and isinstance(wanted, list)
    ):
        return loaded  # what is wrong with it is told by its fields
    given = [row for row in rows if isinstance(row, dict) and isinstance(row.get("splits"), list)]
    steps, rows = dict(steps), list(rows)
    for backend, method in UNTRAINED.items():
        has = {split for row in given if row.get("method") == method for split in row["splits"]}
        missing = [split for split in splits if split not in has and any(split in row["splits"] for row in given)]
        if backend in wanted and backend in BUILDERS and missing:
            steps[f"untrained_{backend}"] = {"build": backend, "data": [MAP]}
            rows.append({"method": method, "map": f"untrained_{backend}", "splits": missing, "without_prior": True})
    return {**loaded, "steps": steps, "rows": rows}
