"""Oxford RobotCar: layout, stamps, chunks, and faults in its tables."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from robotcar_drives import (
    INS_HEADER,
    NAME,
    RTK_HEADER,
    START_US,
    H,
    W,
    base_poses,
    edit,
    opened,
    pose_row,
    unit_poses,
    write_drive,
    write_models,
    write_tables,
)

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar import DATUM
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum

# ---------------------------------------------------------------- layout and poses


def test_a_drive_is_found_out_and_its_poses_come_back(tmp_path):
    drive = write_drive(tmp_path)
    assert detect(drive) == "robotcar" and detect(tmp_path) == "robotcar"
    found = opened(drive)
    T = base_poses(6)
    np.testing.assert_array_equal(found.stamps_ns, [(START_US + 100_000 * k) * 1000 for k in range(6)])
    # A latitude in degrees resolves 4e-10 m, and ECEF 9e-10 m: the positions can be no better.
    np.testing.assert_allclose(found.T_map_base[:, :3, 3], T[:, :3, 3], atol=5e-9, rtol=0)
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], T[:, :3, :3], atol=1e-9, rtol=0)
    assert found.datum == Datum(*DATUM) and found.camera.size == (W, H) and found.dropped == {}
    assert (found.camera.fx, found.camera.fy, found.camera.cx, found.camera.cy) == (10.5, 10.25, 3.5, 2.5)
    np.testing.assert_array_equal(found.image(2)[2:4, 2:4], np.full((2, 2, 3), (22, 120, 220)))
    assert [d.name for d in open_source(str(tmp_path))] == [NAME]


def test_a_bag_of_it_has_the_same_stamps_poses_and_images(tmp_path):
    drive = opened(write_drive(tmp_path), undistort=True)
    bag = write_sequence(drive, tmp_path / "bag")
    again = open_source(str(bag))[0]
    np.testing.assert_array_equal(again.stamps_ns, drive.stamps_ns)
    np.testing.assert_allclose(again.T_map_cam, drive.T_map_cam, atol=1e-9, rtol=0)
    for index in range(len(drive)):
        np.testing.assert_array_equal(again.image(index), drive.image(index))


def test_poses_are_interpolated_never_snapped_or_extrapolated(tmp_path):
    """The data set's own tools take the earlier pose, and NaN beyond the table."""
    drive = write_drive(tmp_path, count=5, tables=False)
    T = unit_poses(np.stack([np.eye(4), np.eye(4)]))
    T[1, 0, 3] += 8.0
    rows = [pose_row(START_US + 50_000, T[0]), pose_row(START_US + 350_000, T[1])]
    write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    problems = Problems()
    found = opened(drive, problems)
    assert len(found) == 3 and np.isfinite(found.T_map_cam).all()
    along = found.T_map_base[:, 0, 3] - found.T_map_base[0, 0, 3]
    np.testing.assert_allclose(along, [0, 8 / 3, 16 / 3], atol=1e-4)  # the Earth is round
    assert found.dropped == {"image without a pose": 2} == problems.counts
    with pytest.raises(DatasetError, match="expected images while poses were recorded"):
        opened(drive, max_gap_s=0.2)


def test_a_gap_of_the_truth_is_a_gap_of_the_drive(tmp_path):
    drive = write_drive(tmp_path, count=12, tables=False)
    T = unit_poses(base_poses(12))
    rows = [pose_row(START_US + 100_000 * k, T[k], status=None) for k in (0, 1, 2, 9, 10, 11)]
    write_tables(tmp_path / "rtk" / NAME, "rtk.csv", RTK_HEADER, rows)
    found = opened(drive, poses="rtk")
    np.testing.assert_array_equal(found.stamps_ns // 100_000_000 - START_US // 100_000, [0, 1, 2, 9, 10, 11])
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], base_poses(12)[[0, 1, 2, 9, 10, 11], :3, :3], atol=1e-9)
    assert found.dropped == {"image without a pose": 6}


@pytest.mark.parametrize("place", ["gps/rtk.csv", "../rtk/" + NAME + "/rtk.csv", "elsewhere.csv"])
def test_the_ground_truth_is_a_file_of_its_own(tmp_path, place):
    drive = write_drive(tmp_path, tables=False)
    with pytest.raises(DatasetError, match=r"found none; it is a download of its own.*rtk=FILE"):
        opened(drive, poses="rtk")
    T = unit_poses(base_poses(6))
    write_tables(drive, place, RTK_HEADER, [pose_row(START_US + 100_000 * k, T[k], status=None) for k in range(6)])
    options = {"rtk": str(drive / place)} if place == "elsewhere.csv" else {}
    found = opened(drive, poses="rtk", **options)
    np.testing.assert_allclose(found.T_map_base[:, :3, 3], base_poses(6)[:, :3, 3], atol=5e-9, rtol=0)


def test_unconverged_solutions_are_left_out_and_counted(tmp_path):
    drive = write_drive(tmp_path)
    table = drive / "gps" / "ins.csv"
    # As the unit writes before it has aligned: no place at all.
    edit(table, 2, lambda line: f"{START_US},INS_ALIGNING,0,0,0,0,0,0,30U,nan,nan,nan,nan,nan,nan")
    edit(table, 3, lambda line: line.replace("INS_SOLUTION_GOOD", "INS_ALIGNMENT_COMPLETE"))
    found = opened(drive)
    assert len(found) == 4
    assert found.dropped == {
        "row of the INS that says INS_ALIGNING": 1,
        "row of the INS that says INS_ALIGNMENT_COMPLETE": 1,
        "image without a pose": 2,
    }
    both = opened(drive, ins_status=["INS_SOLUTION_GOOD", "INS_ALIGNMENT_COMPLETE"])
    assert len(both) == 5
    with pytest.raises(DatasetError, match=r"ins.csv:2: expected finite numbers, found '0 0 0 nan"):
        opened(drive, ins_status=[])


# ---------------------------------------------------------------- stamps and chunks


def test_a_missing_chunk_is_named(tmp_path):
    drive = write_drive(tmp_path, chunks=[1, 1, 2, 2, 2, 3])
    for number in (2, 3, 4):
        (drive / "stereo/centre" / f"{START_US + 100_000 * number}.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"stereo.timestamps:3: expected the images of chunk 2 .*found 3 of 3 missing; download chunk 2",
    ):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    assert len(found) == 3 and found.dropped == {"image of chunk 2 that is not there": 3}
    np.testing.assert_allclose(found.T_map_base[2, :3, :3], base_poses(6)[5, :3, :3], atol=1e-9)


@pytest.mark.parametrize("camera", ["stereo/centre", "mono_rear"])
def test_stamps_lie_one_or_two_levels_above_the_images(tmp_path, camera):
    drive = write_drive(tmp_path, camera=camera)
    sensor = camera.split("/")[0]
    listed = drive / f"{sensor}.timestamps"
    other = drive / sensor / f"{sensor}.timestamps" if "/" in camera else drive.parent / f"{sensor}.timestamps"
    listed.rename(other)
    assert len(opened(drive, camera=camera)) == 6
    other.unlink()
    with pytest.raises(
        DatasetError, match=rf"expected the stamps of the images in .*{sensor}.timestamps or .*found neither"
    ):
        opened(drive, camera=camera)


def test_stamps_out_of_order_and_repeated(tmp_path):
    stamps = [START_US + 100_000 * k for k in (0, 2, 1, 3)]
    drive = write_drive(tmp_path, stamps=stamps, count=4)
    with pytest.raises(DatasetError, match=rf"stereo.timestamps:3: expected increasing stamps, found {stamps[2]}"):
        opened(drive)
    with (drive / "stereo.timestamps").open("a") as file:
        file.write(f"{stamps[3]} 1\n")
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    np.testing.assert_array_equal(found.stamps_ns, np.sort(stamps) * 1000)
    assert found.dropped == {"stamp out of order": 1, "repeated stamp": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1400075940 1", r"stereo.timestamps:2: expected a stamp in us since 1970.*in s it would be"),
        ("1400075940100000000 1", r"stereo.timestamps:2: .*in ns it would be"),
        ("x 1", r"stereo.timestamps:2: expected a stamp in us, found 'x'"),
        ("1400075940100000", r"stereo.timestamps:2: expected 2 fields, found 1"),
    ],
)
def test_bad_lines_of_stamps(tmp_path, line, message):
    drive = write_drive(tmp_path)
    edit(drive / "stereo.timestamps", 2, lambda _: line)
    with pytest.raises(DatasetError, match=message):
        opened(drive)
    problems = Problems(keep_going=True)
    assert len(opened(drive, problems)) == 5 and sum(problems.counts.values()) == 2  # the line, and its image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [*f[:12], "nan", *f[13:]], r"ins.csv:4: expected finite numbers"),
        (lambda f: [*f[:2], "north", *f[3:]], r"ins.csv:4: expected numbers"),
        (lambda f: f[:-1], r"ins.csv:4: expected 15 fields, found 14"),
        (lambda f: [f[0][:10], *f[1:]], r"ins.csv:4: expected a stamp in us since 1970.*in s it"),
        (lambda f: [*f[:14], "90.0"], r"ins.csv:4: expected roll, pitch, yaw in radians"),
        (lambda f: [f[0], f[1], f[3], f[2], *f[4:]], r"ins.csv:4: expected a place within 100 km"),
        (lambda f: [f[0], f[1], "5735841.4", *f[3:]], r"ins.csv:4: expected latitude and longitude in degrees"),
    ],
)
def test_bad_rows_of_poses(tmp_path, change, message):
    drive = write_drive(tmp_path)
    edit(drive / "gps" / "ins.csv", 4, lambda line: ",".join(change(line.split(","))))
    with pytest.raises(DatasetError, match=message):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    assert len(found) == 6 and sum(problems.counts.values()) == 1  # its neighbours are 0.2 s apart
    np.testing.assert_allclose(found.T_map_base[[1, 3], :3, :3], base_poses(6)[[1, 3], :3, :3], atol=1e-9)


def test_poses_out_of_order_and_repeated(tmp_path):
    drive = write_drive(tmp_path)
    table = drive / "gps" / "ins.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:], lines[6]]) + "\n")
    with pytest.raises(DatasetError, match=r"ins.csv:3: expected increasing stamps"):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], base_poses(6)[:, :3, :3], atol=1e-9)
    assert problems.counts == {"stamp out of order": 1, "repeated stamp": 1}


def test_tables_without_the_names_of_their_columns(tmp_path):
    drive = write_drive(tmp_path)
    edit(drive / "gps" / "ins.csv", 1, lambda line: line.replace("altitude,", ""))
    with pytest.raises(
        DatasetError, match=r"ins.csv:1: expected a first line that names the columns .*found no altitude"
    ):
        opened(drive)
    (drive / "gps" / "ins.csv").unlink()
    with pytest.raises(DatasetError, match=r"ins.csv: expected the poses, found no file; download them, or choose"):
        opened(drive)


def test_what_is_missing_is_said(tmp_path):
    drive = write_drive(tmp_path)
    with pytest.raises(DatasetError, match=r"expected the stamps .*mono_rear.timestamps"):
        opened(drive, camera="mono_rear")
    with pytest.raises(DatasetError, match=r"expected the images of stereo/left, found no folder"):
        opened(drive, camera="stereo/left")
    with pytest.raises(ConfigError, match="camera: expected one of"):
        opened(drive, camera="stereo")
    (tmp_path / "models" / "stereo_narrow_left.txt").write_text("10 10 3 2\n")
    with pytest.raises(DatasetError, match=r"stereo_narrow_left.txt: expected a line fx fy cx cy and the 4 lines"):
        opened(drive)
    (tmp_path / "models" / "stereo_narrow_left.txt").write_text("10 10 3 2\n" + "1 0 0 0\n" * 4)
    with pytest.raises(DatasetError, match=r"stereo_narrow_left.txt:2: expected"):
        opened(drive)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"expected the cameras' models in a folder models.*models=FOLDER"):
        opened(drive)
    with pytest.raises(DatasetError, match=r"expected a drive \(a folder with stereo/left"):
        opened(tmp_path / "elsewhere")
    write_models(tmp_path / "given")
    assert len(opened(drive, models=str(tmp_path / "given/models"))) == 6
    for path in (drive / "stereo/centre").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="missing; download chunk 1"):
        opened(drive)


def test_images_that_no_list_names(tmp_path):
    drive = write_drive(tmp_path)
    extra = START_US + 55
    cv2.imwrite(str(drive / "stereo/centre" / f"{extra}.png"), np.zeros((H, W), np.uint8))
    assert opened(drive).dropped == {"image without a stamp": 1}
