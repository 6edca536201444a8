"""What comes back from a device: whole, and by one transfer."""

from __future__ import annotations

import pytest
import torch

from bench.simulated_device import simulated_device
from vloc_ros.transfer import read_back, true_entries


def test_tensors_come_back_as_they_were():
    wanted = (
        torch.rand(2, 3),
        torch.tensor([True, False]),
        torch.tensor(2**60 + 1),
        torch.zeros(0, 2).double(),
        torch.arange(8).view(4, 2)[:, 0],
    )
    assert read_back(*wanted) == wanted
    with simulated_device() as (device, counted):
        there = [x.to(device) for x in wanted]
        counted()
        found = read_back(*there)
        assert counted().waits == 1
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_true_entries_are_those_of_nonzero_as_far_as_there_is_room(share, most):
    mask = torch.rand(9, 13, generator=torch.Generator().manual_seed(most)) < share
    wanted = torch.nonzero(mask.flatten())[:, 0]
    with simulated_device() as (device, counted):
        there = mask.to(device)
        counted()
        found = true_entries(there, most)
        assert counted().waits == 0
        places, count = read_back(*found)
    assert int(count) == len(wanted) and len(places) == most
    assert places[: int(count)].tolist() == wanted[:most].tolist()


def test_nothing_has_no_entries():
    assert int(true_entries(torch.zeros(0, 4, dtype=torch.bool), 3)[1]) == 0
