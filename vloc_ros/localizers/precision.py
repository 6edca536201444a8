"""Which number type the networks compute in."""

from __future__ import annotations

import torch

__all__ = ["compute_dtype", "has_fast_bfloat16"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has matrix units for bfloat16. Without them bfloat16 is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in probes)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type for a ``precision`` setting: ``auto``, ``float32`` or ``bfloat16``."""
    if precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device)):
        return torch.bfloat16
    return torch.float32
