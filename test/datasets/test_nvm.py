"""NVM models: cameras by name, poses the right way round, faults by line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets.nvm import read_nvm
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp


def line(name, T_world_cam, focal=400.0):
    x, y, z, w = matrix_to_quaternion(T_world_cam[:3, :3].T)
    values = (focal, w, x, y, z, *T_world_cam[:3, 3], 0, 0)
    return f"{name} " + " ".join(repr(float(v)) for v in values)


def write(path, lines, count=None, head="NVM_V3 "):
    text = "\n".join([head, "", str(len(lines) if count is None else count), *lines, "", "1", "0 0 0 1 2 3 0", ""])
    path.write_text(text)
    return path


def pose(phi, t):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3_exp(phi), t
    return T


@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 3, *[st.floats(-1e4, 1e4)] * 3), min_size=1, max_size=5))
def test_poses_come_back(tmp_path_factory, values):
    poses = [pose(v[:3], v[3:]) for v in values]
    path = tmp_path_factory.mktemp("nvm") / "all.nvm"
    found = read_nvm(write(path, [line(f"./a/{i}.png", T) for i, T in enumerate(poses)]), Problems())
    assert [c.name for c in found] == [f"a/{i}.png" for i in range(len(poses))]
    np.testing.assert_allclose([c.T_world_cam for c in found], poses, atol=1e-9, rtol=0)


def test_the_quaternion_is_world_to_camera_and_the_position_the_centre(tmp_path):
    """Half of it the other way round is the usual mistake."""
    quarter = f"a\t400 {np.sqrt(0.5)} 0 0 {np.sqrt(0.5)} 1 2 3 -0.25 0"  # a quarter turn about z
    found = read_nvm(write(tmp_path / "all.nvm", [quarter]), Problems())[0]
    np.testing.assert_allclose(found.T_world_cam[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(found.T_world_cam[:3, :3] @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    assert (found.focal, found.radial, found.where.endswith("all.nvm:4")) == (400, -0.25, True)


def test_names_with_spaces_and_calibrated_heads(tmp_path):
    path = write(tmp_path / "a.nvm", [line("my drive/a.png", np.eye(4))], head="NVM_V3 FixedK 400 500 400 500 0")
    assert read_nvm(path, Problems())[0].name == "my drive/a.png"


@pytest.mark.parametrize(
    ("bad", "message", "kept"),
    [
        ("a 400 1 0 0 0 0 0 0 0", r":5: expected name focal", 2),
        ("a 400 2 0 0 0 0 0 0 0 0", r":5: expected a unit quaternion, found one of length 2", 2),
        ("a 400 1 0 0 0 nan 0 0 0 0", r":5: expected finite numbers", 2),
        ("a 400 1 0 0 x 0 0 0 0 0", r":5: expected numbers", 2),
    ],
)
def test_a_faulty_line_is_named(tmp_path, bad, message, kept):
    path = write(tmp_path / "a.nvm", [line("x", np.eye(4)), bad, line("y", np.eye(4))])
    with pytest.raises(DatasetError, match=message):
        read_nvm(path, Problems())
    problems = Problems(keep_going=True)
    assert len(read_nvm(path, problems)) == kept and sum(problems.counts.values()) == 1


def test_models_that_are_none_or_end_early(tmp_path):
    path = tmp_path / "a.nvm"
    with pytest.raises(DatasetError, match="no such file"):
        read_nvm(path, Problems())
    path.write_text("ply\n")
    with pytest.raises(DatasetError, match=r"a.nvm:1: expected NVM_V3, found 'ply'"):
        read_nvm(path, Problems())
    path.write_text("NVM_V3\n\nx\n")
    with pytest.raises(DatasetError, match=r"a.nvm:3: expected the number of cameras"):
        read_nvm(path, Problems())
    path.write_text(f"NVM_V3\n\n3\n{line('x', np.eye(4))}\n")
    with pytest.raises(DatasetError, match=r"a.nvm:5: expected 3 cameras, found the end of the file after 1"):
        read_nvm(path, Problems())


@pytest.mark.parametrize("count", ["²", "٣x", "-1", "1" * 5000])
def test_counts_that_are_none(tmp_path, count):
    (tmp_path / "m.nvm").write_text(f"NVM_V3\n\n{count}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"m\.nvm:3: expected the number of cameras"):
        read_nvm(tmp_path / "m.nvm", Problems(keep_going=True))
