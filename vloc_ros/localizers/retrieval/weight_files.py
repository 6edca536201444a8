"""Public weight files on this computer, read without executing anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vloc_ros.errors import ConfigError

__all__ = ["read_weight_file"]


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
