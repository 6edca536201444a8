"""Damaged copies of one drive: every counted message is read or said, whatever was damaged.

``VLOC_FUZZ=500 python -m pytest test/fuzz/test_bags.py -s`` tries as many copies of each storage.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fuzzing import Edit, assault, damaged
from ros1_bags import write_ros1

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.errors import VlocError
from vloc_ros.types import CameraModel


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


def read(path: Path) -> tuple[Counter[str], str | None, set[str]]:
    with BagReader(path) as reader:
        found = Counter(message.topic for message in reader.messages())
        return found, reader.problem, set(reader.unreadable)


def bag_in(folder: Path) -> Path:
    """What to open: a ROS 1 bag is one file."""
    return next(folder.glob("*.bag"), folder)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_every_counted_message_is_read_or_said(tmp_path, storage):
    whole = tmp_path / "whole"
    if storage == "ros1":
        whole.mkdir()
        write_ros1(drive(), whole / "drive.bag")
    else:
        write_sequence(drive(), whole, storage=storage)
    expected, problem, _ = read(bag_in(whole))
    assert problem is None and 24 in expected.values()
    names, copy = sorted(file.name for file in whole.iterdir()), tmp_path / "copy"

    def edits(chance: random.Random) -> list[Edit]:
        some = names if chance.random() < 0.15 else [name for name in names if name != "metadata.yaml"]
        made: list[Edit] = [["damage", chance.choice(some), chance.randrange(2**31)]]
        return [*made, ["drop", "metadata.yaml"]] if chance.random() < 0.1 else made

    def attempt(made: list[Edit]) -> str:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        for kind, name, *seed in made:
            if kind == "drop":
                (copy / name).unlink(missing_ok=True)
            else:
                (copy / name).write_bytes(damaged((copy / name).read_bytes(), random.Random(seed[0])))
        try:
            with BagDrive(bag_in(copy)) as opened:
                list(opened.frames())
            open_bag_sequence(bag_in(copy), allow_partial=True)
        except VlocError as error:
            assert "\n" not in str(error)
        found, problem, unreadable = read(bag_in(copy))
        missing = {topic for topic in expected if found[topic] < expected[topic]}
        assert not missing - unreadable or problem, f"{missing} are missing in silence"
        return "in part" if missing else "whole"

    outcomes = assault(f"bags-{storage}", edits, attempt, quick=25)
    assert len(outcomes) > 1  # the damage is one
