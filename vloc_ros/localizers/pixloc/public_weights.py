"""Public PixLoc checkpoints (github.com/cvg/pixloc, Apache-2.0) as weights of our network, from a local file.

The files hold settings as pickled objects beside the weights, which nothing here reads. Convert one where its software
is installed; reading it so runs what the file says, so take it from its authors only::

    state = torch.load("checkpoint_best.tar", weights_only=False)["model"]
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, "pixloc.safetensors")

=====================================  =====================================================================
tensor                                 becomes
=====================================  =====================================================================
``extractor.encoder.B.I.*``            ``encoder.blocks.B.I.*``: layer I of the VGG's block B
``extractor.decoder.B.layers.I.*``     ``decoder.B.layers.I.*``, coarse to fine
``extractor.adaptation.S.0.*``         ``adaptation.S.*``, fine to coarse
``extractor.uncertainty.S.0.*``        ``uncertainty.S.*``
``optimizer.S.dampingnet.const`` (6,)  theta of eq. 7 of that level; ``optimizer.dampingnet.const``: of all levels
=====================================  =====================================================================

Their damping runs from 10^-6 to 10^5 (eq. 7), their images are normalised as ours, and their levels have strides 1, 4
and 16 with 32, 128 and 128 channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.weights import read_weight_file

__all__ = ["PublicWeights", "is_public", "load_public_weights"]

_RULES = (
    (re.compile(r"^extractor\.encoder\.(\d+\.\d+\..+)$"), r"encoder.blocks.\1"),
    (re.compile(r"^extractor\.(decoder\.\d+\.layers\..+)$"), r"\1"),
    (re.compile(r"^extractor\.(adaptation|uncertainty)\.(\d+)\.0\.(weight|bias)$"), r"\1.\2.\3"),
)
_DAMPING = re.compile(r"^optimizer\.(?:(\d+)\.)?dampingnet\.const$")


@dataclass(frozen=True)
class PublicWeights:
    """``network``: a state dict of :class:`FeatureNet`; ``damping``: theta (L, 6) of eq. 7, coarse to fine, or None."""

    network: dict[str, Tensor]
    damping: Tensor | None


def is_public(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of a public PixLoc checkpoint."""
    return any(name.startswith("extractor.encoder.") for name in tensors)


def load_public_weights(path: str | Path, network: FeatureNet) -> PublicWeights:
    """The weights of a converted checkpoint for a network of the same shape, which is not changed.

    :raises ConfigError: no such file, or its names or shapes are not those of the network.
    """
    tensors = read_weight_file(path)
    if not is_public(tensors):
        some = ", ".join(sorted(tensors)[:4])
        raise ConfigError(f"{path}: expected a converted PixLoc checkpoint (extractor.encoder...), found {some}")
    state: dict[str, Tensor] = {}
    damping: dict[int | None, Tensor] = {}
    for name, value in tensors.items():
        found = _DAMPING.match(name)
        if found:
            damping[int(found[1]) if found[1] else None] = value
            continue
        for pattern, replacement in _RULES:
            if pattern.match(name):
                state[pattern.sub(replacement, name)] = value
                break
        else:
            raise ConfigError(f"{path}: expected tensors of PixLoc's extractor and optimiser, found {name!r}, too")
    expected = network.state_dict()
    for name, value in expected.items():
        if name not in state and name.endswith("num_batches_tracked"):
            state[name] = value
        if name not in state or state[name].shape != value.shape:
            shape = tuple(state[name].shape) if name in state else "nothing"
            raise ConfigError(
                f"{path}: expected {name!r} of shape {tuple(value.shape)}, found {shape}; the public checkpoints need "
                "the default network settings"
            )
        if not bool(torch.isfinite(state[name]).all()):
            raise ConfigError(f"{path}: {name!r}: expected finite values, found NaN or infinity")
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise ConfigError(f"{path}: expected the layers of this network alone, found {unknown[0]!r}, too")
    levels = network.settings.levels
    theta = None
    if None in damping:
        theta = damping[None].float().reshape(1, 6).repeat(levels, 1)
    elif damping:
        if sorted(k for k in damping if k is not None) != list(range(levels)):
            raise ConfigError(f"{path}: expected the damping of {levels} levels, found that of {len(damping)}")
        theta = torch.stack([damping[i].float().reshape(6) for i in range(levels)]).flip(0)
    return PublicWeights({k: v.to(expected[k].dtype) for k, v in state.items()}, theta)
