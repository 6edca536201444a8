"""The parameter table: types, ranges, and reasons a user can act on."""

from __future__ import annotations

import math

import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.nodes.parameters import all_parameters, check_together, coerce, markdown, spec_named


@pytest.mark.parametrize("spec", all_parameters(), ids=lambda spec: spec.name)
def test_every_default_is_allowed_and_described(spec):
    assert coerce(spec, spec.default) == spec.default
    assert spec.doc.endswith((".", ")")) or len(spec.doc) > 20
    assert f"`{spec.name}`" in markdown()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tf_mode", "odom_map", "one of map_odom, map_base, none"),
        ("transform_tolerance", -0.1, "0 .. 10"),
        ("transform_tolerance", math.nan, "finite"),
        ("transform_tolerance", "1", "type float"),
        ("autostart", 1, "type bool"),
        ("device", "gpu", "auto, cpu, cuda"),
        ("device", "cpu:1", "auto, cpu, cuda"),
        ("map_frame", "/map", "without leading slash"),
        ("map_frame", "", "without leading slash"),
        ("camera_extrinsics", [1.0, 2.0], "7 (x y z qx qy qz qw)"),
        ("camera_extrinsics", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0], "unit quaternion"),
        ("camera_extrinsics", "here", "list of numbers"),
        ("tracker.initial_fixes", 0, "1 .. 100"),
    ],
)
def test_what_is_not_allowed_is_refused_with_the_reason(name, value, reason):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as caught:
        coerce(spec_named(name), value)
    assert reason in str(caught.value)


def test_whole_numbers_pass_for_fractions():
    value = coerce(spec_named("tf_rate"), 10)
    assert value == 10.0 and isinstance(value, float)


def test_frames_must_differ():
    with pytest.raises(ConfigError, match="three different names"):
        check_together({"map_frame": "map", "odom_frame": "map", "base_frame": "base_link"})
    check_together({"map_frame": "map", "odom_frame": "odom", "base_frame": "base_link"})
