from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from vloc_ros.errors import ConfigError, GeometryError
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.tracking import SavedPose, load_pose, save_pose

POSE = SavedPose("id", "map", 123, se3_exp([1.0, 2.0, 3.0, 0.3, -0.2, 2.5]), np.diag([1.0, 2, 3, 4, 5, 6]), "town")


def test_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "state" / "pose.json"
    assert load_pose(file) is None
    save_pose(file, POSE)
    save_pose(file, POSE)
    found = load_pose(file)
    assert found is not None
    assert (found.map_id, found.frame_id, found.stamp_ns, found.scene) == ("id", "map", 123, "town")
    assert np.allclose(found.T_map_base, POSE.T_map_base, atol=1e-12)
    assert np.allclose(found.covariance, POSE.covariance)
    assert os.listdir(file.parent) == ["pose.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"position": [1, 2]},
        {"position": [1, 2, "x"]},
        {"orientation_xyzw": [0, 0, 0, 0]},
        {"covariance": [1.0] * 35},
        {"covariance": [-1.0] * 36},
        {"stamp_ns": 1.5},
    ],
)
def test_bad_content(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "pose.json"
    save_pose(file, POSE)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=r"pose\.json.*delete"):
        load_pose(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN", "[" * 50_000, "x" * 100_000])
def test_bad_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pose.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="delete"):
        load_pose(file)


def test_bad_pose_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(GeometryError):
        save_pose(tmp_path / "pose.json", SavedPose("id", "map", 1, np.full((4, 4), np.nan), np.eye(6)))
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be saved"):
        save_pose(tmp_path / "file" / "pose.json", POSE)
