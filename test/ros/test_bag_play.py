"""Converted bags through the distribution's own player. Needs a ROS 2; see conftest.py."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
COUNT = 60


def _drive(folder):
    """Six seconds at 10 Hz with everything that a drive can know."""
    import cv2

    from vloc_ros.datasets.image_files import FolderImages
    from vloc_ros.datasets.sequence import T_BODY_OPTICAL, GnssTrack, PosedSequence
    from vloc_ros.geometry.geodesy import Datum
    from vloc_ros.types import CameraModel

    stamps = 1_700_000_000_123_456_789 + np.arange(COUNT, dtype=np.int64) * 100_000_000
    paths = []
    folder.mkdir()
    for k in range(COUNT):
        paths.append(folder / f"{k}.png")
        cv2.imwrite(str(paths[-1]), np.full((6, 8, 3), k, np.uint8))
    T = np.tile(np.eye(4), (COUNT, 1, 1))
    T[:, 0, 3] = 0.1 * np.arange(COUNT)
    flat = np.full(COUNT, 1.0)
    return PosedSequence(
        "drive", stamps, T @ T_BODY_OPTICAL, T_BODY_OPTICAL, CameraModel(8, 6, 7.0, 7.0, 3.5, 2.5),
        FolderImages(tuple(paths)), T, datum=Datum(48.0, 11.0, 500.0), rig={"imu": np.eye(4)},
        gnss=GnssTrack(stamps + 7, 48.0 * flat, 11.0 * flat, 500.0 * flat, np.ones((COUNT, 3)), "imu"),
    )  # fmt: skip


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ros2_bag_plays_it(live, storage):
    from geometry_msgs.msg import PoseStamped
    from nav_msgs.msg import Odometry
    from ros_harness import stamp_of
    from sensor_msgs.msg import CameraInfo, CompressedImage, NavSatFix
    from tf2_msgs.msg import TFMessage

    from vloc_ros.convert.sequence import write_drive

    for words in (["play", "--help"], ["info", "--help"]):
        if subprocess.run([*ROS2, "bag", *words], env=live.environment, capture_output=True, timeout=60).returncode:
            pytest.skip("this ROS 2 has no ros2 bag")
    drive = _drive(live.tmp_path / "images")
    bag = live.tmp_path / "bag"
    summary = write_drive(drive, bag, storage=storage, part_frames=40, resume=True, identity="x")
    assert summary.files == 2
    told = subprocess.run(
        [*ROS2, "bag", "info", str(bag)], env=live.environment, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0 and f"Count: {COUNT}" in told.stdout and "bag_1" in told.stdout, (
        told.stdout + told.stderr
    )
    heard = {
        "image": live.hear(CompressedImage, "/camera/image/compressed"),
        "info": live.hear(CameraInfo, "/camera/camera_info"),
        "pose": live.hear(PoseStamped, "/reference/pose"),
        "odometry": live.hear(Odometry, "/odometry"),
        "fix": live.hear(NavSatFix, "/gnss/fix"),
    }
    player = live.run([*ROS2, "bag", "play", str(bag), "--clock", "--delay", "2"])
    live.until(lambda: len(heard["image"]) > 3, "images", 60)
    static = live.hear(TFMessage, "/tf_static", latched=True)  # one who joins late
    datum = live.hear(NavSatFix, "/map/datum", latched=True)
    live.until(lambda: static and datum, "the latched topics", 10)
    assert len(heard["image"]) < 40, "they came with the second part, not because they are latched"
    assert {t.child_frame_id for t in static[0].transforms} == {"camera_optical_frame", "imu"}
    assert (datum[0].latitude, datum[0].header.frame_id) == (48.0, "map")
    assert player.wait(60) == 0, player.text
    stamps = set(drive.stamps_ns.tolist())
    for name, messages in heard.items():
        assert len(messages) >= COUNT - 10, f"{name}: {len(messages)}"
        offset = 7 if name == "fix" else 0
        assert {stamp_of(m) - offset for m in messages} <= stamps, name
    last = heard["image"][-1]
    assert bytes(last.data) == (live.tmp_path / "images" / f"{COUNT - 1}.png").read_bytes()
    assert heard["pose"][-1].pose.position.x == pytest.approx(0.1 * (COUNT - 1)) and heard["fix"][0].altitude == 500.0
