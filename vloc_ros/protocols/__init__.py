"""The built-in protocols of ``vloc evaluate``, as YAML: which drives, which maps are made of them, which rows."""

from __future__ import annotations

from importlib import resources

from vloc_ros.errors import ConfigError

__all__ = ["built_in", "protocol_text"]


def built_in() -> list[str]:
    """Names of the protocols that come with the package."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name[: -len(".yaml")] for f in files if f.name.endswith(".yaml"))


def protocol_text(name: str) -> str:
    """The YAML of a built-in protocol. :raises ConfigError: there is none of this name."""
    if name not in built_in():
        raise ConfigError(f"expected a protocol out of {', '.join(built_in())}, or a YAML file, found {name!r}")
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
