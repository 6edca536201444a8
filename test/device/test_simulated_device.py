"""The simulated device itself: what it refuses, and its rules of counting."""

from __future__ import annotations

import pytest
import torch

from bench.simulated_device import MixedDevicesError, simulated_device
from vloc_ros.localizers.recorder import Recorder


@pytest.fixture
def device():
    with torch.inference_mode(), simulated_device() as found:
        yield found


def test_mixing_devices_raises(device):
    where, _ = device
    there = torch.ones(3, device=where)
    for mixed in (
        lambda: there + torch.ones(3),
        lambda: torch.ones(2, 3) @ there,
        lambda: torch.cat([there, torch.ones(1)]),
    ):
        with pytest.raises(MixedDevicesError, match="on the host"):
            mixed()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2.0] * 3, "a number may stay on the host"


def test_an_operation_is_a_launch_and_a_view_is_none(device):
    where, counted = device
    x = torch.randn(4, 6).to(where)
    counted()
    x.view(24).unflatten(0, (2, 12)).T[None].permute(1, 0, 2)
    x.reshape(8, 3)
    torch.empty(5, device=where)
    assert counted().launches == 0
    (x @ x.T + 1.0).sum()
    assert counted().launches == 3
    x.T.reshape(-1)
    assert counted().launches == 1, "a reshape that copies"


def test_a_number_on_the_host_is_a_wait(device):
    where, counted = device
    x = torch.arange(6.0).to(where)
    counted()
    for wait in (
        x.cpu,
        x[0].item,
        lambda: bool((x > 1).any()),
        x.tolist,
        lambda: x[x > 2],
        x.nonzero,
        lambda: x.to("cpu"),
    ):
        wait()
        assert counted().waits == 1
    x[torch.tensor([1, 2]).to(where)]
    assert counted().waits == 0


def test_uploads_count_with_their_bytes_and_place(device):
    where, counted = device
    torch.ones(10, dtype=torch.uint8).to(where)
    torch.zeros(1000, device=where)
    found = counted()
    assert (found.uploads, found.uploaded_bytes, found.launches) == (1, 10, 1)
    assert "test_simulated_device.py" in found.places("upload")


def test_recorded_work_is_one_launch(device):
    where, counted = device
    recorder, x = Recorder(where), torch.arange(3.0).to(where)

    def work(x):
        return (x * 2 + 1, x.sum())

    for i in range(4):
        counted()
        twice, total = recorder.run("work", work, [x + i])
        assert twice.cpu().tolist() == [1.0 + 2 * (j + i) for j in range(3)] and float(total) == 3 + 3 * i
    found = counted()
    assert found.recorded == 3 and found.launches == 5, "the sum, a copy in, the replay and two copies out"


def test_work_that_waits_is_not_recorded_and_said_once(device, caplog):
    where, _ = device
    recorder, x = Recorder(where), torch.arange(3.0).to(where)
    for _ in range(4):
        (found,) = recorder.run("waits", lambda x: (x * float(x.sum()),), [x])
        assert found.cpu().tolist() == [0.0, 3.0, 6.0]
    assert len(caplog.records) == 1 and "launched, not recorded" in caplog.text
