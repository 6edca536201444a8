"""Folders of the TUM RGB-D benchmark: poses between the lines of the truth, frames beyond it left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.datasets.tum import matches, open_tum
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp, so3_log

CAMERA = (50.0, 50.0, 31.5, 17.5)


def folder(path, names=("10.000000", "10.050000", "10.175000"), lines=None):
    """Two metres and one radian a second from second 10 on, stated every tenth of a second."""
    (path / "rgb").mkdir(parents=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(path / "rgb" / f"{name}.png"), np.full((36, 64, 3), 10 * number, np.uint8))
    if lines is None:
        lines = ["# stamp and pose"]
        for k in range(4):
            q = matrix_to_quaternion(so3_exp([0.0, 0.0, 0.1 * k])) * (-1) ** k  # q and -q are one rotation
            lines.append(f"{10 + 0.1 * k:.4f} {0.2 * k} 0 1 " + " ".join(f"{v:.9f}" for v in q))
    (path / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return path


def test_poses_are_interpolated_at_the_stamps_of_the_images(tmp_path):
    found = open_tum(folder(tmp_path / "a"), CAMERA)
    assert matches(tmp_path / "a") and found.camera.size == (64, 36)
    np.testing.assert_array_equal(found.stamps_ns, [10_000_000_000, 10_050_000_000, 10_175_000_000])
    seconds = (found.stamps_ns - 10**10) / 1e9
    np.testing.assert_allclose(found.T_map_cam[:, 0, 3], 2.0 * seconds, atol=1e-6)
    turned = [so3_log(T[:3, :3])[2] for T in found.T_map_cam]
    np.testing.assert_allclose(turned, seconds, atol=1e-6)
    assert found.image(2)[0, 0, 0] == 20


def test_frames_without_poses_around_them_are_left_out(tmp_path):
    names = ("9.9", "10.05", "10.3", "10.31")
    assert [s for s in open_tum(folder(tmp_path / "a", names), CAMERA).stamps_ns] == [10_050_000_000, 10_300_000_000]
    with pytest.raises(DatasetError, match=r"at most 0\.05 s apart, found none"):
        open_tum(folder(tmp_path / "b"), CAMERA, max_gap_s=0.05)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2 3"], r"groundtruth.txt:1: expected stamp tx"),
        (["1 0 0 0 0 0 0 1", "x"], r":2: expected numbers"),
        (["1 0 0 0 0 0 0 1", "1 0 0 0 0 0 0 1"], r":2: expected increasing"),
        (["1 0 0 0 0 0 0 0"], r":1: expected a unit quaternion"),
        (["1 nan 0 0 0 0 0 1"], r":1: expected stamp"),
        (["1 0 0 0 0 0 0 1"], "at least two poses"),
    ],
)
def test_a_broken_truth_is_named_by_line(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        open_tum(folder(tmp_path / "a", lines=lines), CAMERA)


def test_what_is_no_such_folder(tmp_path):
    with pytest.raises(DatasetError, match="expected images, found none"):
        open_tum(tmp_path, CAMERA)
    with pytest.raises(DatasetError, match=r"name that is a stamp in seconds, found 'left'"):
        open_tum(folder(tmp_path / "a", ("left",)), CAMERA)


def test_the_real_one(shared_data):
    found = open_tum(shared_data("tum_fr1_xyz"), (517.3, 516.5, 318.6, 255.3))
    assert len(found) == 199 and found.camera.size == (640, 480)  # of 200: one is where the truth has a gap
    assert found.stamps_ns[0] == 1305031102175304000
    steps = np.linalg.norm(np.diff(found.T_map_cam[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.2 and np.ptp(found.T_map_cam[:, :3, 3], axis=0).max() < 1.0
