"""The node's parameters as one plain table, from which the declarations and docs/parameters.md are made.

Imports no ROS, so that the documentation can be generated and checked on any machine
(:mod:`vloc_ros.nodes.documentation`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vloc_ros.diagnostics import DiagnosticSettings
from vloc_ros.errors import ConfigError
from vloc_ros.localizers.base import BUILT_IN, backend_class
from vloc_ros.pipeline import PipelineSettings
from vloc_ros.settings import describe_settings, is_integer
from vloc_ros.tracking.fixes import FixSettings
from vloc_ros.tracking.settings import TrackerSettings

__all__ = [
    "PARAMETERS",
    "ParameterSpec",
    "backend_parameters",
    "camera_parameters",
    "check_together",
    "coerce",
    "literal",
    "markdown",
    "settings_parameters",
    "spec_named",
]

TYPE_NAMES = {bool: "bool", int: "integer", float: "double", str: "string", list: "double array"}

AT_ONCE = "at once"
CONFIGURE = "next configure"
MAP = "next configure or `~/load_map`"
FIXED = "start only (read-only)"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its type is that of ``default``; ``applies`` says when a change takes effect.

    ``items`` is the type of what a list holds.
    """

    name: str
    default: Any
    doc: str
    applies: str = CONFIGURE
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None
    items: type = float

    @property
    def type_name(self) -> str:
        """The type in words."""
        return "string array" if self.items is str else TYPE_NAMES[type(self.default)]

    @property
    def read_only(self) -> bool:
        """Whether the parameter can only be set at the start."""
        return self.applies == FIXED

    @property
    def delay(self) -> str:
        """When a change takes effect, as a sentence; empty where that is at once."""
        return "" if self.applies == AT_ONCE else f"Takes effect: {self.applies.replace('`', '')}."

    @property
    def constraint(self) -> str:
        """The allowed values in words, or an empty string."""
        if self.choices:
            return "one of " + ", ".join(f"`{c}`" for c in self.choices)
        low, high = (
            "" if bound is None else str(bound) if isinstance(bound, int) else f"{bound:g}"
            for bound in (self.minimum, self.maximum)
        )
        if low and high:
            return f"{low} .. {high}"
        return f"at least {low}" if low else f"at most {high}" if high else ""


def _frame(value: str) -> str | None:
    if not value or value.startswith("/") or any(c.isspace() for c in value):
        return "expected a frame name without leading slash or spaces"
    return None


def _optional_frame(value: str) -> str | None:
    return _frame(value) if value else None


def _device(value: str) -> str | None:
    kind, _, index = value.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()) or (index and kind != "cuda"):
        return "expected auto, cpu, cuda or cuda:<index>"
    return None


def _extrinsics(value: list[float]) -> str | None:
    if len(value) not in (0, 6, 7):
        return f"expected no value, 7 (x y z qx qy qz qw) or 6 (x y z roll pitch yaw), found {len(value)}"
    if len(value) == 7 and abs(math.sqrt(sum(v * v for v in value[3:])) - 1.0) > 1e-3:
        return "expected a unit quaternion in the last four values (x y z w)"
    return None


def _names(value: list[str]) -> str | None:
    if len(set(value)) != len(value):
        return "expected different names"
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in value):
        return "expected names of letters, digits and underscores"
    return None


def camera_parameters(name: str) -> tuple[ParameterSpec, ...]:
    """The parameters of one camera of a rig."""
    return (
        ParameterSpec(f"camera.{name}.image", "", "Its image topic; empty takes `<name>/image`."),
        ParameterSpec(f"camera.{name}.camera_info", "", "Its CameraInfo topic; empty takes the image's sibling."),
        ParameterSpec(
            f"camera.{name}.transport",
            "",
            "`raw` or `compressed`; empty takes `image_transport`.",
            choices=("", "raw", "compressed"),
        ),
        ParameterSpec(
            f"camera.{name}.frame", "", "Its optical frame; empty takes the image's `frame_id`.", check=_optional_frame
        ),
        ParameterSpec(
            f"camera.{name}.extrinsics",
            [],
            "T_base_camera in place of a look-up in TF, as `camera_extrinsics` has it.",
            check=_extrinsics,
        ),
    )


PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("map", "", "The map: a folder or a `.vmap` file. Without one the node stays unconfigured.", MAP),
    ParameterSpec(
        "maps",
        [],
        "Several maps of one frame that continue each other: the node changes between them as the vehicle moves, and "
        "loads the next one ahead. It starts in `map`, or in the first.",
        MAP,
        items=str,
    ),
    ParameterSpec(
        "map_hysteresis", 5.0, "Metres that another of `maps` must be nearer before it is used.", MAP, 0.0, 1000.0
    ),
    ParameterSpec(
        "map_search",
        3.0,
        "Seconds for which each of `maps` is looked into in turn while nothing is known of the pose; 0 stays in one.",
        MAP,
        0.0,
        600.0,
    ),
    ParameterSpec("map_ahead", 50.0, "Metres before its area at which one of `maps` is loaded.", MAP, 0.0, 10_000.0),
    ParameterSpec("backend", "", "The backend the map must be made for; empty takes the map's.", MAP),
    ParameterSpec(
        "device",
        "auto",
        "Where the localizer runs: `auto` takes the first CUDA device and falls back to the CPU, `cuda` or `cuda:1` "
        "insist, `cpu` avoids the GPU.",
        MAP,
        check=_device,
    ),
    ParameterSpec("scene", "", "The scene of a multi-scene map; empty lets the backend choose.", AT_ONCE),
    ParameterSpec(
        "autostart",
        True,
        "Configure and activate by itself at the start, also after a respawn. Set it to false when a lifecycle "
        "manager does that.",
        FIXED,
    ),
    ParameterSpec(
        "bond",
        False,
        "Form a bond on `bond` while active, with the node's name as id: what Nav2's lifecycle manager asks for unless "
        "its `bond_timeout` is 0.",
    ),
    ParameterSpec("map_frame", "map", "Frame of the published poses.", check=_frame),
    ParameterSpec("odom_frame", "odom", "Frame of the odometry, which others connect to the base.", check=_frame),
    ParameterSpec("base_frame", "base_link", "Frame of the vehicle whose pose is published.", check=_frame),
    ParameterSpec(
        "cameras",
        [],
        "Names of the cameras of a rig, the most important first; empty: one camera on `image`. Each has parameters "
        "under `camera.<name>.`.",
        FIXED,
        check=_names,
        items=str,
    ),
    ParameterSpec(
        "rig_mode",
        "together",
        "`together` makes one pose from the images of one moment; `in_turn` localizes one camera after the other, for "
        "cameras that are not synchronised, or a processor that has no time for all.",
        choices=("together", "in_turn"),
    ),
    ParameterSpec(
        "rig_tolerance",
        0.02,
        "Seconds that the stamps of one moment may be apart. With odometry the vehicle's motion in between is allowed "
        "for.",
        CONFIGURE,
        0.0,
        1.0,
    ),
    ParameterSpec(
        "rig_timeout",
        0.5,
        "Seconds without an image, or without one of the others' moment, after which a camera is not waited for.",
        CONFIGURE,
        0.01,
        60.0,
    ),
    ParameterSpec(
        "camera_frame",
        "",
        "Optical frame of the camera (x right, y down, z forward); empty takes the image's `frame_id`.",
        check=_optional_frame,
    ),
    ParameterSpec(
        "camera_extrinsics",
        [],
        "T_base_camera as `[x, y, z, qx, qy, qz, qw]`, or `[x, y, z, roll, pitch, yaw]` in radians about fixed axes: "
        "the camera's place on the base, in place of a look-up in TF.",
        check=_extrinsics,
    ),
    ParameterSpec(
        "tf_mode",
        "map_odom",
        "`map_odom` corrects the odometry's drift (Nav2); `map_base` publishes the base directly and is refused while "
        "somebody else gives the base a parent; `none` publishes no TF (robot_localization).",
        choices=("map_odom", "map_base", "none"),
    ),
    ParameterSpec(
        "transform_tolerance",
        0.5,
        "Seconds that map -> odom is stamped ahead of now; at least the time from an image's stamp to its pose.",
        AT_ONCE,
        0.0,
        10.0,
    ),
    ParameterSpec("tf_rate", 20.0, "Rate of map -> odom in Hz.", CONFIGURE, 0.1, 500.0),
    ParameterSpec(
        "tf_smoothing",
        0.0,
        "Seconds in which map -> odom makes 63 % of a correction, so that nothing jumps for a controller; 0: at once. "
        "`~/pose` is never smoothed.",
        CONFIGURE,
        0.0,
        10.0,
    ),
    ParameterSpec(
        "tf_jump_m",
        2.0,
        "Corrections of the vehicle's position larger than this, metres, are made at once: it was somewhere else.",
        CONFIGURE,
        0.0,
        1000.0,
    ),
    ParameterSpec("tf_jump_deg", 20.0, "The same for rotations, degrees.", CONFIGURE, 0.0, 180.0),
    ParameterSpec(
        "tf_timeout", 0.2, "Seconds to wait for TF at the image's stamp, in the worker's thread.", AT_ONCE, 0.0, 10.0
    ),
    ParameterSpec(
        "image_transport",
        "raw",
        "`raw` subscribes to `image`, `compressed` to `image/compressed`.",
        choices=("raw", "compressed"),
    ),
    ParameterSpec(
        "image_qos",
        "best_effort",
        "Reliability asked for; `best_effort` reads from every publisher, `reliable` gets nothing from a best-effort "
        "one.",
        choices=("best_effort", "reliable"),
    ),
    ParameterSpec(
        "image_is_rectified",
        False,
        "The images are rectified (`image_rect`): the camera is P of the camera info, not K and D.",
    ),
    ParameterSpec(
        "max_image_age",
        1.0,
        "Seconds after its stamp at which an image is refused as stale; 0 takes every image, for cameras whose clock "
        "is not synchronised.",
        MAP,
        0.0,
        60.0,
    ),
    ParameterSpec("publish_degraded", True, "Publish accepted poses while DEGRADED too, not just LOCALIZED.", MAP),
    ParameterSpec(
        "pose_file",
        "",
        "File that keeps the last pose between runs; the next start on the same map searches there first. Empty "
        "keeps none.",
    ),
    ParameterSpec(
        "antenna",
        [],
        "The satellite antenna on the base, `[x, y, z]` in metres; empty takes the place of the fix's frame in TF, "
        "else the base itself.",
        check=lambda value: None if len(value) in (0, 3) else f"expected no value or 3 (x y z), found {len(value)}",
    ),
    ParameterSpec("pose_file_period", 5.0, "Seconds between two writes of `pose_file`.", AT_ONCE, 0.1, 3600.0),
    ParameterSpec("no_image_warning", 5.0, "Seconds without an image before a warning says why.", AT_ONCE, 0.1, 3600.0),
    ParameterSpec("diagnostics_period", 1.0, "Seconds between two messages on `/diagnostics`.", FIXED, 0.05, 60.0),
)


#: Settings classes whose fields are parameters below a prefix, with the fields that have a name of their own above.
GROUPS: tuple[tuple[str, type, frozenset[str]], ...] = (
    ("pipeline.", PipelineSettings, frozenset({"publish_degraded", "scene", "max_age_s"})),
    ("tracker.", TrackerSettings, frozenset()),
    ("fix.", FixSettings, frozenset()),
    ("diagnostics.", DiagnosticSettings, frozenset()),
)


def settings_parameters(
    prefix: str, cls: type, applies: str = MAP, elsewhere: frozenset[str] = frozenset()
) -> tuple[ParameterSpec, ...]:
    """The fields of a settings class as parameters below ``prefix``; those that no parameter can hold are left out.

    :param elsewhere: fields that are parameters under another name.
    """
    specs = []
    docs = {row.name: row.doc for row in describe_settings(cls)}
    hints = get_type_hints(cls)
    for item in fields(cls):
        default = list(item.default) if isinstance(item.default, tuple) else item.default
        if item.name in elsewhere or type(default) not in TYPE_NAMES:
            continue
        doc = docs.get(item.name, "")
        low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
        choices = get_args(hints[item.name]) if get_origin(hints[item.name]) is Literal else ()
        text = doc[:1].upper() + doc[1:]
        specs.append(ParameterSpec(f"{prefix}{item.name}", default, text, applies, low, high, choices))
    return tuple(specs)


def tuning_parameters() -> tuple[ParameterSpec, ...]:
    """The parameters of pipeline, tracker and diagnostics, from the settings classes that replay uses too."""
    return tuple(
        spec
        for prefix, cls, elsewhere in GROUPS
        for spec in settings_parameters(prefix, cls, AT_ONCE if cls is DiagnosticSettings else MAP, elsewhere)
    )


def backend_parameters(backend: str) -> tuple[ParameterSpec, ...]:
    """The parameters of an installed backend, from its class of settings.

    :raises ConfigError: no such backend, or it cannot be imported.
    """
    return settings_parameters(f"{backend}.", backend_class(backend).settings_class)


def spec_named(name: str) -> ParameterSpec | None:
    """The row of ``name``; None for parameters of a backend and of rclpy."""
    return next((spec for spec in all_parameters() if spec.name == name), None)


def all_parameters() -> tuple[ParameterSpec, ...]:
    """Every parameter of the node but the backend's own."""
    return PARAMETERS + tuning_parameters()


def coerce(spec: ParameterSpec, value: Any) -> Any:
    """``value`` in the parameter's own type (whole numbers pass for fractions).

    :raises ConfigError: wrong type, out of range, not one of the choices; the message is the reason to show.
    """
    kind = type(spec.default)
    if kind is float and is_integer(value):
        value = float(value)
    if kind is list:
        if spec.items is str:
            # rclpy gives a list or a tuple; what is neither holds no names.
            if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
                raise ConfigError(f"{spec.name}: expected a list of names, found {value!r}")
            value = list(value)
        else:
            try:
                value = [float(v) for v in value]
            except (TypeError, ValueError):
                raise ConfigError(f"{spec.name}: expected a list of numbers, found {value!r}") from None
    elif type(value) is not kind:
        raise ConfigError(f"{spec.name}: expected a value of type {kind.__name__}, found {value!r}")
    numbers = (value if spec.items is float else []) if kind is list else [value] if kind in (int, float) else []
    if not all(math.isfinite(v) for v in numbers):
        raise ConfigError(f"{spec.name}: expected finite numbers, found {value!r}")
    low = -math.inf if spec.minimum is None else spec.minimum
    high = math.inf if spec.maximum is None else spec.maximum
    if not all(low <= v <= high for v in numbers):
        what = "numbers" if kind is list else "a number"
        raise ConfigError(f"{spec.name}: expected {what} of {spec.constraint}, found {value!r}")
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{spec.name}: expected one of {', '.join(spec.choices)}, found {value!r}")
    reason = spec.check(value) if spec.check else None
    if reason:
        raise ConfigError(f"{spec.name}: {reason}, found {value!r}")
    return value


def check_together(values: Mapping[str, Any]) -> None:
    """Checks between parameters.

    :raises ConfigError: two frames have one name.
    """
    frames = [str(values[name]) for name in ("map_frame", "odom_frame", "base_frame")]
    if len(set(frames)) != 3:
        raise ConfigError(f"map_frame, odom_frame, base_frame: expected three different names, found {frames}")


def literal(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else f"{value:.1f}"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def markdown() -> str:
    """The text of docs/parameters.md."""
    lines = [
        "# Parameters of `vloc_localizer`",
        "",
        "Made from the node's own declarations by `make docs`; do not edit. The same text is what",
        "`ros2 param describe` shows. A value that is not allowed is refused with the reason.",
        "",
        "| parameter | type | default | allowed | takes effect | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for spec in all_parameters():
        lines.append(
            f"| `{spec.name}` | {spec.type_name} | `{literal(spec.default)}` | {spec.constraint} | "
            f"{spec.applies} | {spec.doc} |"
        )
    lines += [
        "",
        "## Parameters of each camera of a rig",
        "",
        "For each name in `cameras`; all take effect with the next configure.",
        "",
        "| parameter | type | default | allowed | meaning |",
        "|---|---|---|---|---|",
    ]
    for spec in camera_parameters("<name>"):
        lines.append(
            f"| `{spec.name}` | {spec.type_name} | `{literal(spec.default)}` | {spec.constraint} | {spec.doc} |"
        )
    lines += [
        "",
        "`use_sim_time` is rclpy's own.",
        "",
        "## Parameters of a backend",
        "",
        "Settings that the map's backend allows to change at run time stand under `<backend>.`, for example",
        "`imposing.candidates`. **What is not set comes from the map**; the defaults below are those of maps that say",
        "nothing. After the map is loaded, `ros2 param list` shows the settings of its backend with the values in",
        "force; a change takes effect with the next configure or `~/load_map`. Offline the same settings are the",
        "`--set NAME=VALUE` of `vloc replay`. Backends of other packages appear in the same way.",
        "",
    ]
    written: dict[type, str] = {}
    for backend in BUILT_IN:
        lines += [f"### `{backend}`", "", *_backend_table(backend, written), ""]
    return "\n".join(lines)


def _backend_table(backend: str, written: dict[type, str]) -> list[str]:
    """The rows of a backend; a class of settings that stands above already is not repeated."""
    cls = backend_class(backend).settings_class
    if cls in written:
        return [f"Those of [`{written[cls]}`](#{written[cls]}), under `{backend}.`."]
    written[cls] = backend
    rows = ["| parameter | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for spec in backend_parameters(backend):
        kind, default = TYPE_NAMES[type(spec.default)], literal(spec.default)
        rows.append(f"| `{spec.name}` | {kind} | `{default}` | {spec.constraint} | {spec.doc} |")
    return rows
