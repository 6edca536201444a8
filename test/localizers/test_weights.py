"""Weights of maps: settings that no network can have are one line, before memory is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vloc_ros.errors import MapTensorError
from vloc_ros.localizers.weights import load_module


@pytest.mark.parametrize("width", [2**64, 10**30])
def test_sizes_that_no_tensor_has(width):
    with pytest.raises(MapTensorError, match="map/weights: expected settings that make a network") as error:
        load_module(lambda: nn.Linear(3, width), {"weight": torch.zeros(2, 3)}, "map/weights")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_sizes_that_the_file_does_not_have_take_no_memory():
    with pytest.raises(MapTensorError, match="weight"):
        load_module(lambda: nn.Linear(10**7, 10**7), {"weight": torch.zeros(2, 3)}, "map/weights")
