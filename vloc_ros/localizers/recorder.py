"""Work that a GPU records once and repeats with a single launch (CUDA graphs).

A function is recorded for each shape of its arguments when it is asked for the second time: by then what it makes only
once (constants, workspaces of libraries) is there. It must not look at a number of the device, copy from the host, or
keep anything; it returns tensors. Where recording does not work it is said once, and the work is launched as before.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CAPTURES", "Recorder", "Recording"]

_log = logging.getLogger(__name__)

#: Recordings that are kept: each holds the memory of its intermediate results.
_KEPT = 48

Work = Callable[..., tuple[Tensor, ...]]


class Recording(Protocol):
    """Recorded work with arguments and results of its own."""

    results: tuple[Tensor, ...]

    def replay(self) -> None:
        """Do it again with what the arguments hold now."""


class _CudaRecording:
    def __init__(self, work: Work, arguments: Sequence[Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(arguments[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(arguments[0].device))
        with torch.cuda.stream(stream):
            work(*arguments)
        torch.cuda.current_stream(arguments[0].device).wait_stream(stream)
        with torch.cuda.graph(self._graph):
            self.results = work(*arguments)

    def replay(self) -> None:
        self._graph.replay()


#: How work is recorded on a kind of device.
CAPTURES: dict[str, Callable[[Work, Sequence[Tensor]], Recording]] = {"cuda": _CudaRecording}


class Recorder:
    """The recordings of one localizer."""

    def __init__(self, device: torch.device) -> None:
        self._capture: Any = CAPTURES.get(device.type)
        self._seen: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, tuple[list[Tensor], Recording]] = OrderedDict()

    @property
    def records(self) -> bool:
        """Whether the device records at all."""
        return self._capture is not None

    def run(self, key: Hashable, work: Work, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``work(*arguments)``.

        :param key: what else the work depends on.
        """
        key = (key, *((tuple(x.shape), x.stride(), x.dtype) for x in arguments))
        if key not in self._kept and key in self._seen and self._capture is not None:
            self._record(key, work, arguments)
        if key not in self._kept:
            self._seen.add(key)
            return work(*arguments)
        own, recording = self._kept[key]
        self._kept.move_to_end(key)
        for mine, given in zip(own, arguments, strict=True):
            mine.copy_(given)
        recording.replay()
        # The next replay writes into the recording's own results.
        return tuple(result.clone() for result in recording.results)

    def _record(self, key: Hashable, work: Work, arguments: Sequence[Tensor]) -> None:
        own = [x.clone() for x in arguments]
        try:
            self._kept[key] = (own, self._capture(work, own))
        except RuntimeError as problem:
            _log.warning("work is launched, not recorded, on this device: %s", str(problem).splitlines()[0])
            self._capture = None
            return
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
