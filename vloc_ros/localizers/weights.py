"""Weights of a map into a network, checked before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError, MapTensorError
from vloc_ros.maps.tensors import expect

__all__ = ["load_module", "stored_weights"]

Module = TypeVar("Module", bound=nn.Module)


def stored_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as maps store it: matrices and kernels in float16; biases, statistics and scales as they are."""
    host = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    return {k: v.half() if v.ndim >= 2 and v.is_floating_point() else v for k, v in host.items()}


def load_module(make: Callable[[], Module], tensors: dict[str, Tensor], where: str) -> Module:
    """The module that ``make`` gives, with a map's weights; names the first tensor that is missing, unknown or of
    another shape.

    Shapes are compared before memory is taken: a manifest can ask for a network far larger than its weight file.

    :raises MapTensorError: weights and settings do not agree. :raises ConfigError: no such network.
    """
    try:
        with torch.device("meta"):
            _check_shapes(make(), tensors, where)
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
