"""``vloc demo``: the plan beside the shipped map. The whole run is in test/replay/test_command.py."""

from __future__ import annotations

import pytest

from vloc_ros.cli import demo
from vloc_ros.errors import ConfigError


def test_shipped_plan_is_complete(repo_root):
    plan = demo._plan(repo_root / "models" / "demo.yaml")
    assert {"seed", "loop_m", "traversal"} <= set(plan["town"]) and plan["map"]


@pytest.mark.parametrize("text", ["", "[]", "map: a", "map: a\ntown: {seed: 1}"])
def test_incomplete_plan_is_refused(tmp_path, text):
    (tmp_path / "demo.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"demo.yaml: expected map, and town"):
        demo._plan(tmp_path / "demo.yaml")
