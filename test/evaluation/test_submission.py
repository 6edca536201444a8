"""Submissions are read back as they were written, in the world that the benchmark wants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import DatasetError
from vloc_ros.evaluation.submission import query_name, read_submission, write_submission
from vloc_ros.geometry.rotations import so3_exp

number = st.floats(-1e3, 1e3, allow_nan=False)
vector = st.tuples(number, number, number)


def transform(turn, move):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3_exp(np.array(turn) / 400.0), move
    return T


@given(turns=st.lists(vector, min_size=1, max_size=4), move=vector, world=st.none() | vector)
def test_poses_come_back(tmp_path_factory, turns, move, world):
    path = tmp_path_factory.mktemp("s") / "sub.txt"
    poses = [(f"rear/{k}.jpg", transform(turn, move)) for k, turn in enumerate(turns)]
    T_world_map = None if world is None else transform(world, world[::-1])
    assert write_submission(path, poses, T_world_map) == len(poses)
    names, T = read_submission(path, T_world_map)
    assert names == [name for name, _ in poses]
    np.testing.assert_allclose(T, [pose for _, pose in poses], atol=1e-9, rtol=0)


def test_a_line_is_world_to_camera_with_the_quaternion_w_first(tmp_path):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3_exp([0.0, 0.0, np.pi / 2]), (3.0, 0.0, 0.0)
    world = np.diag([1.0, -1.0, -1.0, 1.0])
    write_submission(tmp_path / "a", [("x.jpg", T)])
    write_submission(tmp_path / "b", [("x.jpg", T)], world)
    values = [float(v) for v in (tmp_path / "a").read_text().split()[1:]]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(values, [half, 0, 0, -half, 0, 3, 0], atol=1e-15)
    assert (tmp_path / "b").read_text() != (tmp_path / "a").read_text()
    np.testing.assert_allclose(read_submission(tmp_path / "b")[1][0], world @ T, atol=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 0 0 0 0 0", ":1: expected name qw"),
        ("a 1 0 0 0 0 0 0\nb x 0 0 0 0 0 0", ":2: expected numbers"),
        ("a 2 0 0 0 0 0 0", ":1: expected a unit quaternion, found one of length 2"),
        ("a 1 0 0 0 0 0 nan", ":1: expected name qw"),
    ],
)
def test_what_is_no_submission_is_named(tmp_path, text, message):
    (tmp_path / "s.txt").write_text(text + "\n")
    with pytest.raises(DatasetError, match=message):
        read_submission(tmp_path / "s.txt")


def test_queries_have_one_name_and_a_pose(tmp_path):
    for poses in ([("a b", np.eye(4))], [("a", np.eye(4))] * 2, [("", np.eye(4))]):
        with pytest.raises(DatasetError, match="each query once"):
            write_submission(tmp_path / "s.txt", poses)
    with pytest.raises(DatasetError, match="finite pose for a"):
        write_submission(tmp_path / "s.txt", [("a", np.full((4, 4), np.nan))])
    assert not (tmp_path / "s.txt").exists()


def test_names_are_those_of_the_benchmark():
    path = Path("/data/RobotCar-Seasons/images/night/rear/1418.jpg")
    assert query_name(path) == "rear/1418.jpg" and query_name(path, 0) == "1418.jpg"
