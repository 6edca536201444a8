"""Protocols: references that stand for something, circles refused, any YAML read or refused by name."""

from __future__ import annotations

import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_train.benchmark import protocol as protocols
from vloc_train.benchmark.protocol import built_in, load, parse

GOOD = {
    "name": "tiny",
    "baseline": "nearest",
    "data": {
        "a": {"town": {"seed": 1, "index": 0}},
        "b": {"town": {"seed": 1, "index": 1, "lane_offset_m": -1.0}},
        "c": {"folder": {"path": "rgb"}},
    },
    "splits": {"full": {"map": ["a"], "query": ["b"]}, "sparse": {"map": ["a[::5]"], "query": ["b"]}},
    "steps": {
        "encoder": {"train": "retrieval", "data": ["c"]},
        "map": {"build": "retrieval", "data": ["$map"], "extractor": "encoder"},
        "dense": {"densify": "map", "settings": {"scheme": "plane"}},
    },
    "rows": [
        {"method": "nearest", "map": "map", "splits": ["full", "sparse"]},
        {"method": "plane", "map": "dense", "splits": ["sparse"], "against": "nearest"},
    ],
    "claims": [{"text": "t", "split": "sparse", "method": "plane", "against": "nearest", "factor": 0.7}],
    "untrained": [],
}


def changed(**paths):
    """GOOD with values at dotted paths replaced; None deletes."""
    out = copy.deepcopy(GOOD)
    for path, value in paths.items():
        target, keys = out, path.split("__")
        for key in keys[:-1]:
            target = target[int(key) if key.isdigit() else key]
        last = int(keys[-1]) if keys[-1].isdigit() else keys[-1]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return yaml.safe_dump(out, sort_keys=False)


def test_a_good_protocol_is_read():
    found = parse(changed(), "here")
    assert found.order("dense") == ["encoder", "map", "dense"]
    assert [(split, row.method) for split, row in found.table()] == [
        ("full", "nearest"), ("sparse", "nearest"), ("sparse", "plane"),
    ]  # fmt: skip


def test_priors_cascades_and_shares_are_read():
    cascade = {"encoder": GOOD["steps"]["encoder"], "map": GOOD["steps"]["map"],
               "both": {"cascade": ["encoder", "map"], "settings": {"keep_surer": False}}}  # fmt: skip
    rows = [GOOD["rows"][0], {"method": "both", "map": "both", "splits": ["full"], "against": "prior"},
            {"method": "alone", "map": "map", "splits": ["full"], "without_prior": True}]  # fmt: skip
    claims = [{"text": "t", "split": "full", "method": "both", "against": "prior"},
              {"text": "t", "split": "full", "method": "both", "figure": "localizer_recall_0.05m_0.2deg",
               "at_least": 0.9}]  # fmt: skip
    found = parse(
        changed(
            splits__full__prior={"offset_m": [0, 2], "offset_deg": [0, 5], "repeats": 3}, steps=cascade, rows=rows,
            claims=claims, recall=[[0.05, 0.2]],
        ),
        "here",
    )  # fmt: skip
    assert found.order("both") == ["encoder", "map", "both"]
    full = found.splits["full"]
    assert [row.asked(full) for row in found.rows] == [full.prior, full.prior, None]
    assert [row.asked(found.splits["sparse"]) for row in found.rows] == [None, None, None]
    assert found.rows[0].asked(full).offset_m == (0.0, 2.0)
    # A share that no row will have is refused now, not after an hour.
    with pytest.raises(ConfigError, match=r"localizer_recall_0\.05m_0\.2deg: expected limits out of .* \(recall adds"):
        parse(changed(claims=[{**GOOD["claims"][0], "figure": "localizer_recall_0.05m_0.2deg"}]), "here")


def test_names_with_a_point_only_carry_anchors():
    text = ".lane: &lane {lane_offset_m: 1.0}\n" + changed()
    assert parse(text, "here").name == "tiny"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "other"}, "baseline: expected a row 'other'"),
        ({"rows": []}, "rows: expected at least one"),
        ({"rows__0__map": "nothing"}, "expected one of encoder, map, dense, found 'nothing'"),
        ({"rows__0__splits": ["none"]}, "expected one of full, sparse"),
        ({"rows__1__against": "x"}, "expected a row 'x' on split 'sparse'"),
        ({"rows__1__method": "nearest"}, "found .* again"),
        ({"rows__1__method": "oracle"}, "'oracle' is a row that splits get"),
        ({"steps__encoder__data": ["d"]}, "expected one of a, b, c, found 'd'"),
        ({"steps__encoder__data": []}, "expected data"),
        ({"steps__encoder__build": "retrieval"}, "one of train, build, densify, cascade, existing and shipped"),
        ({"steps__encoder__regressor": "map"}, "only densify takes one"),
        ({"steps__encoder__extractor": "map"}, "expected no circle"),
        ({"steps__encoder__maps": {"other": "none"}}, "expected one of encoder, map, dense, found 'none'"),
        ({"steps__dense__data": ["a"]}, "expected no data"),
        ({"splits__full__map": ["$map"]}, r"found \$map"),
        ({"splits__full__query": []}, "expected map and query"),
        ({"splits__full__folds": 0}, "folds"),
        ({"data__a__folder": {"path": "x"}}, "either town, folder or source"),
        ({"data__a__town__speed": 3}, "unknown field 'speed'"),
        ({"claims__0__at_most": 3.0}, "either at_most, or at_least"),
        ({"claims__0__at_least": 3.0}, "either at_most, or at_least"),
        ({"claims__0__against": "prior"}, "expected a row 'prior'"),
        ({"rows__1__against": "prior"}, "expected a row 'prior' on split 'sparse'"),
        ({"rows__1__method": "prior"}, "'prior' is a row that splits get"),
        ({"rows__1__prior": {"offset_m": [0, 1]}, "rows__1__without_prior": True}, "either prior or without_prior"),
        ({"splits__full__prior": {}}, "prior: expected either offset_m"),
        ({"recall": [[0.05, 0.0]]}, "recall: expected limits above 0"),
        ({"steps__dense": {"cascade": ["map", "map"], "data": ["a"]}}, "cascade: expected no data"),
        ({"steps__dense": {"cascade": ["map", "map"], "calibration": ["a"]}}, "its members have theirs"),
        ({"steps__dense": {"cascade": ["map", "dense"]}}, "expected no circle"),
        ({"steps__dense": {"cascade": ["map", "none"]}}, "expected one of encoder, map, dense, found 'none'"),
        ({"claims__0__method": "other"}, "claims: expected a row 'other'"),
        ({"name": None}, "missing field 'name'"),
        ({"averages": {"full": {"over": ["full", "sparse"]}}}, "averages: expected other names than those of splits"),
        ({"averages": {"mean": {"over": ["full", "none"]}}}, r"averages\.mean: expected one of full, sparse"),
        ({"averages": {"mean": {"over": ["full"]}}}, "over: expected two splits or more"),
        ({"averages": {"mean": {"over": ["full", "sparse"], "rank": ["x"]}}}, "rank: expected a method of published"),
        ({"rows__0__paper": {"table": "t", "figures": {"none": {}}}}, "'nearest': paper: expected one of full, sparse"),
        ({"rows__0__paper": {"table": "t", "figures": {"full": {"recall": [[1.0, 2.0, 52.7]]}}}}, "shares from 0 to 1"),
        ({"rows__0__paper": {"table": "t", "figures": {"full": {"median": [-1.0, 2.0]}}}}, "errors of at least 0"),
        ({"published": [{"method": "m", "table": "t", "figures": {"x": {}}}]}, "'m': paper: expected one of full"),
        ({"steps__map": {"existing": "m", "data": ["a"]}}, "existing: expected no data"),
        (
            {"steps__map": {"existing": "m", "settings": {"k": 1}}},
            "existing, shipped: expected no calibration and no settings",
        ),
    ],
)
def test_what_stands_for_nothing_is_named(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(changed(**change), "here")
    assert str(caught.value).startswith("here")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(GOOD)), values)
def test_any_value_anywhere_is_read_or_refused(key, value):
    try:
        parse(yaml.safe_dump({**GOOD, key: value}, sort_keys=False), "here")
    except ConfigError as problem:
        assert str(problem).startswith("here")


@given(st.text(max_size=40))
def test_any_text_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text, "here")


def test_files_and_built_in_names(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(changed())
    assert load(str(file)).name == "tiny"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match="found 'no_such'"):
        load("no_such")
    for name in built_in():
        assert load(name).name == name


def test_every_split_has_the_rows_of_methods_that_need_no_training(monkeypatch):
    builders = {"features": "", "auto": "", "retrieval": ""}
    monkeypatch.setattr(protocols, "BUILDERS", builders)
    found = parse(changed(untrained=None), "good")
    assert [row.method for row in found.rows] == ["nearest", "plane", "features (SIFT)"]
    assert found.rows[-1].splits == ("full", "sparse") and found.steps[found.rows[-1].map].build == "features"
    both = parse(changed(untrained=["features", "auto"]), "good")
    assert [row.method for row in both.rows[2:]] == ["features (SIFT)", "auto"]
    assert len(parse(changed(untrained=[]), "good").rows) == 2
    own = {"method": "features (SIFT)", "map": "map", "splits": ["full"]}
    mixed = parse(changed(rows=[*GOOD["rows"], own], untrained=None), "good")
    assert [row.splits for row in mixed.rows if row.method == "features (SIFT)"] == [("full",), ("sparse",)]
    with pytest.raises(ConfigError, match="untrained"):
        parse(changed(untrained=["nothing"]), "bad")
    del builders["features"]  # a package without it
    assert len(parse(changed(), "good").rows) == 2


@pytest.mark.parametrize("name", built_in())
def test_the_shipped_protocols_leave_the_untrained_row_to_the_rule(name):
    assert load(name).untrained[0] == "features"
