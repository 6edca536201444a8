"""kapture: world-to-device poses, rigs in rigs, camera models, timestamps that may be anything, missing poses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posed_folders import picture, poses, same_drive, text, truncate, wxyz

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.kapture import matches
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import CameraError, DatasetError, VlocError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import CameraModel

START = 1_600_000_000_000_000_000
STAMPS = [START + i * 10**8 for i in range(3)]
LENS = "PINHOLE, 8, 6, 7, 7.5, 4, 3"
CAMERA = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5)


def row(*fields):
    return ", ".join(str(f) for f in fields)


def device_row(first, device, T_device_world):
    return row(first, device, text(wxyz(T_device_world), ", "), text(T_device_world[:3, 3], ", "))


def write(folder, sensors, records, trajectories, rigs=None, images=True):
    folder = folder / "sensors"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"sensors": sensors, "records_camera": records, "trajectories": trajectories, "rigs": rigs}
    for name, rows in files.items():
        if rows is not None:
            (folder / f"{name}.txt").write_text("\n".join(["# kapture format: 1.1", "# columns", *rows]) + "\n")
    if images:
        for number, record in enumerate(records):
            picture(folder / "records_data" / record.split(",")[-1].strip(), number)


def records(device="cam0", stamps=STAMPS):
    return [row(s, device, f"{device}/{i:05d}.png") for i, s in enumerate(stamps)]


@pytest.fixture
def one(tmp_path):
    """One camera with poses of its own, rows in no order."""
    T = poses(3, spread_m=100.0)
    rows = [device_row(s, "cam0", inverse(t)) for s, t in zip(STAMPS, T, strict=True)]
    write(tmp_path / "mapping", [f"cam0, , camera, {LENS}", "g, , gnss, EPSG:4326"], records(), rows[::-1])
    return tmp_path / "mapping", T


def test_a_camera_is_a_drive(one):
    folder, T = one
    assert matches(folder) and detect(folder) == "kapture"
    (drive,) = open_source(str(folder))
    np.testing.assert_allclose(drive.T_map_cam, T, atol=1e-9)
    assert drive.stamps_ns.tolist() == STAMPS and drive.camera == CAMERA and drive.name == "mapping"
    np.testing.assert_array_equal(drive.image(2), picture(folder / "again.png", 2))
    assert not drive.dropped and not drive.rig


def test_poses_are_world_to_device(one):
    folder, _ = one
    # Looking along +x of a z-up world from (10, 20, 2): t = -R C with x_cam = -y, y_cam = -z, z_cam = x.
    (folder / "sensors" / "trajectories.txt").write_text(f"{STAMPS[0]}, cam0, 0.5, 0.5, -0.5, 0.5, 20, 2, -10\n")
    (drive,) = open_source(str(folder), Problems())
    np.testing.assert_allclose(drive.T_map_cam[0, :3, 3], [10, 20, 2], atol=1e-12)
    np.testing.assert_allclose(drive.T_map_cam[0, :3, 2], [1, 0, 0], atol=1e-12)


def test_records_in_any_order_are_sorted(one):
    folder, T = one
    file = folder / "sensors" / "records_camera.txt"
    file.write_text("\n".join(reversed(records())))  # the format asks for no order
    (drive,) = open_source(str(folder))
    assert drive.stamps_ns.tolist() == STAMPS
    np.testing.assert_allclose(drive.T_map_cam, T, atol=1e-9)


@pytest.fixture
def nested(tmp_path):
    """A car that holds a stereo head, which holds two cameras; a third camera sits on the car itself."""
    T_world_car = poses(3, 1, 50.0)
    T_head_car, T_left_head, T_right_head, T_rear_car = poses(4, 2, 1.0)
    rigs = [
        device_row("head", "left", T_left_head),  # before the rig that holds the head
        device_row("head", "right", T_right_head),
        device_row("car", "head", T_head_car),
        device_row("car", "rear", T_rear_car),
    ]
    names = ("left", "right", "rear")
    rows = [device_row(s, "car", inverse(t)) for s, t in zip(STAMPS, T_world_car, strict=True)]
    write(
        tmp_path / "k",
        [f"{n}, {n}, camera, {LENS}" for n in names],
        [r for n in names for r in records(n)],
        rows,
        rigs,
    )
    T_left_car = T_left_head @ T_head_car
    expected = {"left": T_left_car, "right": T_right_head @ T_head_car, "rear": T_rear_car}
    return tmp_path / "k", T_world_car, expected


def test_rigs_may_hold_rigs(nested):
    folder, T_world_car, mounted = nested
    drives = {d.name: d for d in open_source(str(folder))}
    assert list(drives) == ["k-left", "k-right", "k-rear"]
    for name, T_camera_car in mounted.items():
        expected = T_world_car @ inverse(T_camera_car)
        np.testing.assert_allclose(drives[f"k-{name}"].T_map_cam, expected, atol=1e-9)
    # Where the others are: base_link is at the drive's own camera.
    left, right = drives["k-left"], drives["k-right"]
    assert sorted(left.rig) == ["car", "head", "rear", "right"]
    for frame in range(3):
        np.testing.assert_allclose(left.T_map_base[frame] @ left.rig["right"], right.T_map_cam[frame], atol=1e-9)
        np.testing.assert_allclose(left.T_map_base[frame] @ left.rig["car"], T_world_car[frame], atol=1e-9)


def test_a_pose_of_its_own_comes_before_the_rigs(nested):
    folder, _, _ = nested
    T = poses(1, 9)[0]
    with (folder / "sensors" / "trajectories.txt").open("a") as file:
        file.write(device_row(STAMPS[1], "left", inverse(T)) + "\n")
    (drive,) = open_source(f"kapture:{folder},camera=left")
    np.testing.assert_allclose(drive.T_map_cam[1], T, atol=1e-9)


def test_one_camera_is_named(nested):
    folder, _, _ = nested
    (drive,) = open_source(f"kapture:{folder},camera=rear")
    assert len(drive) == 3 and drive.name == "k"
    with pytest.raises(DatasetError, match=r"sensors\.txt: expected the camera 'front' among left, right, rear"):
        open_source(f"kapture:{folder},camera=front")


@pytest.mark.parametrize("rows", [["a, a, 1,0,0,0, 0,0,0"], ["a, b, 1,0,0,0, 0,0,0", "b, a, 1,0,0,0, 0,0,0"]])
def test_rigs_in_circles_are_refused(one, rows):
    folder, _ = one
    (folder / "sensors" / "rigs.txt").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=rf"rigs\.txt:{len(rows)}: expected rigs without loops"):
        open_source(str(folder))


def test_images_without_poses_are_counted(one):
    folder, T = one
    file = folder / "sensors" / "trajectories.txt"
    T_device_world = inverse(T)
    half = row(STAMPS[1], "cam0", "", "", "", "", text(T_device_world[1][:3, 3], ", "))  # a position alone
    file.write_text("\n".join([device_row(STAMPS[0], "cam0", T_device_world[0]), half]))
    problems = Problems()
    (drive,) = open_source(str(folder), problems)
    np.testing.assert_allclose(drive.T_map_cam, T[:1], atol=1e-9)
    assert problems.counts == {"pose that is incomplete": 1, "image without a pose": 2} == drive.dropped
    file.write_text("")
    with pytest.raises(
        DatasetError, match=r"records_camera\.txt: expected images with poses.*3 x image without a pose"
    ):
        open_source(str(folder))
    file.unlink()
    with pytest.raises(DatasetError, match=r"trajectories\.txt: expected the poses, found no file"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("option", "times", "stamps"),
    [
        ("stamp_unit=us", [1_600_000_000_000_000, 1_600_000_000_100_000], [START, START + 10**8]),
        ("stamp_unit=s", [1_600_000_000, 1_600_000_001], [START, START + 10**9]),
        ("stamp_unit=frame", ["0000", "0005"], [10**9, 10**9 + 5 * 10**8]),
        ("stamp_unit=frame,rate_hz=2", [3, 4], [25 * 10**8, 30 * 10**8]),
        ("stamp_unit=ms,since_1970=false", [40, 80], [10**9 + 4 * 10**7, 10**9 + 8 * 10**7]),
    ],
)
def test_what_timestamps_are_is_named(tmp_path, option, times, stamps):
    rows = [device_row(int(t), "cam0", np.eye(4)) for t in times]  # 5 and 0005 are one timestamp
    write(tmp_path, [f"cam0, , camera, {LENS}"], records(stamps=times), rows)
    assert open_source(f"kapture:{tmp_path},{option}")[0].stamps_ns.tolist() == stamps
    with pytest.raises(
        DatasetError, match=r"records_camera\.txt:3: expected a stamp in ns.*stamp_unit=us, ms, s, or fr"
    ):
        open_source(str(tmp_path))
    problems = Problems(keep_going=True)
    with pytest.raises(DatasetError, match="2 x stamp of another unit"):
        open_source(str(tmp_path), problems)


def test_a_camera_for_every_image_is_joined_on_request(tmp_path):
    sensors = [f"c{i}, , camera, {LENS}" for i in range(3)]
    rows = [device_row(i, f"c{i}", inverse(t)) for i, t in enumerate(poses(3))]
    write(tmp_path, sensors, [row(i, f"c{i}", f"{i}.png") for i in range(3)], rows)
    assert [len(d) for d in open_source(f"kapture:{tmp_path},stamp_unit=frame")] == [1, 1, 1]
    (drive,) = open_source(f"kapture:{tmp_path},stamp_unit=frame,join=true")
    np.testing.assert_allclose(drive.T_map_cam, poses(3), atol=1e-9)


@pytest.mark.parametrize(
    ("lens", "model", "distortion"),
    [
        ("SIMPLE_PINHOLE, 8, 6, 7, 4, 3", "none", ()),
        ("SIMPLE_RADIAL, 8, 6, 7, 4, 3, 0.1", "plumb_bob", (0.1, 0, 0, 0)),
        ("RADIAL, 8, 6, 7, 4, 3, 0.1, 0.2", "plumb_bob", (0.1, 0.2, 0, 0)),
        ("OPENCV, 8, 6, 7, 7, 4, 3, 0.1, 0.2, 0.01, 0.02", "plumb_bob", (0.1, 0.2, 0.01, 0.02)),
        ("OPENCV_FISHEYE, 8, 6, 7, 7, 4, 3, 0.1, 0.2, 0.01, 0.02", "equidistant", (0.1, 0.2, 0.01, 0.02)),
        ("FULL_OPENCV, 8, 6, 7, 7, 4, 3, 1, 2, 3, 4, 5, 6, 7, 8", "rational_polynomial", (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_camera_models(one, lens, model, distortion):
    folder, _ = one
    (folder / "sensors" / "sensors.txt").write_text(f"# kapture format: 1.1\ncam0, a name, camera, {lens}\n")
    camera = open_source(str(folder))[0].camera
    assert camera == CameraModel(8, 6, 7.0, 7.0, 3.5, 2.5, model, distortion)


@pytest.mark.parametrize(
    ("lens", "error", "message"),
    [
        ("UNKNOWN_CAMERA, 8, 6", CameraError, r":3: cam1: expected a camera model out of .*found UNKNOWN_CAMERA"),
        ("FOV, 8, 6, 7, 7, 4, 3, 0.9", CameraError, r":3: cam1: .*found FOV"),
        ("PINHOLE, 8, 6, 7, 4, 3", CameraError, r":3: cam1: expected 4 parameters of PINHOLE, found 3"),
        ("PINHOLE, 8, 6, 0, 0, 4, 3", CameraError, r":3: cam1: .*positive focal lengths"),
        ("PINHOLE, 8, 6, 7, x, 4, 3", DatasetError, r":3: expected numbers"),
        ("PINHOLE", DatasetError, r":3: expected a camera model, width, height"),
    ],
)
def test_a_camera_that_cannot_be_used(tmp_path, lens, error, message):
    sensors = [f"cam1, , camera, {lens}", f"cam0, , camera, {LENS}"]
    rows = [device_row(s, device, np.eye(4)) for s in STAMPS for device in ("cam0", "cam1")]
    write(tmp_path, sensors, records() + records("cam1"), rows)
    with pytest.raises(error, match=r"sensors\.txt" + message):
        open_source(str(tmp_path))
    problems = Problems(keep_going=True)
    (drive,) = open_source(str(tmp_path), problems)
    assert len(drive) == 3 and problems.counts["image of a camera that cannot be used"] == 3
    assert sum(problems.counts.values()) == 4


def pose_row(*values):
    return row(STAMPS[1], "cam0", *values)


FAULTS = {
    "columns": ("trajectories", pose_row(1, 0, 0, 0, 0, 0), r":4: expected 9 fields, found 8"),
    "nan": ("trajectories", pose_row(1, 0, 0, 0, 0, "nan", 0), r":4: expected finite numbers"),
    "text": ("trajectories", pose_row(1, 0, 0, 0, 0, "y", 0), r":4: expected numbers"),
    "unit": (
        "trajectories",
        pose_row(1, 1, 0, 0, 0, 0, 0),
        r":4: expected a unit quaternion, found one of length 1\.4",
    ),
    "time": (
        "trajectories",
        row(1.5, "cam0", 1, 0, 0, 0, 0, 0, 0),
        r":4: expected an integer as timestamp, found '1\.5'",
    ),
    "twice": (
        "trajectories",
        row(STAMPS[0], "cam0", 1, 0, 0, 0, 0, 0, 0),
        r":4: expected one pose of cam0 at \d+, found",
    ),
    "record columns": ("records_camera", row(STAMPS[1], "cam0"), r":4: expected 3 fields, found 2"),
    "record time": (
        "records_camera",
        row("now", "cam0", "x.png"),
        r":4: expected an integer as timestamp, found 'now'",
    ),
    "record device": ("records_camera", row(STAMPS[1], "cam7", "x.png"), r":4: expected a camera 'cam7'.*found none"),
    "record kind": ("records_camera", row(STAMPS[1], "g", "x.png"), r":4: .*found a sensor of kind 'gnss'"),
    "record twice": ("records_camera", row(STAMPS[0], "cam0", "cam0/00001.png"), r":4: expected one image a stamp.*:3"),
    "record image": (
        "records_camera",
        row(STAMPS[1], "cam0", "gone.png"),
        r":4: expected the image .*gone\.png, which",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_line_is_named_or_counted(one, kind):
    folder, T = one
    rows = [device_row(s, "cam0", inverse(t)) for s, t in zip(STAMPS, T, strict=True)]
    (folder / "sensors" / "trajectories.txt").write_text("\n".join(["# kapture format: 1.1", "#", *rows]))
    file, line, message = FAULTS[kind]
    path = folder / "sensors" / f"{file}.txt"
    lines = path.read_text().split("\n")
    lines[3] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=rf"{file}\.txt" + message):
        open_source(str(folder))
    problems = Problems(keep_going=True)
    (drive,) = open_source(str(folder), problems)
    np.testing.assert_allclose(drive.T_map_cam, T[[0, 2]], atol=1e-9)
    problems.counts.pop("image without a pose", None)
    assert list(problems.counts.values()) == [1]


def test_large_coordinates_need_an_origin(one):
    folder, T = one
    far = T.copy()
    far[:, :3, 3] += [620_000.0, 5_735_000.0, 100.0]
    rows = [device_row(s, "cam0", inverse(t)) for s, t in zip(STAMPS, far, strict=True)]
    (folder / "sensors" / "trajectories.txt").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=r"records_camera\.txt:\d: expected coordinates .*origin=\[6"):
        open_source(str(folder))
    (drive,) = open_source(f"kapture:{folder},origin=[620000,5735000,100]")
    np.testing.assert_allclose(drive.T_map_cam, T, atol=1e-6)  # t = -R C in the file: 1e-9 of six million metres


def test_images_of_another_size_and_truncated_ones(one):
    folder, _ = one
    images = folder / "sensors" / "records_data" / "cam0"
    picture(images / "00000.png", size=(16, 12))
    with pytest.raises(DatasetError, match=r"00000\.png: expected 8x6 pixels as in the calibration, found 16x12"):
        open_source(str(folder))
    truncate(images / "00001.png")
    (drive,) = open_source(str(folder), Problems(keep_going=True))
    assert len(drive) == 1 and drive.dropped == {"image of another size": 1, "image that cannot be decoded": 1}


def test_positions_of_a_receiver_come_with_the_drive(one):
    folder, _ = one
    sensors = f"cam0, , camera, {LENS}\ng, , gnss, EPSG:4326\nh, , gnss\nutm, , gnss, EPSG:32630\n"
    (folder / "sensors" / "sensors.txt").write_text(sensors)
    file = folder / "sensors" / "records_gnss.txt"
    good = [row(s, "g", -1.25, 51.75 + i, 100.5 + i, 0, 0) for i, s in enumerate(STAMPS)]
    others = [row(STAMPS[0], "utm", 620000, 5735000, 100, 0, 0), row(STAMPS[0], "h", 1, 2, 3, 0, 0)]
    file.write_text("\n".join([*good[::-1], *others]))
    problems = Problems()
    (drive,) = open_source(str(folder), problems)
    assert drive.gnss.stamps_ns.tolist() == STAMPS and drive.gnss.frame_id == "g"
    assert (
        drive.gnss.latitude_deg.tolist() == [51.75, 52.75, 53.75] and drive.gnss.longitude_deg.tolist() == [-1.25] * 3
    )
    assert drive.gnss.altitude_m.tolist() == [100.5, 101.5, 102.5]
    assert problems.counts == {"position of another system": 1, "position of another receiver": 1}
    for line, message in {
        row(STAMPS[0], "g", 51.75, -1.25, 0, 0, 0): ":4: expected one position a stamp",
        row(STAMPS[0] + 1, "g", 51.75, -101.25, 0, 0, 0): ":4: expected longitude, latitude.*x is the longitude",
        row(STAMPS[0] + 1, "x", 1, 1, 0, 0, 0): ":4: expected a gnss 'x' in sensors",
        row(STAMPS[0] + 1, "g", 1, "nan", 0, 0, 0): ":4: expected finite",
        row(17, "g", 1, 1, 0, 0, 0): ":4: expected a stamp in ns",
        row(17, "g", 1, 1, 0): ":4: expected 7 fields",
    }.items():
        file.write_text("\n".join([*good, line]))
        with pytest.raises(DatasetError, match=r"records_gnss\.txt" + message):
            open_source(str(folder))
        problems = Problems(keep_going=True)
        assert len(open_source(str(folder), problems)[0].gnss.stamps_ns) == 3
        assert list(problems.counts.values()) == [1]


def test_other_versions_and_no_files(one):
    folder, _ = one
    path = folder / "sensors" / "sensors.txt"
    path.write_text(path.read_text().replace("1.1", "2.0"))
    with pytest.raises(DatasetError, match=r"sensors\.txt:1: expected kapture format 1\.0 or 1\.1, found '2\.0'"):
        open_source(str(folder))
    path.write_text(f"cam0, , camera, {LENS}\ncam0, , camera, {LENS}\n")
    with pytest.raises(DatasetError, match=r"sensors\.txt:2: expected one sensor cam0"):
        open_source(str(folder))
    path.write_text("cam0, camera\n")
    with pytest.raises(DatasetError, match=r"sensors\.txt:1: expected id, name, kind .* found 2 fields"):
        open_source(str(folder))
    path.unlink()
    assert not matches(folder)
    with pytest.raises(DatasetError, match=r"sensors\.txt: no such file"):
        open_source(f"kapture:{folder}")


@settings(max_examples=60)
@given(file=st.sampled_from(["sensors", "rigs", "trajectories", "records_camera", "records_gnss"]), data=st.data())
def test_no_content_is_a_bug(tmp_path_factory, file, data):
    folder = tmp_path_factory.mktemp("k")
    rows = [device_row(i, "rig", np.eye(4)) for i in (7, 8)]
    rigs = [device_row("rig", "cam0", np.eye(4))]
    write(folder, [f"cam0, , camera, {LENS}", "g, , gnss"], records(stamps=[7, 8]), rows, rigs)
    (folder / "sensors" / "records_gnss.txt").write_text("7, g, 1, 2, 3, 0, 0\n")
    path = folder / "sensors" / f"{file}.txt"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([b", ", b"nan", b"1e400", b"9" * 40, b"\n"])))
    path.write_bytes(whole[:at] + junk + whole[at + data.draw(st.integers(0, 12)) :])
    for problems in (Problems(), Problems(keep_going=True)):
        for unit in ("stamp_unit=frame", "stamp_unit=ns,since_1970=false"):
            try:
                drives = open_source(f"kapture:{folder},{unit}", problems)
            except VlocError:
                continue
            assert all(np.isfinite(d.T_map_cam).all() for d in drives)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), depth=st.integers(0, 3))
def test_any_chain_of_rigs_reads_back(tmp_path_factory, seed, depth):
    folder = tmp_path_factory.mktemp("k")
    mounts = poses(depth + 1, seed, 2.0)
    T_world_camera = poses(1, seed + 1, 1000.0)[0]
    chain = ["cam0", *(f"rig{i}" for i in range(depth))]
    rigs, T_camera_top = [], np.eye(4)
    for device, rig, T in zip(chain[:-1], chain[1:], mounts, strict=False):
        rigs.append(device_row(rig, device, T))
        T_camera_top = T_camera_top @ T
    rows = [device_row(START, chain[-1], inverse(T_world_camera @ T_camera_top))]
    write(folder, [f"cam0, , camera, {LENS}"], records(stamps=[START]), rows, rigs)
    np.testing.assert_allclose(open_source(str(folder))[0].T_map_cam[0], T_world_camera, atol=1e-9)


def test_through_a_bag_and_back(nested, tmp_path):
    drive = open_source(f"kapture:{nested[0]},camera=left")[0]
    same_drive(open_sequence(write_sequence(drive, tmp_path / "bag")), drive)
