"""The compiler of torch, kept from being loaded where nothing is compiled.

Its import takes longer than all others of a localizer together, and happens by the way: torchvision takes one function
of it that few of its operators call, and shapes without memory (``meta``) pass through functions that are marked as not
to be compiled. Here nothing is ever compiled.
"""

from __future__ import annotations

import importlib
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["without_compiler"]

_NAMES = ("torch._dynamo", "torch._dynamo.utils")
_lock = threading.RLock()


class _Compiler(types.ModuleType):
    """Stands for the compiler: functions stay as they are, and questions are passed on when they are asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    @staticmethod
    def disable(fn: Any = None, *_: Any, **__: Any) -> Any:
        """As if to mark a function as not to be compiled."""
        return (lambda function: function) if fn is None else fn

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """What torchvision asks when one of its operators is called."""
        supported: bool = importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type)
        return supported


@contextmanager
def without_compiler() -> Iterator[None]:
    """A block that imports the compiler gets a stand-in for it; where it is loaded already nothing happens."""
    with _lock:
        if any(name in sys.modules for name in _NAMES):
            yield
            return
        standing = {name: _Compiler(name) for name in _NAMES}
        sys.modules.update(standing)
        try:
            yield
        finally:
            for name, module in standing.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            import torch

            if isinstance(torch.__dict__.get("_dynamo"), _Compiler):
                del torch.__dict__["_dynamo"]
