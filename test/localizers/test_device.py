"""What is said of devices that are full, absent or passed over, and who takes over."""

from __future__ import annotations

import logging

import pytest
import torch

from vloc_ros.errors import ConfigError, DeviceError
from vloc_ros.localizers import device as module
from vloc_ros.localizers.device import compute_dtype, device_errors, select_device


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_TRACES", (str(tmp_path / "nvidia0"),))
    with caplog.at_level(logging.INFO):
        assert select_device("auto").type == "cpu"
        assert [r.levelname for r in caplog.records] == ["INFO"]
        (tmp_path / "nvidia0").touch()
        assert select_device("auto").type == "cpu"
    assert caplog.records[-1].levelname == "WARNING" and "this machine has a GPU" in caplog.text


def test_cuda_asked_for_and_absent_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="expected cuda:1 to work, found: no CUDA device is available") as raised:
        select_device("cuda:1")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore"), "found too little"),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with"), "expected the device to answer"),
    ],
)
def test_a_device_that_fails_is_one_line(problem, told):
    with pytest.raises(DeviceError, match=told) as raised, device_errors(torch.device("cuda", 0)):
        raise problem
    assert "\n" not in str(raised.value) and "set device to cpu" in str(raised.value)


def test_other_errors_are_not_the_devices():
    with pytest.raises(RuntimeError, match="size mismatch"), device_errors(torch.device("cpu")):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), torch.float32), ((7, 5), torch.float16), ((8, 7), torch.bfloat16)]
)
def test_the_precision_of_a_gpu_is_what_it_multiplies_fastest(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute_dtype("auto", torch.device("cuda", 0)) is expected
    assert compute_dtype("float32", torch.device("cuda", 0)) is torch.float32
