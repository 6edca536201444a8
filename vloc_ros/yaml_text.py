"""YAML that another program or person wrote, bounded before anything is built from it.

A few hundred bytes of anchors within anchors stand for gigabytes, brackets within brackets end a recursive parser, and
an integer of a million digits takes minutes. So the events of the text are counted first; only then are values made.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["parse_yaml"]

#: libyaml's parser, in C, is some ten times faster; distributions without it have the one in Python.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Of an integer: what 64 bits hold, with a sign and separators.
_DIGITS = 24
_LEVELS, _VALUES = 32, 1_000_000


class _Loader(_Parser):  # type: ignore[misc]
    """SafeLoader without endless integers."""

    def construct_yaml_int(self, node: Any) -> Any:
        if len(node.value) > _DIGITS:
            raise ValueError(f"an integer of {len(node.value)} digits is not allowed{_at(node)}")
        return super().construct_yaml_int(node)


class _StrictLoader(_Loader):
    """Moreover without repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(getattr(key_node, "value", ""))
            if key in seen:
                raise ValueError(f"field {key!r} stands twice{_at(key_node)}")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _class in (_Loader, _StrictLoader):
    _class.add_constructor("tag:yaml.org,2002:int", _class.construct_yaml_int)


def parse_yaml(text: str | bytes, *, strict: bool = False) -> Any:
    """The value of a text of YAML.

    :param strict: aliases, tags and repeated keys are refused as well, as in what only this package writes.
    :raises ValueError: it does not parse, is nested deeper than 32 levels, stands for more than a million values
        (aliases expanded), or has an integer of more than 24 characters; one line.
    """
    try:
        _count(text, strict)
        loader = (_StrictLoader if strict else _Loader)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except Exception as problem:  # constructors of YAML raise whatever a value makes them
        raise ValueError(" ".join(str(problem).split())[:200] or type(problem).__name__) from problem


def _count(text: str | bytes, strict: bool) -> None:
    """See :func:`parse_yaml`.

    :raises yaml.YAMLError: it does not parse.
    """
    sizes: dict[str | None, int] = {}  # values that an anchor stands for
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and values before it
    values = 0
    for event in yaml.parse(text, Loader=_Parser):
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = values - before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        tag = getattr(event, "tag", None)
        if strict and isinstance(event, yaml.AliasEvent):
            raise ValueError(f"aliases are not allowed{_at(event)}")
        if strict and tag is not None:
            raise ValueError(f"the tag {tag[:40]} is not allowed{_at(event)}")
        values += sizes.get(event.anchor, 1) if isinstance(event, yaml.AliasEvent) else 1
        if values > _VALUES:
            raise ValueError(f"it stands for more than {_VALUES} values{_at(event)}")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, values - 1))
            if len(open_nodes) > _LEVELS:
                raise ValueError(f"it is nested deeper than {_LEVELS} levels{_at(event)}")
        elif event.anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[event.anchor] = 1


def _at(where: Any) -> str:
    mark = where.start_mark
    return f", line {mark.line + 1}, column {mark.column + 1}"
