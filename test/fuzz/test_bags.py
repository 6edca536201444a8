"""Damaged copies of one drive: every counted message is read or said, whatever was damaged.

``VLOC_FUZZ=500 python -m pytest test/fuzz/test_bags.py`` tries as many copies of each storage.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.errors import VlocError
from vloc_ros.types import CameraModel

COPIES = int(os.environ.get("VLOC_FUZZ", "25"))


class Noise:
    def image(self, index: int):
        return np.random.default_rng(index).integers(0, 255, (6, 8, 3), dtype=np.uint8)

    def frames(self):
        return ((k, self.image(k)) for k in range(24))


def drive() -> PosedSequence:
    T_map_base = np.tile(np.eye(4), (24, 1, 1))
    T_map_base[:, 0, 3] = np.arange(24)
    stamps = 1_700_000_000_000_000_000 + np.arange(24, dtype=np.int64) * 100_000_000
    camera = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5)
    return PosedSequence("d", stamps, T_map_base @ T_BODY_OPTICAL, T_BODY_OPTICAL, camera, Noise(), T_map_base)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flipped bits, zeros, noise, a cut, large numbers, inserted bytes."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        kind, at, length = (
            chance.random(),
            chance.randrange(max(1, len(out) - 9)),
            chance.choice([1, 1, 4, 8, 64, 3000]),
        )
        length = min(length, len(out) - at)
        if kind < 0.3:
            out[at] ^= 1 << chance.randrange(8)
        elif kind < 0.5:
            out[at : at + length] = bytes(length)
        elif kind < 0.7:
            out[at : at + length] = chance.randbytes(length)
        elif kind < 0.8:
            out = out[: max(at, 1)]
        elif kind < 0.9:
            out[at : at + 8] = b"\xff" * 8
        else:
            out[at:at] = chance.randbytes(length)
    return bytes(out)


def read(path: Path) -> tuple[Counter[str], str | None, set[str]]:
    with BagReader(path) as reader:
        found = Counter(message.topic for message in reader.messages())
        return found, reader.problem, set(reader.unreadable)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_counted_message_is_read_or_said(tmp_path, storage):
    whole = write_sequence(drive(), tmp_path / "whole", storage=storage)
    expected, problem, _ = read(whole)
    assert problem is None and expected["/camera/image"] == 24
    outcomes: Counter[str] = Counter()
    for seed in range(COPIES):
        chance = random.Random(seed)
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        files = sorted(copy.iterdir())
        file = chance.choice(files if chance.random() < 0.15 else [f for f in files if f.name != "metadata.yaml"])
        file.write_bytes(damaged(file.read_bytes(), chance))
        if chance.random() < 0.1:
            (copy / "metadata.yaml").unlink(missing_ok=True)
        try:
            found, problem, unreadable = read(copy)
            missing = {topic for topic in expected if found[topic] < expected[topic]}
            assert not missing - unreadable or problem, f"seed {seed}: {missing} are missing in silence"
            outcomes["in part" if missing else "whole"] += 1
        except VlocError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        try:
            with BagDrive(copy) as opened:
                list(opened.frames())
            open_bag_sequence(copy, allow_partial=True)
        except VlocError as error:
            assert "\n" not in str(error)
    print(dict(outcomes))
    assert len(outcomes) > 1  # the damage is one
