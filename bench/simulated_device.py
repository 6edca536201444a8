"""A device that is elsewhere: tensors that refuse to mix with the host's, and a count of what a GPU would be asked for.

Nothing of it computes faster or slower: numbers are made by the CPU. What it tells is what the arithmetic does not, how
often a kernel is launched, how often the host waits for the device, and what is uploaded, with file and line.

What counts (rules of :class:`Counts`):

* **launch**: every operation that reads or writes numbers on the device, once, after composite operations have been
  taken apart as they are on a GPU. A library call counts once (a convolution, a matrix product, ``topk``, ``sort``, a
  Cholesky factorisation), whatever kernels it is made of. Views, reshapes without a copy, empty memory and metadata are
  free. So is a copy that changes nothing.
* **wait**: the host needs a number before it can go on: ``item()``, ``bool()``, ``tolist()``, ``cpu()``, indexing by a
  mask, ``nonzero``, ``unique``, ``masked_select``, ``repeat_interleave`` without its size, ``equal``, solvers that look
  at their own error code. Two tensors copied one after the other are two waits.
* **upload**: a tensor that goes from the host to the device, with its bytes; a tensor made on the device is none, and a
  Python number is an argument of its kernel.
* **recorded work** (:mod:`vloc_ros.localizers.recorder`, CUDA graphs on a GPU) is one launch a replay, whatever it is
  made of, and its parts are counted as ``recorded``. Work that waits or uploads cannot be recorded, and raises.
* **mixing** raises :class:`MixedDevicesError`. As on a GPU a tensor without dimensions may stay on the host.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

from vloc_ros.localizers.recorder import CAPTURES

__all__ = ["Counts", "MixedDevicesError", "SimulatedTensor", "simulated_device"]

_ROOT = str(Path(__file__).resolve().parents[1])
_OWN = str(Path(__file__).resolve())
_NAME = "simulated"
_aten = torch.ops.aten
#: Memory without numbers, and what only looks at shapes; views are known by their schema.
_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "detach", "detach_",
    "alias", "lift_fresh", "is_pinned", "_has_compatible_shallow_copy_type", "sym_size", "sym_stride", "sym_numel",
    "record_stream", "is_same_size", "squeeze_", "unsqueeze_", "transpose_", "t_", "_reshape_alias", "_unsafe_view",
    "expand", "_nested_tensor_size",
}  # fmt: skip
#: What cannot return before the device has answered.
_WAITS = {
    "_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "masked_select", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "equal", "is_nonzero", "_linalg_check_errors", "_assert_async", "allclose", "bincount",
    "histc",
}  # fmt: skip
#: On a GPU their wrappers look at the error code.
_SOLVERS = {"linalg_cholesky", "cholesky", "linalg_inv", "linalg_solve", "linalg_eig"}


class MixedDevicesError(RuntimeError):
    """An operation met tensors of the host and of the device."""


@dataclass
class Counts:
    """What the device was asked for."""

    launches: int = 0
    recorded: int = 0
    waits: int = 0
    uploads: int = 0
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    moved_bytes: int = 0
    operations: int = 0
    by_place: dict[str, Counter[str]] = field(
        default_factory=lambda: {"launch": Counter(), "wait": Counter(), "upload": Counter()}
    )
    by_operation: Counter[str] = field(default_factory=Counter)

    def places(self, kind: str, count: int = 10) -> str:
        """The busiest places: ``kind`` is launch, wait or upload."""
        return "\n".join(f"{n:6d}  {where}" for where, n in self.by_place[kind].most_common(count))

    def figures(self) -> dict[str, int]:
        """For a benchmark's JSON."""
        return {
            "launches": self.launches, "recorded": self.recorded, "host_waits": self.waits, "uploads": self.uploads,
            "uploaded_bytes": self.uploaded_bytes, "downloaded_bytes": self.downloaded_bytes,
            "moved_bytes": self.moved_bytes, "operations": self.operations,
        }  # fmt: skip


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated device. Its numbers are a CPU tensor that nothing else sees."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> SimulatedTensor:
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype, device=torch.device(_NAME, 0), requires_grad=numbers.requires_grad,
            )  # fmt: skip
        made.numbers = numbers.detach()
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if _active is None:
            raise RuntimeError(f"simulated device: expected to be asked within simulated_device(), found {func}")
        return _active.perform(func, args, kwargs or {})


class _Module:
    """What torch wants to find under the device's name."""

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass


class _SimulatedRecording:
    """What a CUDA graph would be."""

    def __init__(self, work: Callable[..., tuple[torch.Tensor, ...]], arguments: Any) -> None:
        self._work, self._arguments = work, arguments
        self.results, found = self._run()
        if found.waits or found.uploads:
            raise RuntimeError(
                f"recording: expected work without waits and uploads, found\n{found.places('wait')}\n"
                f"{found.places('upload')}"
            )

    def _run(self) -> tuple[tuple[torch.Tensor, ...], Counts]:
        assert _active is not None
        before, _active.counts = _active.counts, Counts()
        results = self._work(*self._arguments)
        found, _active.counts = _active.counts, before
        return results, found

    def replay(self) -> None:
        assert _active is not None
        again, found = self._run()
        for mine, new in zip(self.results, again, strict=True):
            mine.numbers.copy_(new.numbers)  # type: ignore[attr-defined]
        _active.counts.launches += 1
        _active.counts.recorded += found.launches
        _active.counts.operations += found.operations
        _active.counts.moved_bytes += found.moved_bytes


def _register() -> None:
    from torch.utils.backend_registration import _privateuse1_backend_name, _setup_privateuseone_for_python_backend

    if _privateuse1_backend_name != _NAME:
        _setup_privateuseone_for_python_backend(_NAME, backend_module=_Module())


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.perform(func, args, kwargs or {})

    def perform(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket.__name__
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if isinstance(x, SimulatedTensor)]
        named = next((x for x in leaves if isinstance(x, torch.device)), None)
        to_device = named is not None and named.type == _NAME
        if not there and not to_device:
            return func(*args, **kwargs)
        if not _leaf(func):
            with self:
                taken_apart = func.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        if name == "_to_copy" or name == "copy_":
            return self._copy(func, name, args, kwargs)
        if to_device and not there:  # made on the device
            with _numbers():
                made = func(*args, **{**kwargs, "device": torch.device("cpu"), "pin_memory": False})
            self._note(func, name, [], [made], args)
            return pytree.tree_map_only(torch.Tensor, SimulatedTensor, made)
        if named is not None and not to_device and there:
            kwargs = {**kwargs}  # like= on the device, made on the host: nothing moves
            with _numbers():
                return func(*_bare(args), **_bare(kwargs))
        return self._on_device(func, name, args, kwargs, tensors, there)

    def _on_device(
        self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], there: list[SimulatedTensor]
    ) -> Any:
        for tensor in tensors:
            if isinstance(tensor, SimulatedTensor) or tensor.ndim == 0:
                continue
            if name in ("index", "index_put_", "index_put", "_index_put_impl_"):
                self._upload(tensor)  # as on a GPU, indices may come from the host; that is an upload a use
                continue
            raise MixedDevicesError(
                f"{func}: expected all tensors on the device, found {tuple(tensor.shape)} {tensor.dtype} on the host "
                f"({_place()})"
            )
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        before = {id(x.numbers): x for x in there}
        with _numbers():
            out = func(*_bare(args), **_bare(kwargs))
        masked = name in ("index", "index_put_", "index_put", "_index_put_impl_") and any(
            isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in (args[1] or ())
        )
        sized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in _WAITS or name in _SOLVERS or masked or sized:
            self._wait(8)
        self._note(func, name, there, out, args)

        def wrapped(x: torch.Tensor) -> torch.Tensor:
            return before[id(x)] if id(x) in before else SimulatedTensor(x)

        return pytree.tree_map_only(torch.Tensor, wrapped, out)

    def _copy(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        target = args[0] if name == "copy_" else None
        source = args[1] if name == "copy_" else args[0]
        goes_there = isinstance(target, SimulatedTensor)
        if target is None:
            named = kwargs.get("device")
            goes_there = isinstance(source, SimulatedTensor) if named is None else named.type == _NAME
        comes_from_there = isinstance(source, SimulatedTensor)
        bare = {k: v for k, v in kwargs.items() if k != "device"}
        with _numbers():
            out = func(*_bare(args), **bare)
        if goes_there and not comes_from_there:
            if source.ndim or name == "_to_copy":
                self._upload(source)
        elif comes_from_there and not goes_there:
            self._wait(source.numbers.nbytes)
        else:
            self._note(func, name, [source], out, args)
        if target is not None:
            return target
        return SimulatedTensor(out) if goes_there else out

    def _upload(self, tensor: torch.Tensor) -> None:
        self.counts.uploads += 1
        self.counts.uploaded_bytes += tensor.nbytes
        self.counts.by_place["upload"][_place()] += 1

    def _wait(self, size: int) -> None:
        self.counts.waits += 1
        self.counts.downloaded_bytes += size
        self.counts.by_place["wait"][_place()] += 1

    def _note(self, func: Any, name: str, inputs: list[Any], out: Any, args: Any) -> None:
        if name in _FREE or func.is_view:
            return
        if name == "_local_scalar_dense":
            return  # a copy, and counted as a wait
        outputs = [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        if func.overloadpacket in flop_registry:
            try:
                self.counts.operations += int(
                    flop_registry[func.overloadpacket](*_shapes(args), out_val=outputs[0].shape)
                )
            except (TypeError, AttributeError):
                pass
        self.counts.launches += 1
        self.counts.moved_bytes += sum(x.nbytes for x in inputs) + sum(x.nbytes for x in outputs)
        self.counts.by_operation[name] += 1
        self.counts.by_place["launch"][f"{_place()} {name}"] += 1


_active: _Mode | None = None
_Generator = torch.Generator


class _Kind(type(_Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Generator)


class _DeviceGenerator(_Generator, metaclass=_Kind):
    """A generator of the device is one of the host; what it draws is drawn on the device all the same."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:  # type: ignore[misc]
        return _Generator("cpu" if torch.device(device).type == _NAME else device)


def _leaf(func: Any) -> bool:
    """Whether an operation reaches the device as it is, and is not taken apart before."""
    return not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _bare(tree: Any) -> Any:
    return pytree.tree_map_only(SimulatedTensor, lambda x: x.numbers, tree)


def _shapes(tree: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda x: x.shape, tree)


def _place() -> str:
    """File and line of the nearest caller in this checkout."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_ROOT) and file != _OWN and "/.venv/" not in file:
            return f"{file[len(_ROOT) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


@contextmanager
def _numbers() -> Iterator[None]:
    """Where the CPU computes what the device would."""
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def simulated_device(records: bool = True) -> Iterator[tuple[torch.device, Callable[[], Counts]]]:
    """The device, and a function that returns what was counted since it was last called.

    While it is open, tensors can be made on ``torch.device("simulated")``; only one is open at a time.

    :param records: whether it records work as a GPU with CUDA graphs does.
    """
    global _active
    _register()
    if records:
        CAPTURES[_NAME] = _SimulatedRecording
    mode = _Mode()

    def counted() -> Counts:
        found, mode.counts = mode.counts, Counts()
        return found

    before, _active = _active, mode
    # torch.tensor(..., device=...) makes the numbers on the host, and asks for the device where the mode sees it.
    lifting = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    generator = torch.Generator
    torch.Generator = _DeviceGenerator  # type: ignore[misc, assignment]
    try:
        with mode:
            yield torch.device(_NAME, 0), counted
    finally:
        torch.Generator = generator  # type: ignore[misc]
        CAPTURES.pop(_NAME, None)
        torch._C._set_only_lift_cpu_tensors(lifting)
        _active = before
