"""The maps of a protocol: each made once for equal data, settings and ancestors, and found again by a digest of them.

A step that was interrupted continues from its last checkpoint: its working directory stays until its map is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vloc_ros
from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError
from vloc_ros.localizers.cascade.bundle import whole_size, write_cascade
from vloc_ros.localizers.cascade.settings import CascadeSettings
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.replay.about import map_references
from vloc_ros.resources import share_path
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.staging import write_text
from vloc_ros.types import Array
from vloc_train.benchmark.data import LEFT_OUT, MAP, QUERY_LEFT_OUT, Selection
from vloc_train.benchmark.drives import Drives, Part, check_datum, join, overlap
from vloc_train.benchmark.protocol import Protocol, Step
from vloc_train.benchmark.splits import Fold
from vloc_train.training.recipe import Trainer
from vloc_train.training.registry import BUILDERS, TRAINERS, find
from vloc_train.training.run import RunOptions

__all__ = ["Made", "Steps", "map_figures", "reference_cameras"]

_log = logging.getLogger(__name__)
#: Raise when maps that lie in caches must be made anew.
_GENERATION = 3
#: The descriptor database of a map, and in it the poses and whether a descriptor was regressed (0: of an image).
_DATABASE, _POSES, _ORIGIN = "database.safetensors", ".poses", ".origin"


@dataclass(frozen=True)
class Made:
    """A map that is there: its folder, the digest it is found by, and what it and its ancestors took, by their digests.

    :ivar seconds: of each step, this one included.
    """

    path: Path
    key: str
    seconds: dict[str, float]

    def bundle(self) -> MapBundle:
        """The map, opened."""
        return read_map(self.path)


@dataclass(frozen=True)
class _Plan:
    """One step for one fold, before it is made."""

    name: str
    step: Step
    data: dict[str, list[Part]]
    calibration: dict[str, list[Part]]
    parents: dict[str, _Plan]
    settings: Any
    key: str


class Steps:
    """Makes the maps of a protocol.

    :param protocol: whose steps. :param drives: its data. :param cache: where maps are kept.
    :param options: how to train.
    """

    def __init__(self, protocol: Protocol, drives: Drives, cache: Path, options: RunOptions) -> None:
        self._protocol, self._drives, self._cache, self._options = protocol, drives, cache, options
        self._made: dict[str, Made] = {}
        self._failed: dict[str, Exception] = {}

    def key(self, name: str, fold: Fold) -> str:
        """The digest that stands for a step's map, without making it."""
        return self._plan(name, fold).key

    def make(self, name: str, fold: Fold) -> Made:
        """The map of a step with the fold's frames as ``$map``; its ancestors first.

        :raises ConfigError: a query of the fold is among what it, or an ancestor, learns from.
        :raises VlocError: what its trainer or builder raises; asked again it is raised again without another try.
        """
        plan = self._plan(name, fold)
        self._check_unseen(plan, fold)
        return self._make(plan)

    def _make(self, plan: _Plan) -> Made:
        if plan.key in self._failed:
            raise self._failed[plan.key]
        if plan.key not in self._made:
            parents = {kind: self._make(parent) for kind, parent in plan.parents.items()}
            try:
                self._made[plan.key] = self._one(plan, parents)
            except Exception as problem:
                self._failed[plan.key] = problem
                raise
        return self._made[plan.key]

    def _existing(self, name: str) -> MapBundle:
        step = self._protocol.steps[name]
        if step.shipped is not None:
            return read_map(share_path("models", step.shipped))
        path = self._drives.below_root(f"steps.{name}", step.existing or "")
        if not path.exists():
            raise ConfigError(f"steps.{name}: expected a map at {path}, found nothing; {step.get or 'put one there'}")
        return read_map(path)

    def _one(self, plan: _Plan, parents: Mapping[str, Made]) -> Made:
        if plan.step.is_there:
            return Made(self._existing(plan.name).path, plan.key, {plan.key: 0.0})
        folder = self._cache / f"{plan.name}-{plan.key}"
        note, out, work = folder / "made.json", folder / "map", folder / "work"
        if not note.exists():
            _log.info("step %s: %s", plan.name, _in_words(plan))
            folder.mkdir(parents=True, exist_ok=True)
            seconds = self._timed(folder / "seconds", lambda: self._run(plan, parents, out, work))
            write_text(note, json.dumps({"step": plan.name, "seconds": seconds}) + "\n")
            shutil.rmtree(work, ignore_errors=True)
        took = {plan.key: float(json.loads(note.read_text())["seconds"])}
        for parent in parents.values():
            took.update(parent.seconds)
        return Made(out, plan.key, took)

    @staticmethod
    def _timed(file: Path, run: Callable[[], None]) -> float:
        """Seconds that a step takes, with those of earlier runs of it that were interrupted."""
        before = float(file.read_text()) if file.exists() else 0.0
        begin = time.perf_counter()
        try:
            run()
        finally:
            seconds = before + time.perf_counter() - begin
            write_text(file, f"{seconds}\n")
        return seconds

    def _run(self, plan: _Plan, parents: Mapping[str, Made], out: Path, work: Path) -> None:
        if plan.step.densify is not None:
            from vloc_train.copr.densify import densify_map

            regressor = parents["regressor"].path if "regressor" in parents else None
            drives = _sequences(plan.calibration) or None
            densify_map(parents["densify"].path, out, plan.settings, regressor, drives, self._options.device)
            return
        if plan.step.cascade is not None:
            # The members are named by their paths from here: a cache can move as a whole.
            members = [parents[f"cascade.{place}"].path for place in range(len(plan.step.cascade))]
            write_cascade(out, members, plan.settings, overwrite=out.exists())
            return
        extractor = parents["extractor"].path if "extractor" in parents else None
        maps = {name: str(parents[f"maps.{name}"].path) for name in plan.step.maps}
        settings = replace(plan.settings, **maps) if maps else plan.settings
        _trainer(plan.step).run(
            _sequences(plan.data), out, settings, self._options,
            calibration=_sequences(plan.calibration) or None, work_dir=work,
            about={"protocol": self._protocol.name, "step": plan.name}, extractor=extractor,
            hold_out=plan.step.hold_out,
        )  # fmt: skip

    def _plan(self, name: str, fold: Fold) -> _Plan:
        step = self._protocol.steps[name]
        parents = {kind: self._plan(parent, fold) for kind, parent in step.parents().items()}
        data, calibration = (self._parts(step.selections(kind), fold) for kind in ("data", "calibration"))
        settings = self.settings(name)
        content = {
            "generation": _GENERATION,
            "version": vloc_ros.__version__,
            "how": [step.train, step.build, step.densify is not None, *(["cascade"] if step.cascade else [])],
            "settings": settings_to_mapping(settings) if is_dataclass(settings) else settings,
            "data": {scene: [part.digest for part in parts] for scene, parts in data.items()},
            "calibration": {scene: [part.digest for part in parts] for scene, parts in calibration.items()},
            **({"hold_out": step.hold_out} if step.hold_out != "auto" else {}),
            "parents": {kind: parent.key for kind, parent in parents.items()},
        }
        if step.is_there:
            content["existing"] = self._existing(name).id
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return _Plan(name, step, data, calibration, parents, settings, key)

    def settings(self, name: str) -> Any:
        """A step's settings in full, with the protocol's seed unless it has its own.

        :raises ConfigError: its backend has no such preset or setting.
        """
        step = self._protocol.steps[name]
        where = f"steps.{name}.settings"
        if step.is_there:
            return {}
        if step.densify is not None:
            from vloc_train.copr.densify import densify_settings

            return densify_settings(step.settings, where)
        if step.cascade is not None:
            return settings_from_mapping(CascadeSettings, step.settings, where)
        trainer = _trainer(step)
        settings = trainer.settings(step.preset or trainer.presets[0], dict(step.settings), where)
        known = {f.name for f in fields(settings)}
        unknown = [setting for setting in step.maps if setting not in known]
        if unknown:
            raise ConfigError(f"steps.{name}.maps: {step.train or step.build} has no setting {unknown[0]!r}")
        if "seed" not in step.settings and "seed" in known:
            settings = replace(settings, seed=self._protocol.seed)
        return settings

    def _parts(self, scenes: Mapping[str, Sequence[Selection]], fold: Fold) -> dict[str, list[Part]]:
        out: dict[str, list[Part]] = {}
        for scene, selections in scenes.items():
            parts: list[Part] = []
            for selection in selections:
                own = _special(selection.name, fold)
                if own is not None:
                    if not own:
                        raise ConfigError(f"expected frames for {selection}, found none: the split has no apart_frames")
                    parts += [part.keep(selection.rows(len(part))) for part in own]
                else:
                    parts += self._drives.parts(selection)
            parts = join(parts)
            check_datum(parts, f"scene {scene!r} of a step")
            out[scene] = parts
        return out

    def _check_unseen(self, plan: _Plan, fold: Fold) -> None:
        seen = [part for scenes in (plan.data, plan.calibration) for parts in scenes.values() for part in parts]
        shared = "" if plan.step.sees_queries else overlap(seen, fold.query)
        if shared:
            raise ConfigError(f"steps.{plan.name}: expected frames that are no queries, found some of {shared}")
        for parent in plan.parents.values():
            self._check_unseen(parent, fold)


def _trainer(step: Step) -> Trainer[Any]:
    if step.train is not None:
        return find(TRAINERS, step.train, "train")
    assert step.build is not None
    return find(BUILDERS, step.build, "build")


def _sequences(scenes: Mapping[str, Sequence[Part]]) -> dict[str, list[PosedSequence]]:
    return {scene: [part.frames() for part in parts] for scene, parts in scenes.items()}


def _special(name: str, fold: Fold) -> tuple[Part, ...] | None:
    """The frames that a name stands for in this fold; None for the name of a drive."""
    return {MAP: fold.map, LEFT_OUT: fold.left_out, QUERY_LEFT_OUT: fold.query_left_out}.get(name)


def _in_words(plan: _Plan) -> str:
    step = plan.step
    if step.densify is not None:
        return f"densify the map of {step.densify}"
    if step.cascade is not None:
        return f"a cascade of {' and '.join(step.cascade)}"
    frames = sum(len(part) for parts in plan.data.values() for part in parts)
    return f"{'train' if step.train else 'build'} {step.train or step.build} on {frames} frames"


def reference_cameras(bundle: MapBundle) -> Array | None:
    """The (M, 4, 4) camera poses of the map's references in all scenes, of a cascade those of its fine map.

    None where it has none.
    """
    found = list(map_references(bundle).values())
    return np.concatenate(found) if found else None


def map_figures(bundles: Sequence[MapBundle]) -> dict[str, Any]:
    """Means over the folds' maps: ``map_bytes``, and where there is a database ``descriptors``, ``regressed_share``."""
    sizes = [whole_size(bundle) for bundle in bundles]
    out: dict[str, Any] = {"map_bytes": round(float(np.mean(sizes)))}
    counts, regressed = [], 0
    for bundle in bundles:
        if bundle.manifest.file(_DATABASE) is None:
            return out
        tensors = bundle.tensors(_DATABASE)
        counts.append(sum(len(t) for name, t in tensors.items() if name.endswith(_POSES)))
        regressed += sum(int((t > 0).sum()) for name, t in tensors.items() if name.endswith(_ORIGIN))
    total = sum(counts)
    return {**out, "descriptors": total / len(counts), "regressed_share": regressed / total if total else 0.0}
