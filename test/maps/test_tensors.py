from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vloc_ros.errors import MapTensorError
from vloc_ros.maps import MapManifest, expect, write_map
from vloc_ros.maps.tensors import dequantise_int8, dequantise_tensors, quantise_int8, quantise_tensors


def test_expect() -> None:
    group = {"w": torch.zeros(4, 3)}
    assert expect(group, "w", (4, 3), torch.float32) is group["w"]
    assert expect(group, "w", (None, 3), (torch.float16, torch.float32)) is group["w"]
    with pytest.raises(MapTensorError, match=r"'v'.*only w"):
        expect(group, "v")
    with pytest.raises(MapTensorError, match=r"\(4, 2\).*\(4, 3\)"):
        expect(group, "w", (4, 2))
    with pytest.raises(MapTensorError, match="shape"):
        expect(group, "w", (4, 3, 1))
    with pytest.raises(MapTensorError, match="float16"):
        expect(group, "w", (4, 3), torch.float16)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([1e-40, 1e-6, 1.0, 1e6]),
)
def test_int8_error_is_at_most_half_a_scale(seed: int, shape: list[int], size: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    values, scale = quantise_int8(weight)
    assert values.dtype == torch.int8 and scale.shape == (shape[0], *([1] * (len(shape) - 1)))
    error = (dequantise_int8(values, scale) - weight).abs()
    assert bool((error <= 0.501 * scale).all())


def test_int8_zero_channel_and_extremes() -> None:
    weight = torch.tensor([[0.0, 0.0], [-3.0, 3.0]])
    assert torch.allclose(dequantise_int8(*quantise_int8(weight)), weight)


@pytest.mark.parametrize("bad", [torch.ones(3, dtype=torch.int64), torch.tensor(1.0), torch.tensor([float("nan")])])
def test_int8_refuses(bad: torch.Tensor) -> None:
    with pytest.raises(MapTensorError):
        quantise_int8(bad)


def test_int8_is_transparent_and_small(tmp_path: Path, manifest: MapManifest) -> None:
    state = {"conv.weight": torch.randn(64, 32, 3, 3), "conv.bias": torch.randn(64), "n": torch.tensor(3)}
    plain = write_map(tmp_path / "f32", manifest, {"weights.safetensors": state})
    small = write_map(tmp_path / "int8", manifest, {"weights.safetensors": quantise_tensors(state)})
    found = small.tensors("weights.safetensors")
    assert found.keys() == state.keys()
    assert found["conv.weight"].dtype == torch.float32
    assert torch.equal(found["conv.bias"], state["conv.bias"])
    assert float((found["conv.weight"] - state["conv.weight"]).abs().max()) < 0.02
    assert small.size_bytes < 0.3 * plain.size_bytes
    assert "conv.weight::int8" in small.stored_tensors("weights.safetensors")


@pytest.mark.parametrize(
    "group",
    [
        {"w::int8": torch.zeros(2, 3, dtype=torch.int8)},
        {"w::scale": torch.ones(2, 1)},
        {"w::int8": torch.zeros(2, 3, dtype=torch.int8), "w::scale": torch.ones(3, 1)},
        {"w::int8": torch.zeros(2, 3), "w::scale": torch.ones(2, 1)},
        {"w::int8": torch.zeros(2, 3, dtype=torch.int8), "w::scale": torch.ones(2, 1).half()},
        {"w": torch.ones(2, 3), "w::int8": torch.zeros(2, 3, dtype=torch.int8), "w::scale": torch.ones(2, 1)},
        {"w::int8": torch.zeros((), dtype=torch.int8), "w::scale": torch.ones(())},
    ],
)
def test_broken_pairs(group: dict[str, torch.Tensor]) -> None:
    with pytest.raises(MapTensorError):
        dequantise_tensors(group, "map")
