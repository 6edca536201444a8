"""Where a replay begins: every form of ``--initial-pose``, and PixLoc alone and in a cascade end to end."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import numpy as np
import pytest
import tiny_drive
import tiny_maps

from vloc_ros.cli.main import main
from vloc_ros.convert.sequence import write_sequence
from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.datasets.sequence import T_BODY_OPTICAL
from vloc_ros.errors import BagError, ConfigError
from vloc_ros.geometry.rotations import matrix_to_euler
from vloc_ros.geometry.se3 import inverse
from vloc_ros.replay import replay
from vloc_ros.replay.initial_poses import initial_poses, parse_sigma
from vloc_ros.tracking import INITIAL_POSE_SIGMAS, SavedPose, save_pose


def lap():
    """The mapped lap with a mounted camera and odometry."""
    sequence = tiny_drive.drive(40)
    T_map_base = sequence.T_map_cam @ inverse(T_BODY_OPTICAL)
    return changed(sequence, T_base_cam=T_BODY_OPTICAL.copy(), T_odom_base=inverse(T_map_base[0]) @ T_map_base)


FRAMES = "0:10:1"
FIRST = lap().T_map_base[0]
STAMP = int(lap().stamps_ns[0])


def with_poses(folder, *poses):
    """The lap with ``(topic, time, frame, T, covariance)`` in the bag as well."""
    sequence = lap()
    with BagWriter(folder) as bag:
        bag.transforms("/tf_static", STAMP, [("base_link", "camera", STAMP, sequence.T_base_cam)])
        for topic, time, frame, T, covariance in poses:
            if time < STAMP:
                bag.pose_with_covariance(topic, time, frame, T, covariance)
        for i, stamp in enumerate(sequence.stamps_ns[:12].tolist()):
            moves = [("odom", "base_link", stamp, sequence.T_odom_base[i]), ("map", "odom", stamp, FIRST)]
            bag.transforms("/tf", stamp, moves)
            bag.camera_info("/camera/camera_info", stamp, "camera", sequence.camera)
            bag.pose("/reference/pose", stamp, "map", sequence.T_map_base[i])
            for topic, time, frame, T, covariance in poses:
                if time == stamp:
                    bag.pose_with_covariance(topic, time, frame, T, covariance)
            bag.image("/camera/image", stamp, "camera", sequence.image(i))
    return folder


@pytest.fixture(scope="module")
def lap_bag(tmp_path_factory):
    return write_sequence(lap(), tmp_path_factory.mktemp("lap") / "lap")


@pytest.fixture(scope="module")
def drive(lap_bag):
    with BagDrive(lap_bag) as opened:
        yield opened


def six(T):
    """A pose as the command line takes it."""
    numbers = [*T[:3, 3], *np.degrees(matrix_to_euler(T[:3, :3]))]
    return ",".join(f"{v:.6f}" for v in numbers)


# -- what is asked for ------------------------------------------------------------------------------


def test_six_numbers(drive):
    found = initial_poses("1, -2,.5,0,0,90", drive, "map", "id")
    (pose,) = found.waiting
    np.testing.assert_allclose(pose.T_map_base[:3], [[0, -1, 0, 1], [1, 0, 0, -2], [0, 0, 1, 0.5]], atol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(pose.covariance)), INITIAL_POSE_SIGMAS)
    np.testing.assert_allclose(initial_poses(six(FIRST), drive, "map", "id").waiting[0].T_map_base, FIRST, atol=1e-6)
    narrow = initial_poses("1,2,3,0,0,0", drive, "map", "id", sigma=(0.5, 3.0)).waiting[0].covariance
    np.testing.assert_allclose(np.sqrt(np.diag(narrow)), [0.5] * 3 + [np.radians(3)] * 3)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5,nan", "1,2,3,4,5,x", "somewhere", "/camera/image"])
def test_what_is_no_pose_says_what_would_be(drive, text):
    with pytest.raises(ConfigError, match=r"X,Y,Z,ROLL,PITCH,YAW.*found '.*topics that fit: .*/reference/pose"):
        initial_poses(text, drive, "map", "id")


@pytest.mark.parametrize("text", ["1", "1,x", "1,2,3", "a,b"])
def test_sigmas_that_are_none(drive, text):
    with pytest.raises(ConfigError, match="METRES,DEGREES"):
        parse_sigma(text)
    with pytest.raises(ConfigError, match="two positive numbers"):
        initial_poses("truth", drive, "map", "id", sigma=parse_sigma("0,1"))


@pytest.mark.parametrize("asked", [None, "none"])
def test_a_sigma_of_no_pose_is_no_silent_nothing(drive, asked):
    with pytest.raises(ConfigError, match=r"--initial-sigma: expected --initial-pose \(X,Y,Z"):
        initial_poses(asked, drive, "map", "id", sigma=(1.0, 10.0))


def test_a_pose_file_of_this_map_only(drive, tmp_path):
    path = tmp_path / "pose.json"
    save_pose(path, SavedPose("this", "map", STAMP, FIRST, np.eye(6) * 0.01, "scene"))
    (pose,) = initial_poses(str(path), drive, "map", "this").waiting
    np.testing.assert_allclose(pose.T_map_base, FIRST, atol=1e-9)
    assert pose.scene == "scene" and pose.covariance[0, 0] == pytest.approx(1.01)
    with pytest.raises(ConfigError, match=r"expected a pose in map other, found one of map this"):
        initial_poses(str(path), drive, "map", "other")


def test_without_a_truth_there_is_none_to_begin_with(tmp_path):
    from bag_copies import copy_without

    copy_without(with_poses(tmp_path / "a"), tmp_path / "b", "/reference/pose")
    with BagDrive(tmp_path / "b") as opened, pytest.raises(BagError, match="expected reference poses, found none"):
        initial_poses("truth", opened, "map", "id")


def test_recorded_poses_in_another_frame(tmp_path):
    local = np.eye(4)
    local[0, 3] = 0.25
    spread = np.diag([4.0, 1.0, 1.0, 0.01, 0.02, 0.03])
    bag = with_poses(
        tmp_path / "bag",
        ("/initialpose", STAMP, "odom", local, spread),
        ("/initialpose", STAMP + 100_000_000, "nowhere", local, spread),
    )
    with BagDrive(bag) as opened:
        found = initial_poses(None, opened, "map", "id", needed=True)
        assert not initial_poses(None, opened, "map", "id").waiting, "other maps need none"
    (pose,) = found.waiting
    np.testing.assert_allclose(pose.T_map_base, FIRST @ local, atol=1e-9)
    # The wide axis is the vehicle's x: along the map's y at the start of the lap.
    np.testing.assert_allclose(np.diag(pose.covariance)[:2], [1.0, 4.0], atol=1e-9)
    assert len(found.notes) == 1 and "'nowhere'" in found.notes[0]


# -- end to end ---------------------------------------------------------------------------------------


def test_a_map_that_needs_a_first_pose_says_so_before_the_work(lap_bag, tmp_path):
    with pytest.raises(ConfigError, match=r"finds nothing: say --initial-pose .*vloc map cascade"):
        replay(lap_bag, tiny_maps.tiny_map("pixloc"), tmp_path / "out", device="cpu", plots=False)
    assert not (tmp_path / "out").exists()


def test_pixloc_alone_from_the_command_line(lap_bag, tmp_path, capsys):
    command = [
        "replay",
        str(lap_bag),
        "--map",
        str(tiny_maps.tiny_map("pixloc")),
        "--device",
        "cpu",
        "--frames",
        FRAMES,
    ]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--out", str(tmp_path / "out"), "--initial-pose", "truth"])
    assert stop.value.code == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # The pose that was given counts as one of three fixes.
    assert (report["published"], report["localized"], report["states"]["LOST"]) == (9, 9, 0.0)
    assert report["ate_rmse_m"] < 0.05 and report["prior"] == "always"
    assert report["initial_pose"].startswith("the reference pose of the first frame")
    assert any("1 given" in note for note in report["notes"])
    assert report["oracle_median_translation_m"] < 1e-3
    assert (tmp_path / "out" / "plots" / "recall.png").exists()
    with pytest.raises(SystemExit) as stop:
        main([*command, "--out", str(tmp_path / "none"), "--initial-pose", "none", "--no-plots"])
    assert stop.value.code == 0
    assert json.loads((tmp_path / "none" / "report.json").read_text())["published"] == 0


def test_pixloc_finds_on_from_a_recorded_pose_and_from_a_rough_one(tmp_path):
    """The pose comes with the fourth image; another is 0.3 m off and given by hand."""
    fourth = int(lap().stamps_ns[3])
    spread = np.diag([0.25] * 3 + [0.01] * 3)
    bag = with_poses(tmp_path / "bag", ("/initialpose", fourth, "map", lap().T_map_base[3], spread))
    out = replay(bag, tiny_maps.tiny_map("pixloc"), tmp_path / "out", device="cpu", plots=False, frames=FRAMES)
    assert [r.published for r in out.records] == [False] * 4 + [True] * 6
    assert out.report["initial_pose"] == "1 on /initialpose"
    rough = FIRST.copy()
    rough[:2, 3] += (0.2, -0.2)
    found = replay(
        bag, tiny_maps.tiny_map("pixloc"), tmp_path / "rough", device="cpu", plots=False, frames=FRAMES,
        initial_pose=six(rough), initial_sigma=(0.3, 3.0),
    )  # fmt: skip
    assert found.report["published"] == 9 and found.report["ate_rmse_m"] < 0.05


def test_a_cascade_needs_no_pose_and_takes_one(lap_bag, tmp_path):
    for name, pose in (("without", None), ("with", "truth")):
        out = replay(
            lap_bag, tiny_maps.tiny_map("cascade"), tmp_path / name, device="cpu", plots=False, frames=FRAMES,
            initial_pose=pose,
        )  # fmt: skip
        assert out.report["backend"] == "cascade" and out.report["prior"] == "initial_pose"
        assert out.report["published"] == (9 if pose else 8) and out.report["ate_rmse_m"] < 0.1
        assert bool(out.report["initial_pose"]) is bool(pose)
