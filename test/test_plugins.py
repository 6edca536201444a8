"""Entry points of other packages: found, and named where they cannot be used."""

from __future__ import annotations

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from vloc_ros import plugins
from vloc_ros.errors import ConfigError
from vloc_ros.plugins import API_VERSION, PluginGroup


def announce(monkeypatch, *points: tuple[str, str, str]) -> None:
    """(package, name, target) of entry points."""
    made = [SimpleNamespace(name=n, value=v, dist=SimpleNamespace(name=p)) for p, n, v in points]
    monkeypatch.setattr(metadata, "entry_points", lambda group: made if group == "toys" else [])
    monkeypatch.setattr(plugins, "_told", set())


def module(monkeypatch, name: str, **content) -> None:
    made = type(sys)(name)
    vars(made).update({"VLOC_ROS_API": API_VERSION, **content})
    monkeypatch.setitem(sys.modules, name, made)


GROUP = PluginGroup(
    "toys", {"number": "math:pi"}, "toy", lambda made: None if isinstance(made, (int, float)) else "expected a number"
)


def test_built_in_and_foreign_names(monkeypatch):
    module(monkeypatch, "foreign", seven=7)
    announce(monkeypatch, ("theirs", "seven", "foreign:seven"), ("vloc-ros", "old", "gone:away"))
    assert GROUP.names() == ["number", "seven"]
    assert GROUP.load("number") == pytest.approx(3.14159, abs=1e-5) and GROUP.load("seven") == 7
    with pytest.raises(ConfigError, match=r"expected a known toy \(number, seven\), found 'eight'.*toys"):
        GROUP.load("eight")


def test_a_built_in_name_stays(monkeypatch, caplog):
    module(monkeypatch, "foreign", seven=7)
    announce(monkeypatch, ("theirs", "number", "foreign:seven"))
    assert GROUP.names() == ["number"] and GROUP.load("number") != 7
    assert [r.message for r in caplog.records] == [
        "toy 'number' of package theirs is ignored: the name is built in; announce it in the group toys under another "
        "name"
    ]


def test_two_of_one_name_are_named_and_neither_is_used(monkeypatch, caplog):
    module(monkeypatch, "foreign", seven=7, eight=8)
    announce(
        monkeypatch,
        ("one", "same", "foreign:seven"), ("two", "same", "foreign:eight"),
        ("twice", "eight", "foreign:eight"), ("twice", "eight", "foreign:eight"),
    )  # fmt: skip
    assert GROUP.names() == ["number", "eight"]
    assert "one (foreign:seven) and two (foreign:eight)" in caplog.text


def raises_at_import(monkeypatch, tmp_path, text: str) -> None:
    (tmp_path / "breaks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("breaks", None)


@pytest.mark.parametrize("text", ["import no_such_module", "1 / 0", "raise SystemError('x')", "VLOC_ROS_API = 1"])
def test_one_that_fails_to_import_is_named_and_the_rest_goes_on(monkeypatch, tmp_path, caplog, text):
    raises_at_import(monkeypatch, tmp_path, text)
    module(monkeypatch, "foreign", seven=7, word="x")
    announce(
        monkeypatch,
        ("faulty", "bad", "breaks:thing"), ("theirs", "seven", "foreign:seven"), ("odd", "word", "foreign:word"),
    )  # fmt: skip
    assert GROUP.load_others() == {"seven": 7}
    assert "toy 'bad' of package faulty: cannot import breaks:thing" in caplog.text
    assert "toy 'word' of package odd: foreign:word: expected a number" in caplog.text
    with pytest.raises(ConfigError, match="faulty"):
        GROUP.load("bad")


@pytest.mark.parametrize("declared", [None, 0, API_VERSION + 1])
def test_one_made_for_another_version_is_named(monkeypatch, caplog, declared):
    module(monkeypatch, "foreign", seven=7, VLOC_ROS_API=declared)
    announce(monkeypatch, ("theirs", "seven", "foreign:seven"))
    assert GROUP.load_others() == {}
    assert f"expected VLOC_ROS_API = {API_VERSION} in module foreign, found {declared}" in caplog.text


def test_a_missing_extra_of_ones_own_is_named(monkeypatch, tmp_path):
    raises_at_import(monkeypatch, tmp_path, "import no_such_module")
    announce(monkeypatch)
    with pytest.raises(ConfigError, match=r"train needs no_such_module: pip install 'vloc_ros\[train\]'"):
        PluginGroup("toys", {"train": "breaks:train"}, "command", extra="train").load("train")
