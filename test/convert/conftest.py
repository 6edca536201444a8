"""Small drives that know everything a drive can know, and folders of images in the layouts of data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, GnssTrack, PosedSequence
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.types import CameraModel

START = 1_700_000_000_123_456_789


def picture(number: int, width: int = 8, height: int = 6) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_picture(path: Path, number: int, width: int = 8, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(number, width, height))
    return path


def make_drive(folder: Path, count: int = 12) -> PosedSequence:
    """PNG files, uneven stamps in odd nanoseconds, odometry with a gap, rig, datum and fixes at stamps of their own."""
    random = np.random.default_rng(7)
    stamps = START + np.arange(count, dtype=np.int64) * 100_000_000 + random.integers(0, 1_000_003, count)
    T_base_cam = T_BODY_OPTICAL.copy()
    T_base_cam[:3, 3] = 1.0, 0.2, 1.5
    T_map_base = np.tile(np.eye(4), (count, 1, 1))
    T_map_base[:, 0, 3], T_map_base[:, 1, 3] = 0.37 * np.arange(count), random.normal(size=count)
    T_map_base[:, :3, :3] = [so3_exp(v) for v in random.normal(scale=0.2, size=(count, 3))]
    T_odom_base = np.linalg.inv(T_map_base[0]) @ T_map_base
    T_odom_base[3] = np.nan
    imu = np.eye(4)
    imu[:3, :3], imu[:3, 3] = so3_exp([0.1, -0.2, 0.3]), (-0.4, 0.0, 0.25)
    antenna = np.eye(4)
    antenna[:3, 3] = 0.1, 0.2, 1.9
    fixes = START - 50_000_000 + np.arange(2 * count, dtype=np.int64) * 51_000_001
    gnss = GnssTrack(
        fixes, 48.1 + 1e-6 * np.arange(2 * count), 11.5 + random.normal(scale=1e-5, size=2 * count),
        random.normal(520, 1, 2 * count), random.uniform(0.1, 9.0, (2 * count, 3)), "antenna",
    )  # fmt: skip
    return PosedSequence(
        "tiny", stamps, T_map_base @ T_base_cam, T_base_cam,
        CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5, "plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.0)),
        FolderImages(tuple(write_picture(folder / f"{k:03d}.png", k) for k in range(count))), T_odom_base,
        datum=Datum(48.1000001, 11.5000002, 519.123456789), gnss=gnss, rig={"antenna": antenna, "imu": imu},
    )  # fmt: skip


def undistorted(camera: CameraModel) -> CameraModel:
    """A CameraInfo without distortion has coefficients, too: zeros."""
    return camera if any(camera.distortion) else replace(camera, distortion_model="none", distortion=())


@pytest.fixture
def drive(tmp_path):
    return make_drive(tmp_path / "images")


@pytest.fixture
def make(tmp_path):
    def make_one(count: int) -> PosedSequence:
        return make_drive(tmp_path / "images", count)

    return make_one


@pytest.fixture
def plain(drive):
    """The drive without what only some data sets know."""
    return replace(drive, datum=None, gnss=None, rig={}, T_odom_base=None)


@pytest.fixture
def same():
    """Compare a drive read back from a bag with what was written: stamps and images exactly, poses to 1e-9."""

    def compare(found: PosedSequence, expected: PosedSequence) -> None:
        np.testing.assert_array_equal(found.stamps_ns, expected.stamps_ns)
        np.testing.assert_allclose(found.T_map_cam, expected.T_map_cam, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.T_base_cam, expected.T_base_cam, rtol=0, atol=1e-9)
        assert undistorted(found.camera) == undistorted(expected.camera) and found.frame_id == expected.frame_id
        assert found.datum == expected.datum and found.origin_m == expected.origin_m
        assert (found.T_world_map is None) == (expected.T_world_map is None)
        np.testing.assert_array_equal(
            np.zeros(0) if found.T_world_map is None else found.T_world_map,
            np.zeros(0) if expected.T_world_map is None else expected.T_world_map,
        )
        assert (found.T_odom_base is None) == (expected.T_odom_base is None)
        if expected.T_odom_base is not None:
            has = np.isfinite(expected.T_odom_base).all(axis=(1, 2))
            np.testing.assert_allclose(found.T_odom_base[has], expected.T_odom_base[has], rtol=0, atol=1e-9)
        assert set(found.rig) == set(expected.rig)
        for name, T in expected.rig.items():
            np.testing.assert_allclose(found.rig[name], T, rtol=0, atol=1e-9)
        assert (found.gnss is None) == (expected.gnss is None)
        if expected.gnss is not None:
            assert found.gnss.frame_id == expected.gnss.frame_id
            for name in ("stamps_ns", "latitude_deg", "longitude_deg", "altitude_m", "variance_m2"):
                np.testing.assert_array_equal(getattr(found.gnss, name), getattr(expected.gnss, name), name)
        for index in range(len(expected)):
            np.testing.assert_array_equal(found.image(index), expected.image(index))

    return compare
