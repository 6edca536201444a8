"""Which device computes, and what it is called in reports."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from vloc_ros.errors import ConfigError, DeviceError

__all__ = ["Clock", "compute_dtype", "device_errors", "device_name", "has_fast_bfloat16", "select_device"]

# Which number type the networks compute in.


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has matrix units for bfloat16. Without them bfloat16 is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in probes)


def has_fast_float16(device: torch.device) -> bool:
    """Whether the device has matrix units for float16 (compute capability 7.0 and newer)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type for a ``precision`` setting: ``auto``, ``float32`` or ``bfloat16``.

    ``auto`` takes bfloat16 where the device multiplies it faster, float16 on GPUs that have units for that alone
    (compute capability 7), and float32 elsewhere.
    """
    if precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device)):
        return torch.bfloat16
    if precision == "auto" and has_fast_float16(device):
        return torch.float16
    return torch.float32


# Stage times of one frame.


class Clock:
    """Milliseconds between laps; on a GPU a stage without a transfer shows only what it takes to launch it."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What passed since the last lap, under ``name``."""
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now

    def take(self, part: str, laps: Mapping[str, float]) -> None:
        """The laps of a part that has a clock of its own, as ``<part>_<name>``; those of a part that runs twice add."""
        for name, value in laps.items():
            self.laps[f"{part}_{name}"] = self.laps.get(f"{part}_{name}", 0.0) + value
        self._last = time.perf_counter()


# When a device fails.


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """What torch says of a full or absent device, as an error of the package.

    :raises DeviceError: with what to do.
    """
    try:
        yield
    except RuntimeError as problem:
        line = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        if isinstance(problem, torch.OutOfMemoryError):
            raise DeviceError(
                f"{device}: expected memory for the map and an image, found too little ({line[:120]}); lower memory_mb "
                "or candidates, end other programs that use it, or set device to cpu"
            ) from problem
        if device.type == "cuda" and "CUDA" in line:
            raise DeviceError(
                f"{device}: expected the device to answer, found: {line[:160]}; see nvidia-smi, or set device to cpu"
            ) from problem
        raise


_log = logging.getLogger(__name__)

#: What drivers of desktop and of Jetson leave where a GPU is, whether torch can use it or not.
_TRACES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu", "/proc/driver/nvidia/version")


def select_device(device: str = "auto") -> torch.device:
    """Turn the ``device`` setting into a device that works.

    :param device: ``auto`` (the first CUDA device that can compute, else the CPU), ``cpu``, ``cuda`` or ``cuda:i``.
    :raises ConfigError: another word, or a CUDA device that was asked for by name and does not work.
    """
    if device == "cpu":
        return torch.device("cpu")
    if device == "auto":
        problem = _cuda_problem(0)
        if problem is None:
            return _prepared(torch.device("cuda", 0))
        trace = next((path for path in _TRACES if os.path.exists(path)), None)
        if trace is None:
            _log.info("device auto: computing on the CPU (%s)", problem)
        else:
            _log.warning(
                "device auto: computing on the CPU, although this machine has a GPU (%s): %s; is this torch built for "
                "it (docs/devices.md)?", trace, problem,
            )  # fmt: skip
        return torch.device("cpu")
    kind, _, index = device.partition(":")
    if kind != "cuda" or (":" in device and not index.isdecimal()):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:<index>, found {device!r}")
    number = int(index) if index else 0
    problem = _cuda_problem(number)
    if problem is not None:
        raise ConfigError(f"device: expected {device} to work, found: {problem}; set device to auto or cpu")
    return _prepared(torch.device("cuda", number))


def _prepared(device: torch.device) -> torch.device:
    """Images come in one size: the fastest convolution for it is worth looking for once.

    Convolutions in float32 may round their factors to TF32, as torch has it by default; matrix products may not:
    geometry is among them.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def _cuda_problem(index: int) -> str | None:
    """Why a CUDA device cannot be used, or None. A visible device may still be too old or full: compute on it."""
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    if index >= torch.cuda.device_count():
        return f"there are only {torch.cuda.device_count()} CUDA devices"
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as problem:
        return str(problem).splitlines()[0]
    return None


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
