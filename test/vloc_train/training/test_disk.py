from __future__ import annotations

import errno
import logging
import os
import random

import numpy as np
import pytest
import torch

from vloc_ros.errors import TrainingError
from vloc_train.training.disk import last_checkpoint, new_array
from vloc_train.training.fitting import Checkpoints


def save(folder, value: float) -> None:
    Checkpoints().save_checkpoint({"w": torch.full((500,), value), "epoch": int(value)}, folder / "last.ckpt")


def epoch_of(file) -> int:
    return torch.load(file, weights_only=True)["epoch"]


def test_the_newest_checkpoint_and_the_one_before(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for value in (1.0, 2.0, 3.0):
        save(tmp_path, value)
    assert epoch_of(last_checkpoint(tmp_path)) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["before.ckpt", "last.ckpt"]
    # Killed between the two renames.
    (tmp_path / "last.ckpt").unlink()
    assert epoch_of(last_checkpoint(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "noise"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    for value in (1.0, 2.0):
        save(tmp_path, value)
    last = tmp_path / "last.ckpt"
    data = bytearray(last.read_bytes())
    if damage == "flipped":
        data[data.index(np.full(4, 2.0, np.float32).tobytes()) + 700] ^= 0x10
    changed = {"empty": b"", "cut": data[: len(data) // 2], "flipped": data, "noise": random.Random(0).randbytes(900)}
    last.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        assert epoch_of(last_checkpoint(tmp_path)) == 1
    assert "going on from the one before" in caplog.text
    (tmp_path / "before.ckpt").unlink()
    with pytest.raises(TrainingError, match=r"last\.ckpt: expected a whole checkpoint, found .*--no-resume") as caught:
        last_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_any_damage_is_noticed_or_harmless(tmp_path):
    save(tmp_path, 1.0)
    last = tmp_path / "last.ckpt"
    whole, expected = last.read_bytes(), torch.load(last, weights_only=True)
    for seed in range(150):
        chance = random.Random(seed)
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        last.write_bytes(data if chance.random() < 0.8 else data[: chance.randrange(len(data))])
        try:
            found = last_checkpoint(tmp_path)
        except TrainingError:
            continue
        assert torch.equal(torch.load(found, weights_only=True)["w"], expected["w"]), seed


@pytest.mark.parametrize(
    "problem",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed\nat a line")],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, problem):
    save(tmp_path, 1.0)

    def fail(checkpoint, stream):
        stream.write(b"half")
        raise problem

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(TrainingError, match=r"last\.ckpt: cannot be written: .*the checkpoint before stays") as caught:
        save(tmp_path, 2.0)
    assert "\n" not in str(caught.value)
    assert epoch_of(last_checkpoint(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_array_has_its_room_before_it_is_written(tmp_path, monkeypatch):
    array = new_array(tmp_path / "a.npy", np.uint8, (1000, 1000))
    array[:] = 7
    array.flush()
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= 1_000_000
    assert np.load(tmp_path / "a.npy").min() == 7

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match=r"b\.npy: cannot be written: No space .* \(1 MB are wanted\)"):
        new_array(tmp_path / "b.npy", np.uint8, (1000, 1000))
    assert not (tmp_path / "b.npy").exists()
