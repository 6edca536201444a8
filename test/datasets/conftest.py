"""Tiny drives as bags, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ros1_bags import write_ros1

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.types import CameraModel

START = 1_700_000_000_000_000_000


class Images:
    def __init__(self, count: int) -> None:
        self.count = count

    def image(self, index: int):
        return np.random.default_rng(index).integers(0, 255, (6, 8, 3), dtype=np.uint8)

    def frames(self):
        return ((i, self.image(i)) for i in range(self.count))


def make_sequence(count: int = 12) -> PosedSequence:
    """A straight drive along x at 1 m a frame, 10 Hz; odometry starts at its own origin."""
    T_base_cam = T_BODY_OPTICAL.copy()
    T_base_cam[:3, 3] = 1.0, 0.2, 1.5
    T_map_base = np.tile(np.eye(4), (count, 1, 1))
    T_map_base[:, 0, 3] = 5.0 + np.arange(count)
    T_odom_base = np.tile(np.eye(4), (count, 1, 1))
    T_odom_base[:, 0, 3] = np.arange(count)
    stamps = START + np.arange(count, dtype=np.int64) * 100_000_000
    camera = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5, "plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.0))
    return PosedSequence("tiny", stamps, T_map_base @ T_base_cam, T_base_cam, camera, Images(count), T_odom_base)


@pytest.fixture
def sequence() -> PosedSequence:
    return make_sequence()


@pytest.fixture
def make():
    return make_sequence


@pytest.fixture
def write(tmp_path: Path):
    def write_bag(sequence: PosedSequence, name: str = "bag", **options) -> Path:
        return write_sequence(sequence, tmp_path / name, **options)

    return write_bag


@pytest.fixture
def ros1_bag(tmp_path: Path, sequence: PosedSequence) -> Path:
    """The tiny drive as a ROS 1 bag."""
    return write_ros1(sequence, tmp_path / "drive.bag")
