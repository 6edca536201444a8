"""Weights of a map into a network, checked before memory is taken, and public weight files, read without executing
anything in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vloc_ros.errors import ConfigError, MapTensorError
from vloc_ros.localizers.compiler import without_compiler
from vloc_ros.maps.tensors import expect

__all__ = ["load_module", "read_weight_file", "stored_weights"]

Module = TypeVar("Module", bound=nn.Module)


def stored_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as maps store it: matrices and kernels in float16; biases, statistics and scales as they are."""
    host = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    return {k: v.half() if v.ndim >= 2 and v.is_floating_point() else v for k, v in host.items()}


class _Unfilled(TorchFunctionMode):
    """Networks are made without their first numbers, which nobody reads: changes in place do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        changed = args[0] if args else kwargs.get("tensor")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_" and isinstance(changed, Tensor):
            return changed
        return func(*args, **kwargs)


def load_module(make: Callable[[], Module], tensors: dict[str, Tensor], where: str) -> Module:
    """The module that ``make`` gives, with a map's weights; names the first tensor that is missing, unknown or of
    another shape.

    Shapes are compared before memory is taken: a manifest can ask for a network far larger than its weight file.

    :raises MapTensorError: weights and settings do not agree. :raises ConfigError: no such network.
    """
    try:
        with without_compiler(), torch.device("meta"), _Unfilled():
            _check_shapes(make(), tensors, where)
    except (TypeError, OverflowError) as problem:  # sizes beyond what a tensor can have
        told = str(problem).partition("\n")[0]
        raise MapTensorError(
            f"{where}: expected settings that make a network, found some that make none: {told}"
        ) from problem
    except ConfigError:
        pass  # some backbones compute while they are made, which needs memory; what is really wrong shows below
    module = make()
    expected = _check_shapes(module, tensors, where)
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})
    return module


def _check_shapes(module: nn.Module, tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    expected: dict[str, Tensor] = module.state_dict()
    for name, value in expected.items():
        expect(tensors, name, tuple(value.shape), None, where)
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise MapTensorError(f"{where}: unknown tensor {unknown[0]!r}: the map's settings and weights do not agree")
    return expected


def read_weight_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.npz`` or torch checkpoint file, by name, on the CPU.

    A checkpoint's weights may lie under ``state_dict``, ``model_state_dict`` or ``model``; the ``module.`` of
    ``DataParallel`` is dropped.

    :raises ConfigError: no such file, or no weights in it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{file}: expected a weight file (.safetensors, .npz or a torch checkpoint), found none")
    try:
        if file.suffix == ".safetensors":
            found: Mapping[str, Any] = load_file(str(file))
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # each reader has its own errors for what is not its format
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ConfigError(
            f"{file}: expected tensors alone, in safetensors, npz or a torch checkpoint, found what cannot be read "
            f"as such: {first}; convert it with the software that wrote it"
        ) from problem
    for key in ("state_dict", "model_state_dict", "model"):
        inner = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping):
            found = inner
            break
    tensors = {} if not isinstance(found, Mapping) else {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ConfigError(f"{file}: expected named tensors, found none")
    return {k.removeprefix("module."): v for k, v in tensors.items()}
