"""The nearest images of a large map: those of a small one, found sooner."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.localizers.features import store as module
from vloc_ros.localizers.features.store import PointStore


def images(count: int, seed: int) -> PointStore:
    rng = np.random.default_rng(seed)
    made = PointStore.__new__(PointStore)
    made.T_map_cam, made.depth_m = np.tile(np.eye(4), (count, 1, 1)), 8.0
    made.T_map_cam[:, :3, 3] = rng.uniform(-200, 200, (count, 3)) * (1.0, 1.0, 0.01)
    made.T_map_cam[:, :3, :3] = [so3_exp(a) for a in rng.uniform(-1.5, 1.5, (count, 3))]
    return made


@pytest.mark.parametrize("count", [1, 5, 60])
def test_the_nearest_of_many_images_are_those_of_going_through_all(count, monkeypatch):
    store, rng = images(800, count), np.random.default_rng(1)
    for _ in range(15):
        T = np.eye(4)
        T[:3, 3] = rng.uniform(-300, 300, 3) * (1.0, 1.0, 0.02)  # some of them outside of the map
        T[:3, :3] = so3_exp(rng.uniform(-2, 2, 3))
        monkeypatch.setattr(module, "_MANY", 10_000)
        wanted = store.near(T, count)
        monkeypatch.setattr(module, "_MANY", 10)
        np.testing.assert_array_equal(store.near(T, count), wanted)


def test_fewer_than_were_asked_for(monkeypatch):
    store, T = images(30, 0), np.eye(4)
    wanted = store.near(T, 100)
    monkeypatch.setattr(module, "_MANY", 10)
    np.testing.assert_array_equal(store.near(T, 100), wanted)
    assert 0 < len(wanted) < 30
