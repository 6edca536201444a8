"""What a report says about the run besides its figures: device, settings, and the poses the map was made from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from vloc_ros.localizers.base import Localizer
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array

__all__ = ["device_name", "map_positions", "plain_settings"]

#: Tensors that hold the camera poses a map was made from: (M, 3) positions or (M, 7) x y z qx qy qz qw.
POSE_TENSORS = ("training_poses", "reference_poses", "training_positions")


def device_name(device: torch.device) -> str:
    """The device in words, with its name, because a latency means nothing without it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_cpu_name()}, {torch.get_num_threads()} threads)"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def map_positions(bundle: MapBundle) -> Array | None:
    """Camera positions (M, 3) that the map was made from, where the map stores them (:data:`POSE_TENSORS`)."""
    for entry in bundle.manifest.files:
        if entry.name.endswith(".safetensors"):
            tensors = bundle.tensors(entry.name)
            for name in POSE_TENSORS:
                if name in tensors and tensors[name].ndim == 2 and tensors[name].shape[1] >= 3:
                    positions: Array = tensors[name][:, :3].to(torch.float64).numpy()
                    return positions
    return None


def plain_settings(localizer: Localizer) -> dict[str, Any]:
    """The backend's settings in force as plain values."""
    settings = localizer.settings
    if is_dataclass(settings) and not isinstance(settings, type):
        return asdict(settings)
    return dict(settings) if isinstance(settings, Mapping) else {}
