"""The parameter table: types, ranges, and reasons a user can act on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.localizers import base as registry
from vloc_ros.nodes.parameters import (
    all_parameters,
    backend_parameters,
    check_together,
    coerce,
    markdown,
    settings_parameters,
    spec_named,
)
from vloc_ros.settings import ranged

BACKEND_PARAMETERS = [spec for backend in registry.BUILT_IN for spec in backend_parameters(backend)]


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


@pytest.mark.parametrize("spec", BACKEND_PARAMETERS, ids=lambda spec: spec.name)
def test_every_setting_of_a_backend_is_a_described_parameter(spec):
    assert coerce(spec, spec.default) == spec.default
    assert spec.doc, "describe it in the docstring of its class"


def test_the_page_has_every_backend_and_says_what_is_shared():
    page = markdown()
    for backend in registry.BUILT_IN:
        assert f"\n### `{backend}`\n" in page
    assert "| `retrieval.k` | integer | `1` | 1 .. 1000 |" in page
    assert "| `imposing.noise_translation_m` | double array | `[8.0, 8.0, 0.2]` | at least 0 |" in page
    assert "Those of [`retrieval`](#retrieval), under `copr.`" in page and "`copr.k`" not in page


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("retrieval.k", 0, "1 .. 1000"),
        ("copr.weights", "best", "uniform, similarity, interpolation"),
        ("irpnet.samples", 1.5, "type int"),
        ("camnet.stages", "pose", "retrieval, pfr, prp, full"),
        ("imposing.noise_rotation_deg", [1.0, 1.0, 100.0], "0 .. 90"),
    ],
)
def test_settings_of_backends_are_checked_as_the_nodes_own(name, value, reason):
    (spec,) = (spec for spec in BACKEND_PARAMETERS if spec.name == name)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as caught:
        coerce(spec, value)
    assert reason in str(caught.value)


def test_settings_that_no_parameter_can_hold_are_left_out():
    @dataclass(frozen=True)
    class Settings:
        """Of a test.

        :param count: how many.
        """

        count: int = ranged(3, minimum=1)
        limit: float | None = None
        table: dict[str, int] = field(default_factory=dict)

    (spec,) = settings_parameters("mine.", Settings)
    assert (spec.name, spec.default, spec.minimum, spec.doc) == ("mine.count", 3, 1, "How many.")
