"""Backends, trainers and commands of other packages, found by entry points.

A group has built-in names, which no package can take over, and those that installed packages announce. One faulty
package is named in a warning and stops nobody else: one that takes a built-in name, two of one name (neither is used),
one that cannot be imported, and one that was made for another version of the interface. Nothing is imported before it
is asked for.

The module that an entry point names says which version of the interface it was made for::

    VLOC_ROS_API = 1
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from vloc_ros.errors import ConfigError

__all__ = ["API_VERSION", "PluginGroup"]

#: The version of what a localizer, a trainer and a command must look like. It is raised when one that was written for
#: the old version would no longer work.
API_VERSION = 1
_DECLARATION = "VLOC_ROS_API"
#: Whose entry points stand in the built-in tables already.
_OWN = "vloc_ros"

_log = logging.getLogger(__name__)
_told: set[str] = set()


def _warn(text: str) -> None:
    """Once in a process."""
    if text not in _told:
        _told.add(text)
        _log.warning("%s", text)


def _anything(_: Any) -> str | None:
    return None


@dataclass(frozen=True)
class PluginGroup:
    """What can be asked for by name: static built-in entries and the entry points of one group.

    :ivar group: name of the entry-point group.
    :ivar builtin: ``module:attribute`` by name.
    :ivar what: what an entry is, for messages: ``backend``, ``trainer``.
    :ivar check: what is wrong with a loaded object, as ``expected ..., found ...``, or None.
    :ivar reserved: more names that no package can take.
    :ivar extra: the extra of this package that the built-in entries need, for messages.
    """

    group: str
    builtin: Mapping[str, str]
    what: str
    check: Callable[[Any], str | None] = _anything
    reserved: tuple[str, ...] = ()
    extra: str | None = None

    def names(self) -> list[str]:
        """Built-in names, then those of other packages; nothing is imported."""
        return [*self.builtin, *self._others()]

    def load(self, name: str) -> Any:
        """The object of this name.

        :raises ConfigError: nobody provides it, it cannot be imported, or it does not fit.
        """
        others = self._others()
        if name in self.builtin:
            return self._import(self.builtin[name], name, "vloc_ros")
        if name not in others:
            raise ConfigError(
                f"expected a known {self.what} ({', '.join([*self.builtin, *others])}), found {name!r}; one of another "
                f"package must be installed with an entry point in the group {self.group}"
            )
        point = others[name]
        made = self._import(point.value, name, _package(point))
        self._check_version(point, name)
        return made

    def load_others(self) -> dict[str, Any]:
        """The objects of other packages that can be used; each of the rest is named in a warning."""
        out = {}
        for name in self._others():
            try:
                out[name] = self.load(name)
            except ConfigError as problem:
                _warn(f"{problem}; it is left out")
        return out

    def _others(self) -> dict[str, metadata.EntryPoint]:
        """Entry points of other packages by name, without those that cannot be told apart."""
        found: dict[str, dict[tuple[str, str], metadata.EntryPoint]] = {}
        for point in metadata.entry_points(group=self.group):
            package = _package(point)
            if package.replace("-", "_") == _OWN:
                continue
            if point.name in self.builtin or point.name in self.reserved:
                _warn(
                    f"{self.what} {point.name!r} of package {package} is ignored: the name is built in; announce it in "
                    f"the group {self.group} under another name"
                )
                continue
            # A package that is on the path twice says the same twice.
            found.setdefault(point.name, {})[package, point.value] = point
        for name, points in found.items():
            if len(points) > 1:
                packages = " and ".join(sorted({f"{package} ({value})" for package, value in points}))
                _warn(f"{self.what} {name!r} is announced by {packages}: none is used; uninstall all but one")
        return {name: next(iter(points.values())) for name, points in sorted(found.items()) if len(points) == 1}

    def _import(self, target: str, name: str, package: str) -> Any:
        module, _, attribute = target.partition(":")
        where = f"{self.what} {name!r}" if package == _OWN else f"{self.what} {name!r} of package {package}"
        try:
            made = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as problem:
            if package == _OWN and self.extra and problem.name and not module.startswith(problem.name):
                raise ConfigError(f"{name} needs {problem.name}: pip install 'vloc_ros[{self.extra}]'") from problem
            raise ConfigError(f"{where}: cannot import {target}: {problem}; install what it needs") from problem
        except Exception as problem:  # whatever a foreign module does when it is imported
            raise ConfigError(f"{where}: cannot import {target}: {type(problem).__name__}: {problem}") from problem
        wrong = self.check(made)
        if wrong is not None:
            raise ConfigError(f"{where}: {target}: {wrong}")
        return made

    def _check_version(self, point: metadata.EntryPoint, name: str) -> None:
        module = point.value.partition(":")[0]
        declared = getattr(sys.modules.get(module), _DECLARATION, None)
        if declared != API_VERSION:
            raise ConfigError(
                f"{self.what} {name!r} of package {_package(point)}: expected {_DECLARATION} = {API_VERSION} in module "
                f"{module}, found {declared}; it was made for another version of vloc_ros"
            )


def _package(point: metadata.EntryPoint) -> str:
    distribution = getattr(point, "dist", None)
    return distribution.name if distribution is not None else "unknown"
