"""A safetensors file written piece by piece, for tensors that are larger than what one wants in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Piecewise", "write_tensor_file"]

_NAMES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}

#: A tensor that comes in pieces along its first axis: type, whole shape, the pieces.
Piecewise = tuple[torch.dtype, tuple[int, ...], Iterable[Tensor]]


def write_tensor_file(file: Path, tensors: Mapping[str, Tensor | Piecewise]) -> None:
    """Write tensors as safetensors; the widest types first, as the format aligns them.

    :raises ValueError: pieces that do not make the shape that was promised.
    """
    whole: dict[str, Piecewise] = {
        name: (value.dtype, tuple(value.shape), [value]) if isinstance(value, Tensor) else value
        for name, value in tensors.items()
    }
    order = sorted(whole, key=lambda name: (-whole[name][0].itemsize, name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        dtype, shape, _ = whole[name]
        start, end = end, end + dtype.itemsize * int(torch.Size(shape).numel())
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            dtype, shape, pieces = whole[name]
            rows = 0
            for piece in pieces:
                if piece.dtype != dtype or tuple(piece.shape[1:]) != shape[1:]:
                    raise ValueError(f"{name}: expected {dtype} {shape}, found a piece {piece.dtype} {piece.shape}")
                stream.write(piece.contiguous().numpy().tobytes())
                rows += len(piece)
            if rows != shape[0]:
                raise ValueError(f"{name}: expected {shape[0]} rows, found {rows}")
