"""Batch normalisation that has stopped learning, put into the convolution before it: one operation less a layer.

In evaluation mode it multiplies channels and adds to them, which weights and bias of the convolution can do as well.
Which normalisation follows which convolution is seen on an image that passes through, so that it works for networks of
any library; what the network says afterwards is compared with what it said before.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["without_batch_norms"]

#: Largest difference that rounding explains, as a share of the largest number.
_ROUNDING = 1e-4


@torch.no_grad()
def without_batch_norms(
    network: nn.Module, example: Tensor | None = None, answer: Callable[[Any], Tensor] = lambda out: out
) -> nn.Module:
    """A copy of a network in evaluation mode whose batch normalisations are part of its convolutions; the network
    itself where there are none, or where the copy would say something else.

    :param network: float32, on the CPU; one tensor in.
    :param example: something that it reads; default: a small image ``(1, 3, 64, 64)``.
    :param answer: one tensor of what the network says, to compare; default: it says one.
    """
    if not any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
        return network
    folded = copy.deepcopy(network)
    if example is None:
        example = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        said, pairs = _pairs(folded, example)
        before = answer(said)
        for convolution, norm in pairs:
            _fold(folded, convolution, norm)
        after = answer(folded(example))
    except RuntimeError:  # images of another size than it wants
        return network
    largest = float(before.abs().max())
    fine = after.shape == before.shape and float((after - before).abs().max()) <= _ROUNDING * largest
    return folded if fine else network


def _pairs(network: nn.Module, example: Tensor) -> tuple[Any, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """What the network says, and convolutions, each with the normalisation that reads what it gives."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def convolved(module: Any, _: Any, out: Tensor) -> None:
        calls[module] += 1
        made[id(out)] = (module, out)

    def normalised(module: Any, given: Any) -> None:
        calls[module] += 1
        convolution, out = made.get(id(given[0]), (None, None))
        if convolution is not None and out is given[0]:
            found.append((convolution, module))

    hooks = [m.register_forward_hook(convolved) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(normalised) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        said = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return said, [pair for pair in found if all(calls[module] == 1 for module in pair)]


def _fold(network: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:  # it looks at the image in evaluation mode, too
        return
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias
    # Normalisations of timm end in an activation of their own.
    rest = [part for name, part in norm.named_children() if not isinstance(part, nn.Identity)]
    name = next(name for name, module in network.named_modules() if module is norm)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Sequential(*rest) if rest else nn.Identity())
