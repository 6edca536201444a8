"""YAML of others: what is bounded, and that values are those of PyYAML."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.yaml_text import parse_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN, st.booleans())
def test_values_are_those_that_were_written(value, strict):
    text = yaml.safe_dump(value)
    assert parse_yaml(text, strict=strict) == parse_yaml(text.encode()) == yaml.safe_load(text)


def bomb(levels: int) -> str:
    """Ten times ten times ... values in a line a level."""
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)])


def test_aliases_are_counted_as_what_they_stand_for():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: &y 3\nd: *y") == {"a": [1, 2], "b": [1, 2], "c": 3, "d": 3}
    assert len(parse_yaml(bomb(4))) == 4
    for levels in (6, 9, 30):
        with pytest.raises(ValueError, match="more than 1000000 values, line 6"):
            parse_yaml(bomb(levels))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 40, "nested deeper than 32 levels"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 32 levels|nesting depth"),
        ("&a [*a]" + "]" * 9, "expected|while parsing|did not find"),
        ("a: " + "9" * 5000, "an integer of 5000 digits is not allowed, line 1, column 4"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!timestamp 2020-99-99", "month|timestamp"),
        ("a: [1", "did not find|expected"),
        (b"a: \xff", "utf|codec|octet"),
        ("a: *nowhere", "undefined alias"),
    ],
    ids=range(9),
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as problem:
        parse_yaml(text)
    assert "\n" not in str(problem.value)


def test_strict_texts_have_no_aliases_tags_or_repeated_keys():
    for text, message in (
        ("a: &x 1\nb: *x", "aliases are not allowed, line 2"),
        ("a: !!str 1", "the tag tag:yaml.org,2002:str is not allowed"),
        ("a: 1\na: 2", "field 'a' stands twice, line 2"),
    ):
        assert parse_yaml(text) is not None
        with pytest.raises(ValueError, match=message):
            parse_yaml(text, strict=True)
