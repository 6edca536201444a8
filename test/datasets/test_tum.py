"""Folders of the TUM RGB-D benchmark: poses between the lines of the truth, frames beyond it left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tum import CAMERAS, matches, open_tum
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
        open_tum(folder(tmp_path / "b", ("10.05", "10.175")), CAMERA, max_gap_s=0.05)
    # At the very moment of a pose there is one, however far away the next is.
    assert len(open_tum(folder(tmp_path / "c"), CAMERA, max_gap_s=0.05)) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2 3"], r"groundtruth.txt:1: expected 8 fields, found 3"),
        (["1 0 0 0 0 0 0 1", "x 0 0 0 0 0 0 1"], r":2: expected a stamp in s, found 'x'"),
        (["1 0 0 0 0 0 0 1", "2 0 0 0 y 0 0 1"], r":2: expected numbers"),
        (["1 0 0 0 0 0 0 1", "1 0 0 0 0 0 0 1"], r":2: expected one pose a stamp"),
        (["2 0 0 0 0 0 0 1", "1 0 0 0 0 0 0 1"], r":2: expected increasing stamps.*--keep-going"),
        (["1 0 0 0 0 0 0 0"], r":1: expected a unit quaternion"),
        (["1 nan 0 0 0 0 0 1"], r":1: expected finite numbers"),
        (["1305031102175304000 0 0 0 0 0 0 1"], r":1: expected a stamp in s, .*in ns it would be"),
        (["1 0 0 0 0 0 0 1"], "at least two poses"),
    ],
)
def test_a_broken_truth_is_named_by_line(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        open_tum(folder(tmp_path / "a", lines=lines), CAMERA)


def test_what_is_no_such_folder(tmp_path):
    with pytest.raises(DatasetError, match="expected images, found none"):
        open_tum(tmp_path, CAMERA)
    with pytest.raises(DatasetError, match=r"left\.png: name: expected a stamp in s, found 'left'; list the images"):
        open_tum(folder(tmp_path / "a", ("left",)), CAMERA)


def test_the_real_one(shared_data):
    found = open_tum(shared_data("tum_fr1_xyz"), (517.3, 516.5, 318.6, 255.3))
    assert len(found) == 199 and found.camera.size == (640, 480)  # of 200: one is where the truth has a gap
    assert found.stamps_ns[0] == 1305031102175304000
    steps = np.linalg.norm(np.diff(found.T_map_cam[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.2 and np.ptp(found.T_map_cam[:, :3, 3], axis=0).max() < 1.0


def test_a_broken_truth_is_skipped_and_counted(tmp_path):
    good = [f"{10 + 0.1 * k:.1f} {k} 0 1 0 0 0 1" for k in range(4)]
    bad = ["1 2 3", "x 0 0 0 0 0 0 1", "10.15 nan 0 1 0 0 0 1", "10.15 9 0 1 0 0 0 3", good[2], "9.5 0 0 1 0 0 0 1"]
    problems = Problems(keep_going=True)
    found = open_tum(folder(tmp_path / "a", lines=[*good[:3], *bad, good[3]]), CAMERA, problems=problems)
    np.testing.assert_allclose(found.T_map_cam[:, 0, 3], [0, 0.5, 1.75], atol=1e-12)
    assert found.dropped == {
        "row of the wrong length": 1,
        "stamp that cannot be read": 1,
        "row with NaN or infinity": 1,
        "quaternion that is not of unit length": 1,
        "repeated stamp": 1,
        "stamp out of order": 1,
    }


def test_the_list_of_images_is_honoured(tmp_path):
    a = folder(tmp_path / "a", ("left", "middle", "right"))
    listed = ["# stamp file", "10.05 rgb/left.png", "10.06 rgb/gone.png", "10.123456789 rgb/right.png"]
    (a / "rgb.txt").write_text("\n".join(listed))
    found = open_tum(a, CAMERA)
    np.testing.assert_array_equal(found.stamps_ns, [10_050_000_000, 10_123_456_789])
    assert [p.name for p in found.source.paths] == ["left.png", "right.png"]
    assert found.dropped == {"listed image that is missing": 1}  # such folders are cut down, and the list stays
    (a / "rgb.txt").write_text("10.05 rgb/left.png\n10.05 rgb/right.png\n")
    with pytest.raises(DatasetError, match=r"rgb.txt:2: expected one image a stamp"):
        open_tum(a, CAMERA)
    (a / "rgb.txt").write_text("10.1 rgb/left.png\n10.05 rgb/right.png\n")
    with pytest.raises(DatasetError, match=r"rgb.txt:2: expected increasing stamps"):
        open_tum(a, CAMERA)
    sorted_ = open_tum(a, CAMERA, problems=Problems(keep_going=True))
    assert [p.name for p in sorted_.source.paths] == ["right.png", "left.png"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("rgbd_dataset_freiburg1_xyz", 1), ("fr2_desk", 2), ("tum_fr3", 3), ("freiburg12", 0), ("afr1", 0)],
)
def test_the_published_cameras_are_known_by_name(tmp_path, name, number):
    a = folder(tmp_path / name)
    if not number:
        with pytest.raises(DatasetError, match=r"expected the intrinsics, .*intrinsics=\[fx"):
            open_source(f"tum:{a}")
        return
    with pytest.raises(DatasetError, match=r"expected 640x480 pixels, .*found 64x36; give intrinsics"):
        open_source(f"tum:{a}")
    for path in (a / "rgb").glob("*"):
        cv2.imwrite(str(path), np.zeros((480, 640), np.uint8))
    assert detect(a) == "tum" and open_sequence(a).camera == CAMERAS[number]
    given = open_source(f"tum:{a},intrinsics=[1.0,2.0,3.0,4.0],distortion=[0.1,0.0,0.0,0.0]")[0].camera
    assert (given.fx, given.distortion) == (1.0, (0.1, 0.0, 0.0, 0.0))
    with pytest.raises(DatasetError, match=r"distortion: .*takes 4 or 5 coefficients, found 3"):
        open_source(f"tum:{a},distortion=[0.1,0.0,0.0]")


def test_depth_belongs_to_the_nearest_frame_and_zero_is_unknown(tmp_path):
    a = folder(tmp_path / "a")
    assert not hasattr(open_tum(a, CAMERA).source, "depth")
    (a / "depth").mkdir()
    raw = np.arange(36 * 64, dtype=np.uint16).reshape(36, 64) * 5
    for name in ("10.012", "10.019", "10.045"):
        cv2.imwrite(str(a / "depth" / f"{name}.png"), raw + (10000 if name == "10.045" else 0))
    (a / "depth.txt").write_text("".join(f"{n} depth/{n}.png\n" for n in ("10.012", "10.019", "10.045")))
    problems = Problems()
    found = open_tum(a, CAMERA, problems=problems)
    assert [p and p.name for p in found.source.depth_paths] == ["10.012.png", "10.045.png", None]
    assert problems.counts == {"frame without a depth image": 1} and not found.dropped  # the frame is there
    first, second = found.source.depth(0), found.select(np.array([1])).source.depth(0)
    assert first.dtype == np.float32 and np.isnan(first[0, 0]) and not np.isnan(first.reshape(-1)[1:]).any()
    np.testing.assert_allclose(first.reshape(-1)[1:], np.arange(1, 36 * 64) / 1000, rtol=1e-6)
    assert second[0, 0] == 2.0 and np.isnan(found.source.depth(2)).all()
    cv2.imwrite(str(a / "depth" / "10.012.png"), raw.astype(np.uint8))
    with pytest.raises(DatasetError, match=r"10.012.png: expected a 16-bit depth image of one channel, found uint8"):
        found.source.depth(0)
    cv2.imwrite(str(a / "depth" / "10.012.png"), raw[:30])
    with pytest.raises(DatasetError, match=r"10.012.png: expected depth of 64x36 as the colour image, found 64x30"):
        found.source.depth(0)


def test_through_a_bag_and_back(tmp_path):
    found = open_tum(folder(tmp_path / "a"), CAMERA)
    back = open_sequence(write_sequence(found, tmp_path / "bag"))
    np.testing.assert_array_equal(back.stamps_ns, found.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, found.T_map_cam, atol=1e-9)
    for index in range(len(found)):
        np.testing.assert_array_equal(back.image(index), found.image(index))


def test_what_a_cut_folder_lacks_is_told_in_one_line(tmp_path, caplog):
    a = folder(tmp_path / "a")
    rgb = sorted((a / "rgb").iterdir())
    (a / "rgb.txt").write_text(
        "".join(f"{p.stem} rgb/{p.name}\n" for p in rgb) + "".join(f"{50 + k} rgb/{50 + k}.png\n" for k in range(30))
    )
    problems = Problems()
    with caplog.at_level("WARNING"):
        open_tum(a, CAMERA, problems=problems)
    told = [r.getMessage() for r in caplog.records if "rgb.txt:" in r.getMessage()]
    assert problems.counts["listed image that is missing"] == 30
    assert len(told) == 1 and f"30 of {len(rgb) + 30} listed images" in told[0]
