"""The parameter table declared on an rclpy node, with descriptors and a validating callback without side effects."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vloc_ros.errors import ConfigError
from vloc_ros.nodes.parameters import (
    ParameterSpec,
    all_parameters,
    camera_parameters,
    check_together,
    coerce,
    settings_parameters,
)
from vloc_ros.settings import settings_to_mapping

__all__ = ["NodeParameters", "describe"]

#: Names that rclpy itself declares or reads.
FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, array) else value


def describe(spec: ParameterSpec) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows."""
    descriptor = ParameterDescriptor(
        description=" ".join(filter(None, (spec.doc, spec.delay))),
        read_only=spec.read_only,
        additional_constraints=spec.constraint,
    )
    # rclpy takes an empty list for bytes: lists keep no type, and `coerce` checks what is in them.
    descriptor.dynamic_typing = isinstance(spec.default, list)
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None:
        if isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        elif isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor


class NodeParameters:
    """Declares every parameter of the table on ``node`` and answers for its values.

    :param node: made with ``automatically_declare_parameters_from_overrides``, so that the parameters of backends
        that are not known yet survive.
    :param backends: names under which dotted parameters are a backend's settings.
    :raises ConfigError: a value given at the start is not allowed.
    """

    def __init__(self, node: Node, backends: Iterable[str]) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in all_parameters()}
        if node.has_parameter("cameras"):  # whose parameters these are
            names = coerce(self._specs["cameras"], _plain(node.get_parameter("cameras").value) or [])
            self._specs.update({spec.name: spec for name in names for spec in camera_parameters(name)})
        self._backend_specs: dict[str, ParameterSpec] = {}
        self._shown: dict[str, Any] = {}
        given = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
        self._warn_unknown(given, tuple(backends))
        values: dict[str, Any] = {}
        for spec in self._specs.values():
            value = spec.default
            if given.get(spec.name) is not None:
                value = coerce(spec, _plain(given[spec.name]))
            if node.has_parameter(spec.name):
                node.undeclare_parameter(spec.name)
            values[spec.name] = value
            node.declare_parameter(spec.name, value, describe(spec), ignore_override=True)
        check_together(values)
        node.add_on_set_parameters_callback(self._validate)

    def __getitem__(self, name: str) -> Any:
        return _plain(self._node.get_parameter(name).value)

    def group(self, prefix: str) -> dict[str, Any]:
        """The values of the table below ``prefix`` (with its dot), without it."""
        return {name[len(prefix) :]: self[name] for name in self._specs if name.startswith(prefix)}

    def backend_settings(self, backend: str) -> dict[str, Any]:
        """What the user set under ``<backend>.``; what was only shown by :meth:`show_backend` is the map's."""
        settings = {}
        for name, parameter in self._node.get_parameters_by_prefix(backend).items():
            value = _plain(parameter.value)
            if value is not None and self._shown.get(f"{backend}.{name}", self) != value:
                settings[name] = value
        return settings

    def show_backend(self, backend: str, settings: Any) -> None:
        """Declare the settings in force, so that ``ros2 param list`` shows what can be changed.

        :param settings: a dataclass, whose ranges and texts become the descriptors.
        """
        specs = {spec.name: spec for spec in settings_parameters(f"{backend}.", type(settings))}
        self._backend_specs.update(specs)
        for name, value in settings_to_mapping(settings).items():
            full = f"{backend}.{name}"
            if isinstance(value, tuple):
                value = [float(v) if isinstance(v, float) else v for v in value]
            if not isinstance(value, (bool, int, float, str)) and not (isinstance(value, list) and value):
                continue
            spec = self._backend_specs.get(full)
            by_user = False
            if self._node.has_parameter(full):
                if full in self._shown and self[full] != self._shown[full]:
                    continue  # the user changed it since, and it has its descriptor
                # What a parameter file gives has been declared without one, and as an integer where 5 stands for 5.0.
                by_user = full not in self._shown
                self._node.undeclare_parameter(full)
            descriptor = describe(spec) if spec else ParameterDescriptor(description=f"Setting of {backend}.")
            self._node.declare_parameter(full, value, descriptor, ignore_override=True)
            if not by_user:
                self._shown[full] = self[full]

    def _warn_unknown(self, given: Mapping[str, Any], backends: tuple[str, ...]) -> None:
        for name in given:
            prefix, dot, _ = name.partition(".")
            if name in self._specs or name.startswith(FOREIGN) or (dot and prefix in backends):
                continue
            close = difflib.get_close_matches(name, list(self._specs), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            self._node.get_logger().warning(f"unknown parameter {name!r} is ignored{hint}")

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        values, delays = {name: self[name] for name in self._specs}, []
        try:
            for parameter in parameters:
                spec = self._specs.get(parameter.name, self._backend_specs.get(parameter.name))
                if spec is not None:
                    values[spec.name] = coerce(spec, _plain(parameter.value))
                    if self._node.has_parameter(parameter.name):  # else it is only being declared
                        delays.append(spec.delay)
            check_together(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        later = " ".join(sorted({delay for delay in delays if delay}))
        if later:  # rclpy drops the reason of what succeeds: the log has it in any case
            names = ", ".join(parameter.name for parameter in parameters)
            self._node.get_logger().warning(f"{names}: accepted. {later}")
        return SetParametersResult(successful=True, reason=later)
