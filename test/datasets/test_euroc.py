"""EuRoC folders: the body is no base, the truth's own sensor counts, and every fault is named by file and line."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.euroc import matches
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion, rotation_angle, so3_exp

START = 1_403_636_579_763_555_584
STEP = 50_000_123
# The published mounting of cam0 on V1 and MH: x up, y right, z forward of the body.
T_BODY_CAM0 = np.array(
    [
        [0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975],
        [0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768],
        [-0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def sensor(T, **more) -> str:
    content = {"sensor_type": "camera", "T_BS": {"cols": 4, "rows": 4, "data": np.asarray(T).reshape(-1).tolist()}}
    return "# General sensor definitions.\n" + yaml.safe_dump({**content, **more})


def camera_yaml(T, **more) -> str:
    return sensor(
        T,
        **{
            "camera_model": "pinhole",
            "resolution": [8, 6],
            "intrinsics": [7.0, 7.5, 3.5, 2.5],
            "distortion_model": "radial-tangential",
            "distortion_coefficients": [-0.28, 0.07, 0.0002, 1.76e-05],
            **more,
        },
    )


def body_pose(k: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = so3_exp(np.array([0.1, -0.2, 0.05 * k]))
    T[:3, 3] = 0.878612 + 0.1 * k, 2.142470, 0.947262
    return T


def row(stamp: int, T, columns: int = 17) -> str:
    x, y, z, w = matrix_to_quaternion(T[:3, :3])
    values = [*T[:3, 3], w, x, y, z, *([0.0] * (columns - 8))]
    return ",".join([str(stamp), *(repr(float(v)) for v in values)])


def drive(path, count: int = 5):
    root = path / "mav0"
    images = []
    for camera, shift in (("cam0", 0.0), ("cam1", 0.11)):
        (root / camera / "data").mkdir(parents=True)
        T = T_BODY_CAM0.copy()
        T[1, 3] += shift
        (root / camera / "sensor.yaml").write_text(camera_yaml(T))
        lines = ["#timestamp [ns],filename"]
        for i in range(count):
            image = np.random.default_rng(i).integers(0, 255, (6, 8), dtype=np.uint8)
            cv2.imwrite(str(root / camera / "data" / f"{START + i * STEP}.png"), image)
            lines.append(f"{START + i * STEP},{START + i * STEP}.png")
            images.append(image)
        (root / camera / "data.csv").write_text("\r\n".join(lines) + "\r\n")  # as published
    (root / "imu0").mkdir()
    (root / "imu0" / "sensor.yaml").write_text(sensor(np.eye(4)))
    write_truth(root, [row(START + (i - 1) * STEP // 2, body_pose(0.5 * (i - 1))) for i in range(2 * count + 1)])
    return path


def write_truth(root, lines, name="state_groundtruth_estimate0", T_body_sensor=None) -> None:
    (root / name).mkdir(exist_ok=True)
    header = "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z []"
    (root / name / "data.csv").write_text("\r\n".join([header, *lines]) + "\r\n")
    (root / name / "sensor.yaml").write_text(sensor(np.eye(4) if T_body_sensor is None else T_body_sensor))


@pytest.fixture
def source(tmp_path):
    return drive(tmp_path / "V1_01_easy")


def test_poses_of_the_body_become_poses_of_the_camera(source):
    found = open_sequence(source)
    assert detect(source) == detect(source / "mav0") == "euroc" and found.name == "V1_01_easy"
    np.testing.assert_array_equal(found.stamps_ns, START + STEP * np.arange(5))
    for i in range(5):
        np.testing.assert_allclose(found.T_map_cam[i], body_pose(i) @ T_BODY_CAM0, atol=1e-9)
    assert found.camera.distortion == (-0.28, 0.07, 0.0002, 1.76e-05) and found.camera.distortion_model == "plumb_bob"
    assert found.camera.size == (8, 6) and (found.camera.fx, found.camera.cy) == (7.0, 2.5)
    assert open_sequence(source / "mav0").name == "V1_01_easy" and not found.dropped


def test_the_base_is_upright_where_the_body_is_not(source):
    found = open_sequence(source)
    # Looking forward and level, but for the tilt of the camera on the IMU.
    forward, down = found.T_base_cam[:3, 2], found.T_base_cam[:3, 1]
    assert forward[0] > 0.99 and down[2] < -0.99
    # x forward is the body's z, y left its -y, z up its x.
    np.testing.assert_array_equal(found.rig["imu0"][:3, :3], [[0, 0, 1], [0, -1, 0], [1, 0, 0]])
    np.testing.assert_allclose(found.T_map_base[3], body_pose(3) @ np.linalg.inv(found.rig["imu0"]), atol=1e-9)
    other = open_source(f"euroc:{source},camera=cam1")[0]
    np.testing.assert_allclose(other.T_map_base, found.T_map_base, atol=1e-9)  # one base for both
    np.testing.assert_allclose(other.T_base_cam, found.rig["cam1_optical_frame"], atol=1e-12)
    np.testing.assert_allclose(other.rig["cam0_optical_frame"], found.T_base_cam, atol=1e-12)
    # The body's y is to the right: so is cam1.
    np.testing.assert_allclose(other.T_base_cam[:3, 3] - found.T_base_cam[:3, 3], [0, -0.11, 0], atol=1e-12)


def test_motion_capture_knows_its_markers_and_not_the_body(source):
    T_body_marker = np.eye(4)
    T_body_marker[:3, :3], T_body_marker[:3, 3] = so3_exp(np.array([0.0, 0.3, 0.1])), (0.08, 0.01, -0.12)
    lines = [row(START + i * STEP, body_pose(i) @ T_body_marker, 8) for i in range(5)]
    write_truth(source / "mav0", lines, "vicon0", T_body_marker)
    found = open_source(f"euroc:{source},truth=vicon0")[0]
    np.testing.assert_allclose(found.T_map_cam, open_sequence(source).T_map_cam, atol=1e-9)


def test_frames_between_poses_are_interpolated_and_gaps_are_left_out(source):
    lines = [row(START + i * STEP, body_pose(i)) for i in (0, 2, 4)]
    write_truth(source / "mav0", lines)
    found = open_source(f"euroc:{source},max_gap_s=0.11")[0]
    np.testing.assert_allclose(found.T_map_cam[1, :3, 3], (body_pose(1) @ T_BODY_CAM0)[:3, 3], atol=2e-3)
    assert rotation_angle(found.T_map_cam[1, :3, :3], (body_pose(1) @ T_BODY_CAM0)[:3, :3]) < 1e-3
    alone = open_source(f"euroc:{source},max_gap_s=0.05")[0]
    np.testing.assert_array_equal(alone.stamps_ns, found.stamps_ns[::2])
    assert alone.dropped == {"image without a pose": 2}
    write_truth(source / "mav0", [row(START - 10**10 + i * STEP, body_pose(i)) for i in range(3)])
    with pytest.raises(
        DatasetError, match=r"expected images while poses were recorded at most 0.1 s apart, found none"
    ):
        open_sequence(source)


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        ("1,2,3", r"data.csv:3: expected 8 or 17 fields, found 3", "row of the wrong length"),
        (
            row(START, body_pose(0)).replace("0.947262", "nan"),
            r":3: expected finite numbers",
            "row with NaN or infinity",
        ),
        (
            row(START // 1000, body_pose(0)),
            r":3: expected a stamp in ns .*; in us it would be",
            "stamp that cannot be read",
        ),
        (row(START, body_pose(0)).replace(".", "x", 1), r":3: expected numbers", "row with text for a number"),
        (
            f"{START},1,2,3,1,1,1,1" + ",0" * 9,
            r":3: .*unit quaternion, .*length 2",
            "quaternion that is not of unit length",
        ),
        (row(START + (-STEP) // 2, body_pose(0)), r":3: expected one pose a stamp", "repeated stamp"),
        (row(START - STEP, body_pose(0)), r":3: expected increasing stamps", "stamp out of order"),
    ],
)
def test_a_broken_truth_is_named_by_line_or_counted(source, line, message, kind):
    file = source / "mav0" / "state_groundtruth_estimate0" / "data.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(DatasetError, match=message):
        open_sequence(source)
    found = open_source(f"euroc:{source}", Problems(keep_going=True))[0]
    assert found.dropped == {kind: 1} and len(found) == 5
    np.testing.assert_allclose(found.T_map_cam[3], body_pose(3) @ T_BODY_CAM0, atol=1e-9)


def test_a_broken_list_of_images_is_named_by_line_or_counted(source):
    file = source / "mav0" / "cam0" / "data.csv"
    (file.parent / "data" / f"{START + STEP}.png").unlink()
    with pytest.raises(DatasetError, match=rf"data.csv:3: expected the image .*{START + STEP}.png, found no file"):
        open_sequence(source)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[1], lines[3], lines[2], "12,12.png", *lines[4:]]))
    problems = Problems(keep_going=True)
    found = open_source(f"euroc:{source}", problems)[0]
    np.testing.assert_array_equal(found.stamps_ns, START + STEP * np.array([0, 2, 3, 4]))
    assert found.dropped == {
        "repeated stamp": 1,
        "stamp out of order": 1,
        "listed image that is missing": 1,
        "stamp that cannot be read": 1,
    }
    for path in (file.parent / "data").glob("*"):
        path.unlink()
    with pytest.raises(DatasetError, match="expected images, found none of 7 that are listed"):
        open_source(f"euroc:{source}", Problems(keep_going=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"sensor.yaml: no such file; it holds the calibration"),
        ("a: [", r"sensor.yaml: expected YAML"),
        ("12", r"sensor.yaml: expected names with values, found int"),
        (camera_yaml(T_BODY_CAM0, camera_model="omni"), r"camera_model: expected pinhole, found 'omni'"),
        (camera_yaml(T_BODY_CAM0, distortion_model="fov"), r"distortion_model: expected .*found 'fov'"),
        (camera_yaml(T_BODY_CAM0, intrinsics=[1.0, 2.0]), r"intrinsics: expected 4 numbers, found \[1.0, 2.0\]"),
        (camera_yaml(T_BODY_CAM0, intrinsics=[0.0] * 4), r"sensor.yaml: camera: expected positive focal lengths"),
        (camera_yaml(2 * T_BODY_CAM0), r"sensor.yaml: T_BS: expected last row"),
        (camera_yaml(T_BODY_CAM0, T_BS=3), r"T_BS: expected rows, cols and 16 values"),
        (camera_yaml(T_BODY_CAM0, resolution=[752, 480]), r"png: expected 752x480 pixels as in .*found 8x6"),
    ],
)
def test_a_broken_calibration_is_named(source, text, message):
    file = source / "mav0" / "cam0" / "sensor.yaml"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_sequence(source)


def test_what_is_missing_is_named(source, tmp_path):
    assert not matches(tmp_path) and not matches(tmp_path / "no")
    with pytest.raises(DatasetError, match=r"cam2/data.csv: no such file; cameras with images: cam0, cam1"):
        open_source(f"euroc:{source},camera=cam2")
    with pytest.raises(DatasetError, match=r"leica0/data.csv: no such file; it holds the poses.*truth=FOLDER"):
        open_source(f"euroc:{source},truth=leica0")
    (source / "mav0" / "cam1" / "sensor.yaml").write_text("T_BS: 3")
    with pytest.raises(DatasetError, match=r"cam1/sensor.yaml: T_BS: .*--keep-going without it"):
        open_sequence(source)
    assert "cam1_optical_frame" not in open_source(f"euroc:{source}", Problems(keep_going=True))[0].rig


def test_a_calibration_as_opencv_writes_it_and_a_fisheye(source):
    file = source / "mav0" / "cam0" / "sensor.yaml"
    file.write_text("%YAML:1.0\n" + camera_yaml(T_BODY_CAM0, distortion_model="equidistant"))
    assert open_sequence(source).camera.distortion_model == "equidistant"


def test_through_a_bag_and_back(source, tmp_path):
    found = open_sequence(source)
    back = open_sequence(write_sequence(found, tmp_path / "bag"))
    np.testing.assert_array_equal(back.stamps_ns, found.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, found.T_map_cam, atol=1e-9)
    np.testing.assert_allclose(back.T_base_cam, found.T_base_cam, atol=1e-9)
    assert back.camera.distortion == found.camera.distortion
    for index in range(len(found)):
        np.testing.assert_array_equal(back.image(index), found.image(index))
