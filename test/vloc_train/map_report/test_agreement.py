"""Images against poses: what pairs show, and which mistake explains that they disagree."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_street

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.rotations import rotation_angle, so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_train.map_report import agreement
from vloc_train.map_report.agreement import Frames, Motion, Pair, compare

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_numbers():
    """In whatever order the tests run."""
    RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state


def pairs(change=None, turn_factor=1.0, turning=True, noise_deg=0.5):
    """Of a vehicle that drives ahead (z of its camera) and turns about the vertical (y); the images show it changed."""
    C = np.eye(3) if change is None else np.asarray(change, dtype=float)
    out = []
    for k in range(24):
        yaw = np.radians((6.0 + k % 9) * (-1) ** k) if turning else np.radians(RNG.normal(0.0, 0.2))
        nudge = so3_exp(np.radians(noise_deg) * RNG.normal(size=3))
        stated = make_transform(so3_exp(np.array([0.0, yaw, 0.0])), [0.1 * RNG.normal(), 0.02, -2.0])
        R = C.T @ so3_exp(np.array([0.0, yaw * turn_factor, 0.0])) @ nudge @ C
        way = C.T @ nudge @ stated[:3, 3]
        out.append(Pair(Motion(R, way / np.linalg.norm(way), 20.0, 100), stated))
    return out


def judged(*args, **more):
    return agreement._judged("drive", pairs(*args, **more))


def test_poses_that_fit():
    found = judged()
    assert found.good and found.told and found.fitting > 0.8 and abs(found.lens - 1.0) < 0.05
    exact = judged(noise_deg=0.0)
    assert exact.rotation_deg < 1e-6 and "(medians; 100 % of them agree)" in exact.in_words()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [90.0, -90.0, 40.0])
def test_a_turned_mounting_is_told_with_its_angle(axis, degrees):
    turn = np.zeros(3)
    turn[axis] = np.radians(degrees)
    found = judged(so3_exp(turn))
    assert not found.good and "turned by" in found.cause, found
    told = [float(number) for number in re.findall(r"\b[xyz] (-?\d+)", found.cause)]
    np.testing.assert_allclose(told, np.degrees(turn), atol=3.0)


def test_a_small_error_of_the_mounting_is_left_to_the_figures():
    found = judged(so3_exp(np.radians([0.0, 5.0, 0.0])))
    assert found.good and 4.0 < found.direction_deg < 6.0


def test_mirrored_pictures():
    found = judged(np.diag([-1.0, 1.0, 1.0]))
    # On level ground a mirror is a roll of half a turn.
    assert not found.good and "mirrored left to right" in found.cause


def test_another_lens():
    for factor in (0.6, 1.4):
        found = judged(turn_factor=factor)
        told = re.search(r"about (\d\.\d+) times", found.cause)
        assert not found.good and told is not None and abs(float(told[1]) - factor) < 0.03, found
    assert judged(turn_factor=1.05).good


def test_a_drive_without_turns_leaves_roll_open():
    assert judged(np.diag([-1.0, 1.0, 1.0]), turning=False).good
    found = judged(so3_exp(np.radians([90.0, 0.0, 0.0])), turning=False)
    assert not found.good and "without turns" in found.cause


def test_poses_of_another_drive_have_no_cause():
    mixed = [
        Pair(a.shown, b.stated) for a, b in zip(pairs(), np.random.default_rng(0).permutation(pairs()), strict=True)
    ]
    for pair in mixed[::2]:
        pair.stated[:3, 3] = RNG.normal(size=3)
    found = agreement._judged("drive", mixed)
    assert not found.good and not found.cause and "--time-offset" in found.in_words()


def test_too_little_says_so():
    found = agreement._judged("drive", pairs()[:4])
    assert found.good and not found.told and "too little motion" in found.in_words()
    assert compare(tiny_street.drive(4)).told is False


def test_images_show_their_motion():
    drive = tiny_street.drive(10, T=tiny_street.path(10, step_m=0.3))
    found = Frames(drive).between(0, 4)
    assert found is not None
    stated = inverse(drive.T_map_cam[4]) @ drive.T_map_cam[0]
    assert np.degrees(rotation_angle(found.shown.R_b_a, stated[:3, :3])) < 1.0
    way = stated[:3, 3] / np.linalg.norm(stated[:3, 3])
    assert found.shown.direction is not None and found.shown.direction @ way > np.cos(np.radians(8.0))


def test_a_drive_whose_camera_looks_elsewhere():
    T = tiny_street.path(16, step_m=0.3)
    drive: PosedSequence = tiny_street.drive(16, T=T)
    assert compare(drive).good
    turned = make_transform(so3_exp(np.radians([0.0, 90.0, 0.0])), np.zeros(3))
    found = compare(replace(drive, T_map_cam=drive.T_map_cam @ turned))
    assert found.told and not found.good and "turned by" in found.cause, found


def test_the_axes_of_the_other_convention_are_named():
    """Half a turn about the camera's x is between OpenGL's axes and OpenCV's; about another it is not."""
    for axis in range(3):
        turn = np.zeros(3)
        turn[axis] = np.pi
        assert ("axes=opencv" in judged(so3_exp(turn)).cause) == (axis == 0)
