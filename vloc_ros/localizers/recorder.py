"""Work that a GPU records once and repeats with a single launch (CUDA graphs).

A function is recorded for each shape of its arguments when it is asked for the second time: by then what it makes only
once (constants, workspaces of libraries) is there. It must not look at a number of the device, copy from the host, or
keep anything; it returns tensors. Arguments may lie on the host: they are uploaded into the recording's own. Where
recording does not work it is said once, and the work is launched as before.
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
#: Results of up to so many numbers are copied together.
_SMALL = 1 << 16

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
        # Threads that read tiles may take memory of the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.results = work(*arguments)

    def replay(self) -> None:
        self._graph.replay()


#: How work is recorded on a kind of device.
CAPTURES: dict[str, Callable[[Work, Sequence[Tensor]], Recording]] = {"cuda": _CudaRecording}


class _Packed:
    """Work whose small results come as one tensor of each type: copying one out of a recording is a launch."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._places: list[tuple[int, slice | None, torch.Size]] = []

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        results = self._work(*arguments)
        small: dict[torch.dtype, list[int]] = {}
        for number, result in enumerate(results):
            if result.numel() <= _SMALL:
                small.setdefault(result.dtype, []).append(number)
        packs = [numbers for numbers in small.values() if len(numbers) > 1]
        alone = [n for n in range(len(results)) if not any(n in numbers for numbers in packs)]
        places: dict[int, tuple[int, slice | None, torch.Size]] = {
            n: (at, None, results[n].shape) for at, n in enumerate(alone)
        }
        for at, numbers in enumerate(packs, len(alone)):
            begin = 0
            for n in numbers:
                places[n] = (at, slice(begin, begin + results[n].numel()), results[n].shape)
                begin += results[n].numel()
        self._places = [places[n] for n in range(len(results))]
        return (
            *(results[n] for n in alone),
            *(torch.cat([results[n].reshape(-1) for n in numbers]) for numbers in packs),
        )

    def unpacked(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results, of what the last call returned."""
        return tuple(parts[at] if part is None else parts[at][part].view(shape) for at, part, shape in self._places)


class Recorder:
    """The recordings of one localizer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._capture: Any = CAPTURES.get(device.type)
        self._seen: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, tuple[list[Tensor], Recording, _Packed]] = OrderedDict()

    @property
    def records(self) -> bool:
        """Whether the device records at all."""
        return self._capture is not None

    def run(self, key: Hashable, work: Work, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``work(*arguments)``, on the device.

        :param key: what else the work depends on.
        """
        key = (key, *((tuple(x.shape), x.stride(), x.dtype) for x in arguments))
        if key not in self._kept and key in self._seen and self._capture is not None:
            self._record(key, work, arguments)
        if key not in self._kept:
            self._seen.add(key)
            return work(*(x.to(self._device, non_blocking=True) for x in arguments))
        own, recording, packed = self._kept[key]
        self._kept.move_to_end(key)
        for mine, given in zip(own, arguments, strict=True):
            mine.copy_(given, non_blocking=True)
        recording.replay()
        # The next replay writes into the recording's own results.
        return packed.unpacked([result.clone() for result in recording.results])

    def _record(self, key: Hashable, work: Work, arguments: Sequence[Tensor]) -> None:
        try:
            own = [x.to(self._device, copy=True) for x in arguments]
            packed = _Packed(work)
            self._kept[key] = (own, self._capture(packed, own), packed)
        except RuntimeError as problem:
            _log.warning("work is launched, not recorded, on this device: %s", str(problem).splitlines()[0])
            self._capture = None
            return
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
