"""The simulated device itself: what it refuses, and its rules of counting."""

from __future__ import annotations

import pytest
import torch

from bench.simulated_device import MixedDevicesError, simulated_device
from vloc_ros.localizers.recorder import CAPTURES, Recorder


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
    assert found.recorded == 4 and found.launches == 4, (
        "the sum, a copy in, the replay and one copy out for both results"
    )


def test_results_of_every_type_and_size_come_out_of_a_recording_as_they_are(device):
    where, _ = device
    recorder = Recorder(where)
    large = torch.arange(140_000.0).view(1, 2, 7, 10_000).to(where, memory_format=torch.channels_last)

    def work(x, y):
        return (x + 1, y > 2, x[0, 0, :2, :2] * 2, y.sum(), y.view(3, 1), (y == 4).all())

    for _ in range(3):
        plain = work(large, y := torch.tensor([1, 2, 3]).to(where))
        found = recorder.run("all", work, [large, y])
        for mine, other in zip(found, plain, strict=True):
            assert mine.dtype == other.dtype and mine.shape == other.shape and mine.cpu().equal(other.cpu())
        assert found[0].stride() == large.stride()


def test_arguments_of_the_host_are_uploaded_into_the_recording(device):
    where, counted = device
    recorder = Recorder(where)
    for i in range(4):
        counted()
        (found,) = recorder.run("sum", lambda x: (x.float().sum(),), [torch.tensor([1, 2, i], dtype=torch.uint8)])
        assert float(found) == 3 + i
    counts = counted()
    assert (counts.uploads, counts.uploaded_bytes, counts.launches) == (1, 3, 2), "the replay and a copy out"


def test_a_device_without_memory_for_a_recording_launches(device, monkeypatch, caplog):
    where, _ = device

    def full(work, arguments):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(CAPTURES, where.type, full)
    recorder = Recorder(where)
    for _ in range(3):
        (found,) = recorder.run("sum", lambda x: (x.sum(),), [torch.ones(4)])
        assert float(found) == 4.0
    assert len(caplog.records) == 1 and not recorder.records


def test_work_that_waits_is_not_recorded_and_said_once(device, caplog):
    where, _ = device
    recorder, x = Recorder(where), torch.arange(3.0).to(where)
    for _ in range(4):
        (found,) = recorder.run("waits", lambda x: (x * float(x.sum()),), [x])
        assert found.cpu().tolist() == [0.0, 3.0, 6.0]
    assert len(caplog.records) == 1 and "launched, not recorded" in caplog.text
