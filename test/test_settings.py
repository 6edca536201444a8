from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal

import pytest

from vloc_ros.errors import ConfigError, MapFormatError
from vloc_ros.settings import (
    Fixed,
    current_names,
    describe_settings,
    ranged,
    settings_from_mapping,
    settings_to_mapping,
)


class Mode(str, Enum):
    FAST = "fast"
    GOOD = "good"


@dataclass(frozen=True)
class Inner:
    """Inner.

    :param gain: how much.
    """

    gain: float = ranged(1.0, minimum=0.0, maximum=2.0)


@dataclass(frozen=True)
class Outer:
    """Outer.

    :param count: how many,
        over two lines.
    :param name: what it is called.
    """

    name: str
    count: int = ranged(3, minimum=1)
    ratio: float = 0.5
    flag: bool = False
    mode: Mode = Mode.FAST
    fit: Literal["squash", "crop"] = "squash"
    limit: float | None = None
    size: tuple[int, int] = (1, 2)
    sigmas: tuple[float, ...] = ranged((), minimum=0.0)
    either: int | str = 1
    inner: Inner = field(default_factory=Inner)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ConfigError("name: expected another")


def test_defaults_and_conversion() -> None:
    made = settings_from_mapping(
        Outer,
        {
            "name": "a",
            "ratio": 1,
            "mode": "good",
            "limit": 2,
            "size": [3, 4],
            "sigmas": [1, 2.5],
            "either": "x",
            "inner": {"gain": 2},
            "options": {"any": [1]},
        },
        "file",
    )
    assert made == Outer(
        "a", 3, 1.0, False, Mode.GOOD, "squash", 2.0, (3, 4), (1.0, 2.5), "x", Inner(2.0), {"any": [1]}
    )
    assert isinstance(made.ratio, float)


def test_round_trip() -> None:
    made = Outer("a", mode=Mode.GOOD, limit=1.5, inner=Inner(0.5))
    assert settings_from_mapping(Outer, settings_to_mapping(made), "file") == made


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nmae": 1}, "nmae"),
        ({"count": 0}, "count.*0"),
        ({"count": 2.0}, "count"),
        ({"count": True}, "count"),
        ({"count": None}, "count"),
        ({"ratio": "1e-4"}, r"1\.0e-4"),
        ({"ratio": float("inf")}, "finite"),
        ({"ratio": 10**400}, "finite"),
        ({"ratio": 1.7e308}, "up to 1e.15"),
        ({"flag": 1}, "flag"),
        ({"mode": "slow"}, "'fast', 'good'"),
        ({"fit": "pad"}, "'squash', 'crop'"),
        ({"limit": "none"}, "limit"),
        ({"size": [1]}, "size.*2 values"),
        ({"size": "12"}, "size"),
        ({"sigmas": [1, -1]}, "sigmas"),
        ({"either": 1.5}, "either"),
        ({"inner": {"gain": 3}}, "inner: gain"),
        ({"inner": 3}, "inner"),
        ({"options": [1]}, "options"),
        ({"options": {1: 1}}, "options"),
        ({"name": "forbidden"}, "expected another"),
    ],
)
def test_refusals_name_place_and_field(change: dict[Any, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        settings_from_mapping(Outer, {"name": "a", **change}, "config/x.yaml")
    assert "config/x.yaml" in str(caught.value)


def test_missing_field() -> None:
    with pytest.raises(ConfigError, match="'name'"):
        settings_from_mapping(Outer, None, "file")


def test_not_a_mapping_and_other_error_class() -> None:
    with pytest.raises(MapFormatError, match="mapping"):
        settings_from_mapping(Outer, [1], "file", error=MapFormatError)  # type: ignore[arg-type]


def test_long_values_do_not_flood_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_mapping(Outer, {"name": "a", "count": "x" * 10_000}, "file")
    assert len(str(caught.value)) < 300


def test_description() -> None:
    rows = {row.name: row for row in describe_settings(Outer)}
    assert rows["count"].doc == "how many, over two lines."
    assert rows["count"].range == "1 or more" and rows["inner.gain"].range == "0 to 2" and rows["flag"].range == ""
    assert rows["inner.gain"].doc == "how much." and rows["mode"].default == "fast"
    assert {name: row.kind for name, row in rows.items()} == {
        "name": "text",
        "count": "whole number",
        "ratio": "number",
        "flag": "yes or no",
        "mode": "one of `fast`, `good`",
        "fit": "one of `squash`, `crop`",
        "limit": "number, or none",
        "size": "2 whole numbers",
        "sigmas": "list of numbers",
        "either": "whole number, or text",
        "inner.gain": "number",
        "options": "mapping of names to values",
    }


def test_descriptions_are_english() -> None:
    @dataclass(frozen=True)
    class Base:
        """Has what others inherit.

        :param reach_m: see :class:`~vloc_ros.types.Query` and :func:`a.b`; None or ``left_m``.
        """

        reach_m: float | None = None
        widths_deg: tuple[float, float] = ranged((1.0, 2.0), maximum=3.0)

    @dataclass(frozen=True)
    class Made(Base):
        """Inherits.

        :param widths_deg: how wide.
        """

    reach, widths = describe_settings(Made)
    assert (reach.kind, reach.doc) == ("metres, or none", "see `Query` and `b`; none or `left_m`.")
    assert (widths.kind, widths.range, widths.doc) == ("2 numbers, in degrees", "at most 3", "how wide.")


@dataclass(frozen=True)
class Renamed:
    """Settings that had other names before."""

    FORMER: ClassVar[dict[str, Any]] = {
        "amount": "count",
        "inner.size": "size",
        "strength": "inner.gain",
        "slack": Fixed((0.5, 2)),
    }

    count: int = 1
    size: int = 1
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Holder:
    """One that holds such settings."""

    renamed: Renamed = field(default_factory=Renamed)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"count": 4}, Renamed(4), []),
        ({"amount": 4}, Renamed(4), ["amount is called count now"]),
        ({"inner": {"size": 3, "gain": 2.0}}, Renamed(1, 3, Inner(2.0)), ["inner.size is called size now"]),
        ({"strength": 0.5}, Renamed(inner=Inner(0.5)), ["strength is called inner.gain now"]),
        ({"slack": [0.5, 2.0]}, Renamed(), []),
        ({"slack": [0.5, 3]}, Renamed(), ["slack is fixed now, at [0.5, 2]; [0.5, 3] is ignored"]),
    ],
)
def test_names_of_before_are_read_and_warned_of(caplog, before, now, told) -> None:
    given = {"renamed": before}
    assert settings_from_mapping(Holder, given, "map.yaml: settings") == Holder(now)
    assert [r.getMessage() for r in caplog.records] == [f"map.yaml: settings: renamed: {t}" for t in told]
    assert given == {"renamed": before} and before != {}


def test_a_name_of_before_beside_todays_is_refused() -> None:
    with pytest.raises(MapFormatError, match=r"m: renamed: expected one of 'count' and 'amount'.*found both"):
        current_names(Holder, {"renamed": {"amount": 1, "count": 2}}, "m", error=MapFormatError)
    with pytest.raises(ConfigError, match="unknown field 'amounts'"):
        settings_from_mapping(Renamed, {"amounts": 1}, "m")
