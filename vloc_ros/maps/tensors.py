"""Tensors on disk: safetensors bytes to checked tensors and back, and int8 storage of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from vloc_ros.errors import MapFormatError, MapTensorError

__all__ = [
    "INT8_SUFFIX",
    "SCALE_SUFFIX",
    "check_finite",
    "decode_tensors",
    "dequantise_int8",
    "dequantise_tensors",
    "encode_tensors",
    "expect",
    "quantise_int8",
    "quantise_tensors",
]

#: A weight ``w`` stored as int8 is the pair ``w::int8``, ``w::scale``. No module attribute can hold a colon.
INT8_SUFFIX = "::int8"
SCALE_SUFFIX = "::scale"


def expect(
    tensors: Mapping[str, torch.Tensor],
    name: str,
    shape: Sequence[int | None] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
    where: str = "map",
) -> torch.Tensor:
    """The tensor ``name``, if it is there with this shape and type.

    :param shape: expected sizes; None stands for any size of that axis (or, alone, for any shape).
    :param dtype: expected type or types; None for any.
    :raises MapTensorError: absent, or of another shape or type.
    """
    tensor = tensors.get(name)
    if tensor is None:
        some = ", ".join(sorted(tensors)[:8])
        raise MapTensorError(f"{where}: expected tensor {name!r}, found only {some or 'none'}")
    found = tuple(tensor.shape)
    if shape is not None and (
        len(found) != len(shape) or any(s is not None and s != f for s, f in zip(shape, found, strict=True))
    ):
        wanted = tuple("any" if s is None else s for s in shape)
        raise MapTensorError(f"{where}: tensor {name!r}: expected shape {wanted}, found {found}")
    allowed = None if dtype is None else (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
    if allowed is not None and tensor.dtype not in allowed:
        names = " or ".join(str(d) for d in allowed)
        raise MapTensorError(f"{where}: tensor {name!r}: expected {names}, found {tensor.dtype}")
    return tensor


def check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse NaN and infinity.

    :raises MapTensorError: the first tensor that is not finite, by name.
    """
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise MapTensorError(
                f"{where}: tensor {name!r}: expected finite values, found {bad} NaN or infinite of {tensor.numel()}; "
                "make the map again"
            )


def decode_tensors(content: bytes, where: str) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file's bytes, on the CPU, as stored.

    :raises MapFormatError: the bytes are not safetensors.
    """
    try:
        return dict(load_safetensors(content))
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as problem:
        raise MapFormatError(f"{where}: expected safetensors, found bytes that do not parse: {problem}") from problem


def encode_tensors(tensors: Mapping[str, torch.Tensor], where: str) -> bytes:
    """The bytes of a safetensors file; equal tensors give equal bytes.

    :raises MapTensorError: a tensor is not finite: no map with NaN is ever written.
    """
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    check_finite(plain, where)
    # Tensors that share memory are refused by safetensors: give each its own.
    seen: set[int] = set()
    for name, tensor in plain.items():
        if tensor.data_ptr() in seen:
            plain[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return bytes(save_safetensors(plain))


def quantise_int8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 with one scale per output channel (axis 0): ``tensor ~ int8 * scale``.

    :param tensor: floating point, at least one axis, finite.
    :returns: int8 of the same shape, and float32 scales (C, 1, ..., 1). The error is at most scale / 2.
    :raises MapTensorError: not a finite floating-point tensor with an axis.
    """
    if not tensor.is_floating_point() or tensor.ndim == 0:
        raise MapTensorError(
            f"expected a floating-point tensor with a channel axis, found {tensor.dtype} {tensor.shape}"
        )
    check_finite({"weight": tensor}, "quantise_int8")
    values = tensor.detach().to(torch.float32)
    flat = values.reshape(values.shape[0], -1)
    peak = flat.abs().amax(dim=1) if flat.shape[1] else torch.zeros(flat.shape[0])
    # A channel of zeros keeps scale 1; tiny peaks must not underflow to a zero scale.
    scale = torch.where(peak > 0, (peak / 127.0).clamp_min(torch.finfo(torch.float32).tiny), torch.ones_like(peak))
    scale = scale.reshape(-1, *([1] * (values.ndim - 1)))
    return torch.round(values / scale).clamp(-127, 127).to(torch.int8), scale


def dequantise_int8(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 weights from :func:`quantise_int8`'s pair."""
    return values.to(torch.float32) * scale.to(torch.float32)


def quantise_tensors(
    tensors: Mapping[str, torch.Tensor], choose: Callable[[str, torch.Tensor], bool] | None = None
) -> dict[str, torch.Tensor]:
    """The same tensors with the chosen ones as int8 pairs, for :func:`vloc_ros.maps.write_map`.

    :param choose: by name and tensor; default every floating-point tensor with two axes or more (biases and
        normalisation parameters are small and sensitive).
    """
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        chosen = choose(name, tensor) if choose else tensor.is_floating_point() and tensor.ndim >= 2
        if chosen:
            out[name + INT8_SUFFIX], out[name + SCALE_SUFFIX] = quantise_int8(tensor)
        else:
            out[name] = tensor
    return out


def dequantise_tensors(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Replace every int8 pair by its float32 weight; other tensors pass unchanged.

    :raises MapTensorError: half a pair, or a pair of the wrong types or shapes.
    """
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE_SUFFIX):
            partner = name[: -len(SCALE_SUFFIX)] + INT8_SUFFIX
            expect(tensors, partner, dtype=torch.int8, where=where)
            continue
        if not name.endswith(INT8_SUFFIX):
            out[name] = tensor
            continue
        base = name[: -len(INT8_SUFFIX)]
        if base in tensors or tensor.ndim == 0:
            raise MapTensorError(f"{where}: tensor {name!r}: expected one int8 weight with channels named {base!r}")
        expect(tensors, name, dtype=torch.int8, where=where)
        shape = (tensor.shape[0], *([1] * (tensor.ndim - 1)))
        scale = expect(tensors, base + SCALE_SUFFIX, shape, torch.float32, where)
        out[base] = dequantise_int8(tensor, scale)
    return out
