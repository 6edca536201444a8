"""Settings of any kind, as parameter files, ``--set`` and ``ros2 param`` bring them: taken, or a named error."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import TEXTS, Edit, assault, damaged, edit_tree, spoiled, tree_edit, value

from vloc_ros.datasets.formats import Source
from vloc_ros.errors import VlocError
from vloc_ros.localizers.base import BUILT_IN, backend_class
from vloc_ros.nodes.parameters import all_parameters, backend_parameters, check_together, coerce
from vloc_ros.pipeline import PipelineSettings
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.tracking import Tracker, TrackerSettings
from vloc_ros.tracking.store import load_pose

CONFIG = Path(__file__).parents[2] / "config"
CLASSES = (PipelineSettings, TrackerSettings, *(backend_class(name).settings_class for name in BUILT_IN))


def test_parameters_of_the_node() -> None:
    specs = {spec.name: spec for spec in (*all_parameters(), *(s for b in BUILT_IN for s in backend_parameters(b)))}

    def attempt(edits: list[Edit]) -> str:
        values = {name: spec.default for name, spec in specs.items()}
        for name, new in edits:
            values[name] = coerce(specs[name], new)
            assert type(values[name]) is type(specs[name].default)
        check_together(values)
        return "taken"

    def edits(chance: random.Random) -> list[Edit]:
        names = chance.choices(sorted(specs), k=chance.choice([1, 1, 2, 3]))
        return [[name, spoiled(chance, specs[name].default)] for name in names]

    outcomes = assault("parameters", edits, attempt, quick=800)
    assert outcomes["taken"] and outcomes["refused"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__.split('.')[-2]}_{cls.__name__}")
def test_settings(cls: Any) -> None:
    whole = settings_to_mapping(cls())
    plain = yaml.safe_load(yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in whole.items()}))

    def attempt(edits: list[Edit]) -> str:
        tree = yaml.safe_load(yaml.safe_dump(plain))
        for edit in edits:
            edit_tree(tree, edit)
        made = settings_from_mapping(cls, tree, "settings")
        assert settings_from_mapping(cls, settings_to_mapping(made), "again") == made
        if cls is TrackerSettings:
            Tracker(made)
        return "taken"

    def edits(chance: random.Random) -> list[Edit]:
        return [tree_edit(chance, plain) for _ in range(chance.choice([1, 1, 2, 4]))]

    outcomes = assault(f"settings-{cls.__module__}", edits, attempt, quick=100)
    assert outcomes["refused"]


def test_source_texts() -> None:
    """``FORMAT:PATH,OPTION=VALUE`` with anything for its parts."""

    def attempt(edits: list[Edit]) -> str:
        source = Source.parse(edits[0][0])
        assert isinstance(source.options, dict)
        return "taken"

    def edits(chance: random.Random) -> list[Edit]:
        fields = [f"{chance.choice(['intrinsics', 'x', *TEXTS])}={value(chance)!r}" for _ in range(chance.randrange(4))]
        return [[",".join([f"{chance.choice(['tum', 'kitti', 'bag', *TEXTS])}:{chance.choice(TEXTS)}", *fields])]]

    assert assault("sources", edits, attempt, quick=300)


def test_the_pose_of_the_last_run(tmp_path: Path) -> None:
    """``pose_file``: what an earlier run, or a disk, left there."""
    import numpy as np

    from vloc_ros.tracking.store import SavedPose, save_pose

    file = tmp_path / "pose.json"
    save_pose(file, SavedPose("abc", "map", 10**18, np.eye(4), np.eye(6), "scene"))
    whole = file.read_bytes()

    def attempt(edits: list[Edit]) -> str:
        file.write_bytes(damaged(whole, random.Random(edits[0][0])))
        return "taken" if load_pose(file) is not None else "none"

    outcomes = assault("pose-file", lambda chance: [[chance.randrange(2**31)]], attempt, quick=200)
    assert outcomes["refused"] and VlocError
