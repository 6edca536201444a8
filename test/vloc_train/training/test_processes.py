"""Every trainer's module in two processes that share each batch: all take the same steps, to the same weights."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing
from tiny_processes import RUNS, run_all


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One pair of processes for all trainers: most of the time goes into starting them."""
    out = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(run_all, (2, port, out), nprocs=2)
    return out


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_one_network(runs, name):
    one, two = (torch.load(runs / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert "error" not in one and "error" not in two, one.get("error") or two.get("error")
    assert (one["first"], two["first"]) == (True, False)
    assert one["steps"] == two["steps"] >= 2
    assert torch.equal(one["before"], two["before"]) and torch.isfinite(one["after"]).all()
    assert torch.equal(one["after"], two["after"]) and not torch.equal(one["after"], one["before"])
    assert torch.equal(one["average"], two["average"])
