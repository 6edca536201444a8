"""The message types of a bag, each by itself: one that is unknown or broken takes its own topics alone with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["Definition", "typestore_of"]

_IDL_SEPARATOR = "=" * 80 + "\n"


class Definition(NamedTuple):
    """A message type: its name, ``msg`` or ``idl`` (or what else a file says, ``""`` for nothing), and the text."""

    name: str
    format: str
    text: str


def typestore_of(definitions: Iterable[Definition], default: Any = None) -> tuple[Any, dict[str, str]]:
    """A typestore of all types that can be read, and why the others cannot, by name.

    :param default: a typestore for types that come without a definition (bags recorded before Iron).
    """
    from rosbags.typesys import Stores, get_typestore

    types: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for name, form, text in dict.fromkeys(definitions):
        try:
            if not form and default is not None and name in default.fielddefs:
                types = {**default.fielddefs, **types}
                continue
            found = _types(name, form, text)
            if name not in found:
                raise ValueError(f"its definition is of {', '.join(list(found)[:3]) or 'nothing'}")
            alone = get_typestore(Stores.EMPTY)
            alone.register(found)
            alone.generate_msgdef(name)  # every type that it refers to is there
            types.update(found)
        except Exception as problem:  # whatever a broken definition makes the parser raise
            broken[name] = " ".join(str(problem).split())[:160] or type(problem).__name__
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store, broken


def _types(name: str, form: str, text: str) -> dict[str, Any]:
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    if form == "msg":
        return dict(get_types_from_msg(text, name))
    if form == "idl":
        parts = text.split(_IDL_SEPARATOR)[1:] if text.startswith(f"{_IDL_SEPARATOR}IDL: ") else [f"\n{text}"]
        out: dict[str, Any] = {}
        for part in parts:
            out.update(get_types_from_idl(part.split("\n", 1)[1]))
        return out
    raise ValueError(f"expected a definition as ROS 2 writes them, found {form[:40] or 'none'}")
