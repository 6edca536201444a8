"""4Seasons recordings with faults in their files, and files in other places."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fourseasons_recordings import COUNT, open_one, seconds, stamp, transformations, write_calibration, write_recording

from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import open_source
from vloc_ros.datasets.fourseasons import matches
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError


@pytest.fixture
def recording(tmp_path):
    write_calibration(tmp_path / "calibration")
    return write_recording(tmp_path / "recording_2020-10-07_14-47-51")


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        ("1,2,3", r"GNSSPoses.txt:3: expected 10 or 11 fields, found 3", "row of the wrong length"),
        (f"{stamp(0) // 1000},0,0,0,0,0,0,1,1,1", r":3: expected a stamp in ns .*in us", "stamp that cannot be read"),
        (f"{stamp(0) + 9},0,nan,0,0,0,0,1,1,1", r":3: expected finite numbers", "row with NaN or infinity"),
        (f"{stamp(0) + 9},0,x,0,0,0,0,1,1,1", r":3: expected numbers", "row with text for a number"),
        (
            f"{stamp(0) + 9},0,0,0,0,0,0,2,1,1",
            r":3: expected a unit quaternion",
            "quaternion that is not of unit length",
        ),
        (f"{stamp(0) + 9},0,0,0,0,0,0,1,0,1", r":3: expected a positive scale, found 0", "pose without a scale"),
        (f"{stamp(0)},0,0,0,0,0,0,1,1,1", r":3: expected one pose a stamp", "repeated stamp"),
    ],
)
def test_broken_poses_are_named_by_line_or_counted(recording, line, message, kind):
    whole = open_sequence(recording)
    file = recording / "GNSSPoses.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(DatasetError, match=message):
        open_sequence(recording)
    found = open_one(recording, Problems(keep_going=True))
    assert found.dropped == {kind: 1}
    np.testing.assert_array_equal(found.T_map_cam, whole.T_map_cam)


def test_poses_out_of_order_and_gaps(recording):
    whole = open_sequence(recording)
    file = recording / "GNSSPoses.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(DatasetError, match=r"GNSSPoses.txt:3: expected increasing stamps"):
        open_sequence(recording)
    np.testing.assert_array_equal(open_one(recording, Problems(keep_going=True)).T_map_cam, whole.T_map_cam)
    file.write_text("\n".join([*lines[:2], *lines[5:]]))  # frames 1 to 3 have none
    found = open_one(recording, max_gap_s=0.1)
    np.testing.assert_array_equal(found.stamps_ns, [stamp(0), stamp(4), stamp(5)])
    assert found.dropped == {"image without a pose": 3}
    assert len(open_one(recording)) == COUNT  # within the second that is the limit


def test_frames_without_files_and_ids_that_are_no_times(recording):
    (recording / "undistorted_images" / "cam0" / f"{stamp(2)}.png").unlink()
    with pytest.raises(DatasetError, match=rf"times.txt:3: expected the image .*{stamp(2)}.png, found no file"):
        open_sequence(recording)
    found = open_one(recording, Problems(keep_going=True))
    assert len(found) == COUNT - 1 and found.dropped == {"listed image that is missing": 1}
    cv2.imwrite(str(recording / "undistorted_images" / "cam0" / f"{stamp(2)}.png"), np.zeros((6, 8), np.uint8))
    file = recording / "times.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace(seconds(stamp(0)), seconds(stamp(0) + 10**9)), *lines[1:]]))
    with pytest.raises(DatasetError, match=r"times.txt:1: expected a frame id in ns and the same time in s"):
        open_sequence(recording)
    file.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(DatasetError, match=r"times.txt:7: expected one frame a stamp"):
        open_sequence(recording)
    file.unlink()
    assert len(open_sequence(recording)) == COUNT  # the files' names are their stamps
    (recording / "undistorted_images" / "cam0" / "left.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"left.png: name: expected a stamp in ns"):
        open_sequence(recording)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("# TS_cam_imu", "# other"), r"Transformations.txt: expected a comment '# TS_cam_imu: "),
        (
            lambda t: t.replace(",-0.002350", ""),
            r"Transformations.txt:5: expected TS_cam_imu: tx,ty,tz,qx,qy,qz,qw \(7",
        ),
        (lambda t: t.replace("0.590354", "nan"), r"Transformations.txt:14: expected transform_e_gpsw"),
        (lambda t: t.replace("0.590354", "5.90354"), r"Transformations.txt:14: expected a unit quaternion"),
        (lambda t: t + transformations(), r"Transformations.txt:19: expected transform_S_AS once"),
    ],
)
def test_broken_transformations_are_named_by_line(recording, change, message):
    file = recording / "Transformations.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(DatasetError, match=message):
        open_sequence(recording)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("undistorted_calib_0.txt", None, "expected a folder calibration or Calibration|no such file"),
        (
            "undistorted_calib_0.txt",
            "Equidistant 1 1 1 1 0 0 0 0\n8 6\n",
            r"_0.txt:1: expected the camera model Pinhole",
        ),
        ("undistorted_calib_0.txt", "Pinhole 1 1 1 1 0 0 0\n8 6\n", r"_0.txt:1: expected fx fy cx cy and four coeff"),
        (
            "undistorted_calib_0.txt",
            "Pinhole 1 1 1 1 0 0 0 1\n8 6\n",
            r"_0.txt:1: expected a camera without distortion",
        ),
        ("undistorted_calib_0.txt", "Pinhole 1 1 1 1 0 0 0 0\n8\n", r"_0.txt:2: expected width height"),
        ("undistorted_calib_0.txt", "Pinhole 0 1 1 1 0 0 0 0\n8 6\n", r"_0.txt: camera: expected positive focal"),
        ("undistorted_calib_0.txt", "Pinhole 1 1 1 1 0 0 0 0\n800 400\n", r"png: expected 800x400 pixels as in .*8x6"),
        ("undistorted_calib_stereo.txt", None, r"stereo.txt: no such file; .*--keep-going without cam1"),
        ("undistorted_calib_stereo.txt", "1 2 3\n", r"stereo.txt:1: expected a row of a 4x4 matrix"),
        ("undistorted_calib_stereo.txt", "1 0 0 -1\n", r"stereo.txt: expected four rows"),
        (
            "undistorted_calib_stereo.txt",
            "2 0 0 -1\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            r"stereo.txt: expected a rot",
        ),
    ],
)
def test_a_broken_calibration_is_named_by_line(recording, name, text, message):
    file = recording.parent / "calibration" / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_sequence(recording)


def test_calibration_is_found_under_every_name(recording, tmp_path):
    here = tmp_path / "calibration"
    for place in (tmp_path / "Calibration", recording / "calibration", here):
        place.parent.mkdir(exist_ok=True)
        here.rename(place)
        here = place
        assert open_sequence(recording).camera.fx == 7.0
    here.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"expected a folder calibration or Calibration .*calibration=PATH"):
        open_sequence(recording)
    assert open_one(recording, calibration=str(tmp_path / "elsewhere")).camera.fx == 7.0
    with pytest.raises(DatasetError, match="found none in nowhere"):
        open_one(recording, calibration="nowhere")
    (tmp_path / "calibration").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "calibration" / "calibration")  # as the archive unpacks
    assert open_sequence(recording).camera.fx == 7.0


def test_recordings_of_one_folder_share_a_map_frame(recording, tmp_path):
    second = write_recording(tmp_path / "recording_2021-02-25_13-39-06")
    text = transformations().replace("4172814.292643", "4172824.292643")
    (second / "Transformations.txt").write_text(text)
    assert matches(tmp_path) and not matches(tmp_path / "calibration") and not matches(tmp_path / "no")
    a, b = open_source(f"fourseasons:{tmp_path}")
    assert a.datum == b.datum == open_sequence(recording).datum != open_sequence(second).datum
    np.testing.assert_allclose(
        b.T_map_cam[0, :3, 3] - a.T_map_cam[0, :3, 3], a.datum.R_enu_ecef @ [10.0, 0, 0], atol=4e-9
    )
    with pytest.raises(DatasetError, match=r"expected a recording with Transformations.txt"):
        open_one(tmp_path / "calibration")


def test_missing_images_and_pose_files_are_named(recording):
    with pytest.raises(DatasetError, match=r"GNSSPoses.txt: no such file"):
        (recording / "GNSSPoses.txt").unlink()
        open_sequence(recording)
    with pytest.raises(DatasetError, match=r"KeyFrameData: expected files KeyFrame_<ns>.txt, found none"):
        for path in (recording / "KeyFrameData").glob("*"):
            path.unlink()
        open_one(recording, poses="keyframes")
    with pytest.raises(DatasetError, match=r"undistorted_images/cam1: expected images, found none"):
        for path in (recording / "undistorted_images" / "cam1").glob("*"):
            path.unlink()
        open_one(recording, poses="result", camera="cam1")
