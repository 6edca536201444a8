"""4Seasons recordings: the chain onto the Earth, the stereo direction, and every quirk of the files."""

from __future__ import annotations

import re
from decimal import Decimal

import cv2
import numpy as np
import pytest
import yaml

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.fourseasons import matches
from vloc_ros.datasets.fourseasons_files import read_transformations
from vloc_ros.datasets.nmea import checksum
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum, geodetic_to_ecef
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, so3_exp

START = 1_602_074_877_621_449_728  # 2020-10-07 12:47:57 UTC
STEP = 33_333_333
COUNT = 6
SCALES = [0.969397, 0.9694, 0.97, 0.971, 0.9705, 0.9699]
# As published: seven values each, the quaternions of six digits.
PUBLISHED = {
    "transform_S_AS": "0.000000,0.000000,0.000000,0.000590,-0.005845,0.005162,0.999969",
    "TS_cam_imu": "0.175412,0.003689,-0.058106,-0.007202,0.708623,-0.705546,-0.002350",
    "transform_w_gpsw": "0.321948,-0.029350,0.156487,-0.000720,-0.000459,0.125142,0.992138",
    "transform_gps_imu": "0.100000,0.200000,-0.300000,0.000000,0.000000,0.000000,1.000000",
    "transform_e_gpsw": "4172814.292643,857504.007380,4731704.606937,0.225469,0.276513,0.724007,0.590354",
}
T_CAM1_CAM0 = np.eye(4)
T_CAM1_CAM0[:3, 3] = -0.3004961618953472, 1e-4, -2e-4
R_LENS = so3_exp(np.array([0.002, -0.004, 0.003]))  # how rectification has turned cam0
HEADER = "# timestamp_ns, tran_x, tran_y, tran_z, quat_x, quat_y, quat_z, quat_w, scale, fusion_quality, v3"


def stamp(i: int) -> int:
    return START + i * STEP


def matrix(text: str) -> np.ndarray:
    v = np.array([float(x) for x in text.split(",")])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = quaternion_to_matrix(v[3:]), v[:3]
    return T


def cam_to_world(k: float) -> np.ndarray:
    """Forward along the odometry's z, in its own scale, turning a little."""
    T = np.eye(4)
    T[:3, :3] = so3_exp(np.array([0.01, 0.02 * k, 0.005]))
    T[:3, 3] = 0.1 * k, -0.02, 1.2 * k
    return T


def in_ecef(T: np.ndarray, scale: float) -> np.ndarray:
    """The published formula, word for word."""
    t = {name: matrix(text) for name, text in PUBLISHED.items()}
    S = np.diag([scale, scale, scale, 1.0])
    out = t["transform_e_gpsw"] @ np.linalg.inv(t["transform_w_gpsw"]) @ t["transform_S_AS"] @ S @ T
    out[:3, :3] /= scale
    return out


def in_map(T_ecef: np.ndarray, datum: Datum) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = datum.R_enu_ecef @ T_ecef[:3, :3]
    origin = geodetic_to_ecef(datum.latitude_deg, datum.longitude_deg, datum.altitude_m)
    out[:3, 3] = datum.R_enu_ecef @ (T_ecef[:3, 3] - origin)
    return out


def pose_text(T, separator: str) -> str:
    return separator.join(repr(float(v)) for v in [*T[:3, 3], *matrix_to_quaternion(T[:3, :3])])


def seconds(ns: int, digits: int = 9) -> str:
    return str(round(Decimal(ns) / 10**9, digits))


def gga(clock: str, quality: str = "4", latitude: str = "4815.00000000,N") -> str:
    body = f"GPGGA,{clock},{latitude},01130.00000000,E,{quality},17,0.9,540.5000,M,46.5000,M,1.0,0149"
    return f"${body}*{checksum(body):02X}"


def transformations(blank: bool = True) -> str:
    gap = "\n\n" if blank else "\n"
    parts = [f"# {name}: translation vector, rotation quaternion\n{text}" for name, text in PUBLISHED.items()]
    return gap.join([*parts, "# GNSS scale\n0.969397"]) + "\n"


def write_calibration(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in "01":
        size = "8 6\ncrop\n8 6\n"
        (folder / f"undistorted_calib_{n}.txt").write_text(f"Pinhole 7.0 7.0 4.2 2.5 0.0 0.0 0.0 0.0\n{size}")
        (folder / f"calib_{n}.txt").write_text(f"Equidistant 6.5 6.4 3.9 2.6 0.01 -0.02 0.003 -0.0004\n{size}")
    np.savetxt(folder / "undistorted_calib_stereo.txt", T_CAM1_CAM0)
    # Kalibr's is about the lens's cameras, before rectification has turned them.
    T = {"cam0": np.eye(4), "cam1": np.eye(4)}
    T["cam0"][:3, :3] = R_LENS
    chain = {
        name: {"T_cam_imu": (T[name] @ base @ matrix(PUBLISHED["TS_cam_imu"])).tolist(), "camera_model": "pinhole"}
        for name, base in (("cam0", np.eye(4)), ("cam1", T_CAM1_CAM0))
    }
    (folder / "camchain.yaml").write_text(yaml.safe_dump(chain))


def write_recording(path):
    path.mkdir(parents=True)
    for kind in ("undistorted", "distorted"):
        for camera in ("cam0", "cam1"):
            (path / f"{kind}_images" / camera).mkdir(parents=True)
            for i in range(COUNT):
                image = np.random.default_rng(i).integers(0, 255, (6, 8), dtype=np.uint8)
                cv2.imwrite(str(path / f"{kind}_images" / camera / f"{stamp(i)}.png"), image)
    rows = [f"{stamp(i)},{pose_text(cam_to_world(i), ',')},{SCALES[i]},0.9" for i in range(COUNT)]
    (path / "GNSSPoses.txt").write_text("\n".join([HEADER, *rows]) + "\n")
    (path / "Transformations.txt").write_text(transformations())
    lines = [f"{stamp(i)} {seconds(stamp(i))} 2.15" for i in range(COUNT)]
    (path / "times.txt").write_text("\n".join(lines) + "\n")
    # Rounded to 10 us, as published.
    lines = [f"{seconds(stamp(i), 5)} {pose_text(cam_to_world(i + 0.25), ' ')}" for i in range(COUNT)]
    (path / "result.txt").write_text("\n".join(lines) + "\n")
    (path / "KeyFrameData").mkdir()
    for i in (0, 3, 5):
        text = f"# timestamp\n{stamp(i)}\n\n# fx, fy, cx, cy, width, height\n7.0,7.0,4.2,2.5,8,6\n\n"
        text += f"# camToWorld: translation vector, rotation quaternion\n{pose_text(cam_to_world(i), ',')}\n\n"
        text += "# exposure time\n2.15\n\n# Point Cloud Data :\n# u,v,...\n# color information\n1,2,3,4\n"
        (path / "KeyFrameData" / f"KeyFrame_{stamp(i)}.txt").write_text(text)
    log = ["$GPRMC,124757.60,A*00", gga("124757.60"), gga("124757.70")]
    (path / "septentrio.nmea").write_text("\r\n".join(log) + "\r\n")
    return path


@pytest.fixture
def recording(tmp_path):
    write_calibration(tmp_path / "calibration")
    return write_recording(tmp_path / "recording_2020-10-07_14-47-51")


def open_one(path, problems=None, **options):
    return open_source(f"fourseasons:{path}", problems, **options)[0]


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


def test_through_a_bag_and_back(recording, tmp_path):
    found = open_one(recording, camera="cam1")
    back = open_sequence(write_sequence(found, tmp_path / "bag"))
    np.testing.assert_array_equal(back.stamps_ns, found.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, found.T_map_cam, atol=1e-9)
    np.testing.assert_allclose(back.T_base_cam, found.T_base_cam, atol=1e-9)
    for index in range(len(found)):
        np.testing.assert_array_equal(back.image(index), found.image(index))
