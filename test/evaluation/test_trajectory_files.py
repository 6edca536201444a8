"""Trajectories of TUM files and bags: exact stamps, and a message with file and line for all that can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import BagError, DatasetError
from vloc_ros.evaluation.trajectory import read_trajectory, read_tum, write_tum
from vloc_ros.geometry.se3 import se3_exp

START = 1_700_000_000_000_000_001
GOOD = "1.5 1 2 3 0 0 0 1\n2.5 1 2 3 0 0 0 1\n"


def poses(count: int = 6) -> tuple[list[int], np.ndarray]:
    stamps = [START + 100_000_000 * i for i in range(count)]
    return stamps, se3_exp(np.random.default_rng(0).normal(size=(count, 6)) * ([1000.0] * 3 + [1.0] * 3))


def written(folder: Path, text: str) -> Path:
    path = folder / "t.tum"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_was_written_comes_back(tmp_path):
    stamps, T = poses()
    write_tum(tmp_path / "t.tum", zip(stamps, T, strict=True))
    track = read_trajectory(tmp_path / "t.tum")
    assert track.stamps_ns.tolist() == stamps
    np.testing.assert_allclose(track.T, T, atol=3e-9)


@given(st.integers(0, 4 * 10**18))
def test_stamps_are_exact(tmp_path_factory, stamp):
    path = tmp_path_factory.mktemp("t") / "t.tum"
    write_tum(path, [(stamp, np.eye(4))])
    assert read_tum(path).stamps_ns.tolist() == [stamp]


def test_exponents_comments_and_empty_lines(tmp_path):
    """evo and numpy.savetxt write every number with an exponent."""
    text = "# stamp tx ty tz\n\n1.305031102175304413e+09 1e0 2e0 3e0 0 0 0 1e0\n2.0E9\t1 2 3 0 0 0 -1 # turned\n"
    track = read_tum(written(tmp_path, text))
    assert track.stamps_ns.tolist() == [1_305_031_102_175_304_413, 2_000_000_000_000_000_000]
    np.testing.assert_allclose(track.T[1, :3, :3], np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3.5 1 2 3 0 0 0", r"t.tum:3: expected 8 fields, found 7"),
        ("3.5 1 2 3 0 0 0 1 9", r"t.tum:3: expected 8 fields, found 9"),
        ("3.5 1 nan 3 0 0 0 1", r"t.tum:3: expected finite numbers"),
        ("3.5 1 x 3 0 0 0 1", r"t.tum:3: expected numbers"),
        ("3.5 1 2 3 0 0 0 0", r"t.tum:3: expected a unit quaternion, found one of length 0"),
        ("3.5 1 2 3 0 0 0.5 1", r"t.tum:3: expected a unit quaternion, found one of length 1.118"),
        ("nan 1 2 3 0 0 0 1", r"t.tum:3: expected a stamp in s"),
        ("-3.5 1 2 3 0 0 0 1", r"t.tum:3: expected a stamp in s"),
        ("1e999999999 1 2 3 0 0 0 1", r"t.tum:3: expected a stamp in s"),
        ("1700000000123456789 1 2 3 0 0 0 1", r"t.tum:3: .*in ns it would be one of our time"),
        ("1700000000123.456 1 2 3 0 0 0 1", r"t.tum:3: .*in ms it would be one of our time"),
        ("2.0 1 2 3 0 0 0 1", r"t.tum:3: expected increasing stamps"),
        ("2.5 1 2 3 0 0 0 1", r"t.tum:3: expected one pose a stamp, found 2500000000 ns twice"),
    ],
)
def test_faulty_lines_are_named_or_skipped_and_counted(tmp_path, line, message):
    path = written(tmp_path, GOOD + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_tum(path)
    problems = Problems(keep_going=True)
    track = read_trajectory(path, problems=problems)
    assert sum(problems.counts.values()) == 1
    expected = (
        [1_500_000_000, 2_000_000_000, 2_500_000_000] if line.startswith("2.0") else [1_500_000_000, 2_500_000_000]
    )
    assert track.stamps_ns.tolist() == expected


def test_what_is_no_trajectory(tmp_path):
    with pytest.raises(DatasetError, match=r"absent.tum: no such file"):
        read_trajectory(tmp_path / "absent.tum")
    with pytest.raises(DatasetError, match="found a folder without a bag"):
        read_trajectory(tmp_path)
    with pytest.raises(DatasetError, match="expected poses, found none"):
        read_trajectory(written(tmp_path, "# nothing\n"))
    with pytest.raises(DatasetError, match="expected a bag for the topic /a"):
        read_trajectory(written(tmp_path, GOOD), "/a")


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    stamps, T = poses()
    with BagWriter(tmp_path_factory.mktemp("bag") / "bag") as writer:
        for stamp, pose in zip(stamps, T, strict=True):
            writer.pose("/reference/pose", stamp, "map", pose)
            writer.pose_with_covariance("/vloc/pose", stamp, "map", pose, np.eye(6))
            writer.transforms("/tf", stamp, [("map", "odom", stamp, pose), ("odom", "base_link", stamp, np.eye(4))])
        writer.pose("/broken", 0, "map", T[0])
    return writer.path


@pytest.mark.parametrize("topic", ["/vloc/pose", "/reference/pose", "/tf:map.odom"])
def test_topics_of_a_bag(bag, topic):
    track = read_trajectory(bag, topic)
    assert track.stamps_ns.tolist() == poses()[0]
    np.testing.assert_allclose(track.T, poses()[1], atol=1e-9)
    assert len(read_trajectory(bag, usual=("/other", "/vloc/pose"))) == 6


def test_topics_that_are_not_there(bag):
    with pytest.raises(BagError, match=r"no poses on /x; topics with poses: /broken, /reference/pose, /vloc/pose"):
        read_trajectory(bag, "/x")
    with pytest.raises(BagError, match=r"expected /other, found /broken, .*--reference-topic"):
        read_trajectory(bag, usual=("/other",))
    with pytest.raises(BagError, match=r"expected /tf:PARENT\.CHILD"):
        read_trajectory(bag, "/tf:map")
    with pytest.raises(DatasetError, match="expected poses, found none"):
        read_trajectory(bag, "/tf:map.base_link")
    with pytest.raises(DatasetError, match="expected a stamp, found 0"):
        read_trajectory(bag, "/broken")


def test_an_unfinished_bag_is_a_fault(bag, tmp_path):
    data = next(bag.glob("*.mcap")).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: int(0.7 * len(data))])
    with pytest.raises(DatasetError, match="unfinished"):
        read_trajectory(tmp_path / "cut.mcap", "/vloc/pose")
