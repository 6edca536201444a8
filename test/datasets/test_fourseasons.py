"""4Seasons recordings: the chain onto the Earth, the stereo direction, and every quirk of the files."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from fourseasons_recordings import (
    COUNT,
    PUBLISHED,
    R_LENS,
    SCALES,
    T_CAM1_CAM0,
    cam_to_world,
    gga,
    in_ecef,
    in_map,
    matrix,
    open_one,
    pose_text,
    seconds,
    stamp,
    transformations,
    write_calibration,
    write_recording,
)

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import detect
from vloc_ros.datasets.fourseasons.calibration import read_transformations
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum


@pytest.fixture
def recording(tmp_path):
    write_calibration(tmp_path / "calibration")
    return write_recording(tmp_path / "recording_2020-10-07_14-47-51")


def test_global_poses_follow_the_published_formula_row_by_row(recording):
    found = open_sequence(recording)
    assert detect(recording) == "fourseasons" and found.name == recording.name and not found.dropped
    np.testing.assert_array_equal(found.stamps_ns, [stamp(i) for i in range(COUNT)])
    for i in range(COUNT):
        expected = in_map(in_ecef(cam_to_world(i), SCALES[i]), found.datum)
        # ECEF coordinates themselves resolve a nanometre, which the expectation has and the reader has not.
        np.testing.assert_allclose(found.T_map_cam[i], expected, atol=4e-9)
        np.testing.assert_allclose(np.linalg.det(found.T_map_cam[i, :3, :3]), 1.0, atol=1e-12)
    assert np.abs(found.T_map_cam[:, :3, 3]).max() < 20.0  # local, as float32 needs it
    # Munich, from the origin of the data set's own ENU frame.
    assert (round(found.datum.latitude_deg, 1), round(found.datum.longitude_deg, 1)) == (48.2, 11.6)
    assert found.camera.size == (8, 6) and found.camera.distortion_model == "none"


def test_the_poses_are_exact_in_the_data_sets_own_frame(recording):
    """Without the Earth between: to 1e-9 against the chain from the ENU frame on."""
    found = open_sequence(recording)
    T_e_gpsw = matrix(PUBLISHED["transform_e_gpsw"])
    T_map_gpsw = np.eye(4)
    T_map_gpsw[:3, :3] = found.datum.R_enu_ecef @ T_e_gpsw[:3, :3]
    for i in range(COUNT):
        T = np.linalg.inv(matrix(PUBLISHED["transform_w_gpsw"])) @ matrix(PUBLISHED["transform_S_AS"])
        T = T @ np.diag([SCALES[i]] * 3 + [1.0]) @ cam_to_world(i)
        T[:3, :3] /= SCALES[i]
        # The datum is the frame's origin but for the rounding of latitude, longitude and height: 2 nm.
        expected = T_map_gpsw @ T
        np.testing.assert_allclose(found.T_map_cam[i, :3, :3], expected[:3, :3], atol=1e-12)
        steps = found.T_map_cam[i, :3, 3] - found.T_map_cam[0, :3, 3]
        if i == 0:
            start = expected[:3, 3]
        np.testing.assert_allclose(steps, expected[:3, 3] - start, atol=1e-9)
        np.testing.assert_allclose(found.T_map_cam[i, :3, 3], expected[:3, 3], atol=4e-9)


def test_the_datum_may_be_given(recording):
    place = Datum(48.25, 11.5, 500.0)
    found = open_one(recording, datum=(48.25, 11.5, 500.0))
    assert found.datum == place
    np.testing.assert_allclose(found.T_map_cam[2], in_map(in_ecef(cam_to_world(2), SCALES[2]), place), atol=4e-9)
    with pytest.raises(ConfigError, match="datum: expected latitude"):
        open_one(recording, datum=(148.25, 11.5, 500.0))


def test_rows_of_eleven_columns_and_a_bare_header_are_read_too(recording):
    plain = open_sequence(recording)
    file = recording / "GNSSPoses.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].lstrip("# "), *(f"{line},0.5" for line in lines[1:])]))
    np.testing.assert_array_equal(open_sequence(recording).T_map_cam, plain.T_map_cam)


def test_transformations_are_parsed_by_name_whatever_the_blank_lines_and_the_order(recording):
    file = recording / "Transformations.txt"
    first = read_transformations(file)
    file.write_text(transformations(blank=False))
    second = read_transformations(file)
    parts = re.findall(r"# [^\n]*\n[^\n]*", transformations(blank=False))
    file.write_text("\r\n\r\n".join(reversed([p.replace("\n", "\r\n") for p in parts])))
    third = read_transformations(file)
    for name in ("T_S_AS", "T_cam_imu", "T_w_gpsw", "T_gps_imu", "T_e_gpsw"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        np.testing.assert_array_equal(getattr(first, name), getattr(third, name))
    np.testing.assert_allclose(first.T_cam_imu[:3, 3], [0.175412, 0.003689, -0.058106])


def test_odometry_stamps_are_rounded_and_belong_to_frames(recording):
    found = open_one(recording, poses="result")
    np.testing.assert_array_equal(found.stamps_ns, [stamp(i) for i in range(COUNT)])
    for i in range(COUNT):
        expected = in_map(in_ecef(cam_to_world(i + 0.25), 1.0), found.datum)  # its scale is 1
        np.testing.assert_allclose(found.T_map_cam[i], expected, atol=4e-9)
    file = recording / "result.txt"
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([*lines[:2], f"{seconds(stamp(1) + 3_000_000, 5)} {pose_text(np.eye(4), ' ')}", *lines[2:]])
    )
    with pytest.raises(DatasetError, match=r"result.txt:3: expected a frame of times.txt within 2 ms, .* 3\.0 ms away"):
        open_one(recording, poses="result")
    kept = open_one(recording, Problems(keep_going=True), poses="result")
    assert kept.dropped == {"pose without a frame": 1}
    np.testing.assert_array_equal(kept.T_map_cam, found.T_map_cam)
    (recording / "times.txt").unlink()
    with pytest.raises(DatasetError, match=r"times.txt: no such file"):
        open_one(recording, poses="result")


def test_key_frames_have_poses_of_scale_one(recording):
    found = open_one(recording, poses="keyframes", max_gap_s=0)
    np.testing.assert_array_equal(found.stamps_ns, [stamp(0), stamp(3), stamp(5)])
    np.testing.assert_allclose(found.T_map_cam[1], in_map(in_ecef(cam_to_world(3), 1.0), found.datum), atol=4e-9)
    assert found.dropped == {"image without a pose": 3}
    assert len(open_one(recording, poses="keyframes")) == COUNT
    file = recording / "KeyFrameData" / f"KeyFrame_{stamp(3)}.txt"
    text = file.read_text()
    file.write_text(text.replace("# camToWorld", "# other"))
    with pytest.raises(DatasetError, match=rf"KeyFrame_{stamp(3)}.txt: expected a comment '# camToWorld'"):
        open_one(recording, poses="keyframes")
    file.write_text(re.sub(r"(quaternion\n)[^,]*,", r"\1", text))
    with pytest.raises(DatasetError, match=rf"KeyFrame_{stamp(3)}.txt:8: expected 7 fields, found 6"):
        open_one(recording, poses="keyframes")
    assert len(open_one(recording, Problems(keep_going=True), poses="keyframes", max_gap_s=0)) == 2


def test_the_right_camera_is_to_the_right(recording):
    left, right = open_one(recording), open_one(recording, camera="cam1")
    between = np.linalg.inv(left.T_map_cam) @ right.T_map_cam
    np.testing.assert_allclose(between, np.tile(np.linalg.inv(T_CAM1_CAM0), (COUNT, 1, 1)), atol=1e-9)
    assert between[0, 0, 3] > 0.3  # x of an optical frame is to the right
    np.testing.assert_allclose(left.T_map_base, right.T_map_base, atol=1e-9)
    np.testing.assert_allclose(left.rig["cam1_optical_frame"], right.T_base_cam, atol=1e-12)
    np.testing.assert_allclose(right.rig["cam0_optical_frame"], left.T_base_cam, atol=1e-12)
    assert right.datum == left.datum
    file = recording.parent / "calibration" / "undistorted_calib_stereo.txt"
    np.savetxt(file, np.linalg.inv(T_CAM1_CAM0))  # what "from right to left" would be
    with pytest.raises(DatasetError, match=r"expected T_cam1_cam0 with t_x about -0.3005 m .*found t_x 0.3005"):
        open_one(recording, camera="cam1")


def test_the_base_is_an_upright_imu(recording):
    found = open_one(recording)
    T_cam_imu = matrix(PUBLISHED["TS_cam_imu"])
    np.testing.assert_allclose(found.T_base_cam @ T_cam_imu, found.rig["imu"], atol=1e-12)
    # The published IMU has x left, y backward, z up.
    np.testing.assert_array_equal(found.rig["imu"][:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert found.T_base_cam[0, 2] > 0.99 and found.T_base_cam[2, 1] < -0.99
    np.testing.assert_allclose(
        np.linalg.inv(found.rig["gnss"]) @ found.rig["imu"], matrix(PUBLISHED["transform_gps_imu"])
    )


def test_images_of_the_lens_are_turned_as_kalibr_says(recording):
    flat, lens = open_one(recording), open_one(recording, images="distorted")
    assert lens.camera.distortion_model == "equidistant" and lens.camera.distortion == (0.01, -0.02, 0.003, -0.0004)
    turned = np.linalg.inv(flat.T_map_cam) @ lens.T_map_cam
    np.testing.assert_allclose(turned[:, :3, :3], np.tile(R_LENS.T, (COUNT, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(turned[:, :3, 3], 0.0, atol=1e-9)
    right = open_one(recording, images="distorted", camera="cam1")
    np.testing.assert_allclose(right.T_map_cam, open_one(recording, camera="cam1").T_map_cam, atol=1e-9)
    np.testing.assert_allclose(right.rig["cam0_optical_frame"], lens.T_base_cam, atol=1e-12)
    chain = recording.parent / "calibration" / "camchain.yaml"
    content = yaml.safe_load(chain.read_text())
    content["cam1"] = {"T_cn_cnm1": (T_CAM1_CAM0 @ np.block([[R_LENS.T, np.zeros((3, 1))], [np.zeros(3), 1]])).tolist()}
    chain.write_text(yaml.safe_dump(content))
    again = open_one(recording, images="distorted", camera="cam1")
    np.testing.assert_allclose(again.T_map_cam, right.T_map_cam, atol=1e-9)
    for text, message in (
        ("a: [", "camchain.yaml: expected YAML"),
        ("cam1: {}", "expected an entry cam0, found cam1"),
        ("cam0: {x: 1}", "cam0: expected T_cam_imu, found x"),
        ("cam0: {T_cam_imu: [1, 2]}", "cam0: T_cam_imu: expected a 4x4 matrix"),
        (f"cam0: {{T_cam_imu: {np.eye(4).tolist()}}}", "within 15 deg .*it is of another rig"),
    ):
        chain.write_text(text)
        with pytest.raises(DatasetError, match=message):
            open_one(recording, images="distorted")
    chain.unlink()
    with pytest.raises(DatasetError, match=r"camchain.yaml: no such file; .*take images=undistorted"):
        open_one(recording, images="distorted")


def test_fixes_of_the_receiver(recording):
    found = open_one(recording)
    at = 1_602_074_877_600_000_000
    np.testing.assert_array_equal(found.gnss.stamps_ns, [at, at + 100_000_000])
    np.testing.assert_allclose([found.gnss.latitude_deg[0], found.gnss.longitude_deg[0]], [48.25, 11.5], atol=1e-12)
    np.testing.assert_allclose(found.gnss.altitude_m, 587.0)  # above the ellipsoid
    assert found.gnss.frame_id == "gnss" and "gnss" in found.rig
    (recording / "septentrio.nmea").unlink()
    assert open_one(recording).gnss is None


def test_faulty_lines_of_the_receiver_are_counted_and_never_end_the_reading(recording):
    good, flipped = gga("235959.90"), gga("000000.10").replace("4815", "4816")
    short = gga("000000.20")[:40]
    south = gga("000000.30", latitude="3330.00000000,S")
    bad = gga("000000.40", latitude="9999.0,N")
    log = [good, flipped, short, gga("000000.25", "0"), good, south, bad, "\x00\xff$GP"]
    (recording / "septentrio.nmea").write_bytes("\n".join(log).encode("latin-1"))
    problems = Problems()
    track = open_one(recording, problems).gnss
    # The day is the one nearest to the images of a quarter to one: midnight is passed.
    assert track.latitude_deg.tolist() == [48.25, -33.5]
    assert np.diff(track.stamps_ns).tolist() == [400_000_000]
    assert problems.counts == {
        "NMEA line with a wrong checksum": 2,
        "NMEA line without a fix": 1,
        "NMEA line with a repeated stamp": 1,
        "NMEA line that is malformed": 1,
    }


def test_through_a_bag_and_back(recording, tmp_path):
    found = open_one(recording, camera="cam1")
    back = open_sequence(write_sequence(found, tmp_path / "bag"))
    np.testing.assert_array_equal(back.stamps_ns, found.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, found.T_map_cam, atol=1e-9)
    np.testing.assert_allclose(back.T_base_cam, found.T_base_cam, atol=1e-9)
    for index in range(len(found)):
        np.testing.assert_array_equal(back.image(index), found.image(index))
