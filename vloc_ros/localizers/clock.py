"""Stage times of one frame."""

from __future__ import annotations

import time

import torch

__all__ = ["Clock"]


class Clock:
    """Milliseconds between laps; on a GPU a stage without a transfer shows only what it takes to launch it."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.laps: dict[str, float] = {}
        self._device, self._last = device, time.perf_counter()

    def lap(self, name: str) -> None:
        """What passed since the last lap, under ``name``."""
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now
