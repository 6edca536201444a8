"""What all trainers' settings share: presets are data, survive YAML, and files of before are still read."""

from __future__ import annotations

import pytest
import yaml

from vloc_ros.settings import settings_from_mapping
from vloc_train.training.registry import BUILDERS, TRAINERS, find
from vloc_train.training.settings import RunSettings

MADE = [
    (find(table, backend, doing), preset)
    for table, doing in ((TRAINERS, "train"), (BUILDERS, "map build"))
    for backend in table
    for preset in find(table, backend, doing).presets
]


@pytest.mark.parametrize(("trainer", "name"), MADE, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_presets_survive_yaml(trainer, name):
    made = trainer.settings(name, None, "test")
    assert isinstance(made, RunSettings)
    read = yaml.safe_load(yaml.safe_dump(made.to_mapping()))
    assert settings_from_mapping(type(made), read, "file") == made
    assert trainer.settings(name, read, "file") == made


@pytest.mark.parametrize(
    ("backend", "before", "told"),
    [
        ("camnet", {"momentum": 0.9, "mining": {"orb_distance": 40}}, "mining: orb_distance is fixed now, at 50; 40"),
        ("irpnet", {"adam_epsilon": 1e-8}, "adam_epsilon is fixed now, at 1e-10; 1e-08"),
        ("retrieval", {"warm_up": 10, "validation_references": 2000}, "warm_up is fixed now, at 50; 10"),
    ],
)
def test_settings_of_before_are_read(caplog, backend, before, told):
    trainer = find(TRAINERS, backend, "train")
    assert trainer.settings("small", before, "my.yaml") == trainer.settings("small", None, "test")
    (record,) = caplog.records
    assert record.getMessage() == f"my.yaml: {told} is ignored"
