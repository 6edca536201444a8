"""Files written piece by piece are what safetensors reads, and what it writes itself."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vloc_ros.localizers.copr.tensor_file import write_tensor_file


def test_pieces_come_back_as_one_tensor(tmp_path):
    torch.manual_seed(0)
    whole = {
        "a.descriptors": torch.randn(101, 7).half(),
        "a.poses": torch.randn(101, 7),
        "a.origin": torch.randint(0, 3, (101,), dtype=torch.uint8),
        "a.anchor": torch.randint(0, 99, (101,), dtype=torch.int32),
        "a.stamps": torch.randint(0, 1 << 60, (101,), dtype=torch.int64),
        "b.nothing": torch.zeros(0, 4),
    }
    pieces = (whole["a.descriptors"][i : i + 13] for i in range(0, 101, 13))
    write_tensor_file(tmp_path / "f", {**whole, "a.descriptors": (torch.float16, (101, 7), pieces)})
    found = load_file(tmp_path / "f")
    assert set(found) == set(whole)
    for name, value in whole.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with safe_open(tmp_path / "f", "pt") as stream:
        assert stream.get_slice("a.descriptors").get_shape() == [101, 7]


@pytest.mark.parametrize(
    "pieces",
    [[torch.zeros(2, 3)], [torch.zeros(2, 3), torch.zeros(2, 3)], [torch.zeros(3, 4)], [torch.zeros(3, 3).half()]],
)
def test_pieces_that_do_not_make_what_was_promised(tmp_path, pieces):
    with pytest.raises(ValueError, match="expected"):
        write_tensor_file(tmp_path / "f", {"x": (torch.float32, (3, 3), pieces)})
