"""The shared KITTI drive to a bag and back."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.convert.sequence import noisy_odometry
from vloc_ros.convert.source import Conversion, convert_source
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.formats import Source, open_source

OPTIONS = {"intrinsics": (240.97, 244.72, 203.54, 63.05), "camera_offset": (-0.063, 0.0, 0.0)}


def convert_kitti(source, out, **chosen):
    convert_source(Source("kitti", source, OPTIONS), out, Conversion(**chosen))


def open_kitti(source):
    return open_source(Source("kitti", source, OPTIONS))[0]


def test_image_files_are_copied_and_poses_kept(shared_data, tmp_path):
    source = shared_data("kitti00_416x128")
    convert_kitti(source, tmp_path / "odd", frames="1:41:2")
    found, truth = open_sequence(tmp_path / "odd"), open_kitti(source)
    np.testing.assert_array_equal(found.stamps_ns, truth.stamps_ns[1:41:2])
    np.testing.assert_allclose(found.T_map_cam, truth.T_map_cam[1:41:2], atol=1e-9)
    np.testing.assert_array_equal(found.image(7), truth.image(15))
    assert found.T_odom_base is None  # KITTI has none, and none is invented
    with BagReader(tmp_path / "odd") as reader:
        message = next(iter(reader.messages(["/camera/image/compressed"]))).message
    assert bytes(message.data) == (source / "rgb" / "000001.jpg").read_bytes()


def test_held_out_parts_do_not_meet(shared_data, tmp_path):
    source = shared_data("kitti00_416x128")
    for part in ("train", "test"):
        convert_kitti(source, tmp_path / part, hold_out="20:100", part=part, frames="0:300")
    stamps = {part: set(open_sequence(tmp_path / part).stamps_ns.tolist()) for part in ("train", "test")}
    assert len(stamps["train"]) == 240 and len(stamps["test"]) == 60
    assert not stamps["train"] & stamps["test"]


def test_odometry_on_request(shared_data, tmp_path):
    convert_kitti(shared_data("kitti00_416x128"), tmp_path / "a", frames="0:30", odometry_noise=(0.01, 0.01))
    found = open_sequence(tmp_path / "a")
    assert found.T_odom_base.shape == (30, 4, 4)
    np.testing.assert_allclose(found.T_odom_base[0], np.eye(4), atol=1e-12)


def test_synthetic_odometry_drifts_but_is_locally_right():
    T = np.tile(np.eye(4), (500, 1, 1))
    T[:, 0, 3] = np.arange(500)
    odometry = noisy_odometry(T, 0.01, 0.003, seed=3)
    np.testing.assert_array_equal(odometry, noisy_odometry(T, 0.01, 0.003, seed=3))
    steps = np.linalg.inv(odometry[:-1]) @ odometry[1:]
    assert np.abs(steps[:, 0, 3] - 1).max() < 0.06
    drift = np.linalg.norm(odometry[-1, :3, 3] - T[-1, :3, 3])
    assert 0.5 < drift < 100
    exact = noisy_odometry(T, 0.0, 0.0, seed=3)
    np.testing.assert_allclose(exact, T, atol=1e-9)


@pytest.mark.parametrize("image_format", ["png", "raw"])
def test_reencoding(shared_data, tmp_path, image_format):
    source = shared_data("kitti00_416x128")
    convert_kitti(source, tmp_path / "bag", frames="0:3", image_format=image_format)
    np.testing.assert_array_equal(open_sequence(tmp_path / "bag").image(2), open_kitti(source).image(2))
