"""Structure from motion of a painted corner: exactness, lenses, blocks, resuming, refinement, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_street

from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, GeometryError
from vloc_ros.evaluation.alignment import align_cameras, align_poses
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.geometry.se3 import inverse, se3_exp
from vloc_ros.types import CameraModel
from vloc_train.mapping import matching, sfm
from vloc_train.mapping.keypoints import make_detector
from vloc_train.mapping.matching import agree_with_poses, match_pair
from vloc_train.mapping.neighbours import blocks, neighbour_pairs
from vloc_train.mapping.sfm import SfmSettings, reconstruct
from vloc_train.mapping.sfm_frames import chosen_frames

pytest.importorskip("pycolmap", reason="needs the extra [maps]")

FAST = SfmSettings(detector="opencv", features=1024)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A model of eight frames, its working folder, and the drive."""
    work = tmp_path_factory.mktemp("street")
    drive = tiny_street.drive(8)
    return reconstruct([drive], FAST, work), work, drive


def test_points_lie_on_the_surfaces_and_tracks_are_long(street):
    model, _, drive = street
    away = tiny_street.on_surface(model.points)
    assert np.median(away) < 0.03 and np.quantile(away, 0.9) < 0.15
    assert len(model) == 8 and np.diff(model.offsets).min() > 200
    assert model.track_length.min() >= 3 and model.track_length.mean() > 4
    assert np.median(model.error) < 0.3 and model.error.max() <= FAST.error_px
    np.testing.assert_array_equal(model.T_map_cam, drive.T_map_cam)
    np.testing.assert_array_equal(np.bincount(model.point_ids), model.track_length)


def test_an_interrupted_run_goes_on_where_it_stopped(street, tmp_path, monkeypatch):
    expected, _, drive = street

    class Stop(Exception):
        pass

    def stop_at(stage, done):
        def report(name, at, _):
            if (name, at) == (stage, done):
                raise Stop

        return report

    for stage, done in (("features", 3), ("matches", 4)):
        with pytest.raises(Stop):
            reconstruct([drive], FAST, tmp_path, stop_at(stage, done))
    calls = []
    monkeypatch.setattr(matching, "match_pair", lambda *a, **k: calls.append(1) or match_pair(*a, **k))
    monkeypatch.setattr(sfm, "make_detector", lambda *_: pytest.fail("features were there already"))
    again = reconstruct([drive], FAST, tmp_path)
    assert 0 < len(calls) < 20  # of 28 pairs
    np.testing.assert_array_equal(again.points, expected.points)
    # Other settings of a later stage use the earlier stages' files, and other images do not.
    fewer = reconstruct([drive], replace(FAST, angle_deg=6.0), tmp_path)
    assert 0 < len(fewer.points) < len(again.points)
    monkeypatch.undo()
    other = reconstruct([tiny_street.drive(8, seed=5)], FAST, tmp_path)
    assert len(other.points) != len(again.points)


def test_observations_are_pixels_of_the_distorted_image(tmp_path):
    drive = tiny_street.drive(5, tiny_street.LENS)
    model = reconstruct([drive], FAST, tmp_path)
    assert model.cameras == (tiny_street.LENS,)
    assert np.median(tiny_street.on_surface(model.points)) < 0.05
    assert model.reprojection_errors().max() <= FAST.error_px and np.median(model.error) < 0.4
    # Without the lens the same pixels are far off: the test would notice a rectified image.
    assert np.median(replace(model, cameras=(tiny_street.CAMERA,)).reprojection_errors()) > 1.0


def test_blocks_give_the_points_that_one_block_gives(street, tmp_path):
    whole, _, drive = street
    parted = reconstruct([drive], replace(FAST, block_frames=3), tmp_path)
    assert abs(len(parted.points) / len(whole.points) - 1) < 0.15
    assert np.median(tiny_street.on_surface(parted.points)) < 0.03
    # A point belongs to the block of its first frame: none is there twice but where the cut parted its track.
    for model in (whole, parted):
        assert len({tuple(np.round(p, 3)) for p in model.points}) > 0.97 * len(model.points)


def test_refined_poses_are_nearer_the_truth_and_stay_in_the_frame(street, tmp_path):
    _, _, drive = street
    rng = np.random.default_rng(3)
    noise = np.concatenate([rng.normal(0, 0.02, (8, 3)), rng.normal(0, 0.003, (8, 3))], axis=1)
    noisy = np.stack([T @ se3_exp(n) for T, n in zip(drive.T_map_cam, noise, strict=True)])
    rough = replace(drive, T_map_cam=noisy)
    kept = reconstruct([rough], FAST, tmp_path)
    refined = reconstruct([rough], replace(FAST, refine_poses=True), tmp_path)
    assert np.median(refined.error) < 0.5 * np.median(kept.error)

    def relative(T):
        return inverse(T[:-1]) @ T[1:]

    def turn_error(T):
        found, truth = relative(T), relative(drive.T_map_cam)
        return float(rotation_angle(found[:, :3, :3], truth[:, :3, :3]).mean())

    assert turn_error(refined.T_map_cam) < 0.3 * turn_error(noisy)
    assert np.linalg.norm(refined.T_map_cam[:, :3, 3] - noisy[:, :3, 3], axis=1).max() < 0.15
    parted = reconstruct([rough], replace(FAST, refine_poses=True, block_frames=4), tmp_path)
    assert turn_error(parted.T_map_cam) < 0.3 * turn_error(noisy), "blocks are adjusted together"


def test_poses_of_another_camera_are_noticed(street, tmp_path):
    _, _, drive = street
    turned = drive.T_map_cam.copy()
    turned[:, :3, :3] = turned[:, :3, :3] @ np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])  # rolled by a quarter
    with pytest.raises(DatasetError, match=r"poses and cameras that fit the images.*camera_info"):
        reconstruct([replace(drive, T_map_cam=turned)], FAST, tmp_path)


def test_one_image_and_a_standing_camera_are_refused(tmp_path):
    drive = tiny_street.drive(6)
    with pytest.raises(DatasetError, match="at least two frames"):
        reconstruct([drive.select(np.arange(1))], FAST, tmp_path)
    still = replace(drive, T_map_cam=np.repeat(drive.T_map_cam[:1], 6, axis=0))
    with pytest.raises(DatasetError, match=r"found 1 of 6"):
        reconstruct([still], FAST, tmp_path)
    with pytest.raises(DatasetError, match="found none"):
        reconstruct([drive.select(np.arange(0))], FAST, tmp_path)


def test_duplicate_poses_of_two_drives_do_not_match_each_other(tmp_path):
    drive = tiny_street.drive(4)
    model = reconstruct([drive, replace(drive, name="again")], FAST, tmp_path)
    assert len(model) == 8 and set(model.drive) == {0, 1}
    assert np.median(tiny_street.on_surface(model.points)) < 0.05
    frames = chosen_frames([drive, drive], 0.0, 0.0)
    pairs = neighbour_pairs(frames.T_map_cam, frames.drive, 10, 20.0, 60.0, 0.05)
    assert [0, 4] not in pairs.tolist() and [0, 5] in pairs.tolist()


def test_turning_on_the_spot_gives_no_point(tmp_path):
    T = np.repeat(tiny_street.path(1), 5, axis=0)
    for i in range(5):
        T[i, :3, :3] = T[i, :3, :3] @ se3_exp([0, 0, 0, 0, np.radians(6.0 * i), 0])[:3, :3]
    with pytest.raises(DatasetError, match=r"found none among 5"):
        reconstruct([tiny_street.drive(T=T)], FAST, tmp_path)
    # Even where the distance of neighbours is not limited, a ray alone is no point.
    with pytest.raises(DatasetError, match=r"under 1\.5 deg"):
        reconstruct([tiny_street.drive(T=T)], replace(FAST, baseline_m=0.0), tmp_path)


def test_drives_that_do_not_overlap_are_refused(tmp_path):
    T = tiny_street.path(2)
    T[1, 0, 3] += 500.0
    with pytest.raises(DatasetError, match=r"0.05 to 20 m apart.*do the drives overlap"):
        reconstruct([tiny_street.drive(T=T)], FAST, tmp_path)


def test_images_without_texture_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"expected matches.*without texture"):
        reconstruct([tiny_street.drive(3, blank=True)], FAST, tmp_path)


def test_an_image_of_another_size_than_its_camera_is_refused(tmp_path):
    drive = tiny_street.drive(3)
    with pytest.raises(CameraMismatchError, match="expected an image of 480x300"):
        reconstruct([replace(drive, camera=CameraModel(480, 300, 380.0, 380.0, 239.5, 149.5))], FAST, tmp_path)


def test_mixed_cameras_share_points(tmp_path):
    wide = CameraModel(200, 150, 150.0, 150.0, 99.5, 74.5)
    drives = [tiny_street.drive(4), tiny_street.drive(T=tiny_street.path(4, start_m=0.2), camera=wide, name="wide")]
    model = reconstruct(drives, FAST, tmp_path)
    assert set(model.cameras) == {tiny_street.CAMERA, wide}
    shared = [len(set(model.camera_index[model.frames_of(p)])) == 2 for p in range(len(model.points))]
    assert np.mean(shared) > 0.3
    assert np.median(tiny_street.on_surface(model.points)) < 0.05


def test_poses_that_are_none_are_refused(tmp_path):
    drive = tiny_street.drive(3)
    for value, error in ((np.nan, DatasetError), (3.0, GeometryError)):
        T = drive.T_map_cam.copy()
        T[1, 0, 0] = value
        with pytest.raises(error, match=r"street.*frame 1"):
            reconstruct([replace(drive, T_map_cam=T)], FAST, tmp_path)


def test_detectors_put_pixel_centres_at_integers():
    v, u = np.indices((120, 160), dtype=np.float64)
    image = 40 + 180 * np.exp(-((u - 70.25) ** 2 + (v - 60.5) ** 2) / (2 * 3.0**2))
    for kind in ("colmap", "opencv", "auto"):
        found = make_detector(kind, 200, 0.0067)(np.repeat(image.astype(np.uint8)[..., None], 3, axis=2))
        assert np.linalg.norm(found.pixels - (70.25, 60.5), axis=1).min() < 0.15, kind
        assert found.descriptors.shape == (len(found), 128) and found.descriptors.dtype == np.uint8
    assert len(make_detector("opencv", 200, 0.0067)(np.zeros((40, 40, 3), np.uint8))) == 0


def test_opencv_takes_the_place_of_a_missing_pycolmap(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert make_detector("auto", 100, 0.0067) is not None
    with pytest.raises(ConfigError, match="maps"):
        make_detector("colmap", 100, 0.0067)


def test_matches_must_lie_on_epipolar_lines_in_front():
    T_a, T_b = np.eye(4), np.eye(4)
    T_b[0, 3] = 1.0
    point = np.array([0.3, 0.1, 5.0])
    a, b = point[:2] / point[2], (point[:2] - (1.0, 0.0)) / point[2]
    moved = b + np.array([[0.0, 0.0], [0.0, 0.02], [0.5, 0.0]])  # right; off the line; behind the cameras
    good = agree_with_poses(np.tile(a, (3, 1)), moved, T_a, T_b, (0.005, 0.005))
    assert good.tolist() == [True, False, False]
    still = agree_with_poses(np.tile(a, (2, 1)), a + np.array([[0, 0], [0.1, 0]]), T_a, T_a, (0.005, 0.005))
    assert still.tolist() == [True, False]


def test_neighbours_are_near_look_the_same_way_and_come_from_every_drive():
    T = np.tile(np.eye(4), (60, 1, 1))
    T[:, 2, 3] = np.tile(np.arange(30), 2)
    T[30:, 0, 3] = 2.0
    T[45:, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # the end of the second drive looks back
    drive = np.repeat([0, 1], 30)
    pairs = neighbour_pairs(T, drive, 8, 10.0, 60.0, 0.5)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    distance = np.linalg.norm(T[pairs[:, 0], :3, 3] - T[pairs[:, 1], :3, 3], axis=1)
    assert 0.5 <= distance.min() and distance.max() <= 10.0
    assert not ((pairs[:, 0] < 45) & (pairs[:, 1] >= 45)).any()
    mine = pairs[(pairs == 10).any(axis=1)]
    assert (drive[mine.sum(axis=1) - 10] == 1).sum() >= 4
    assert len(pairs) < 60 * 8


def test_blocks_part_all_frames_once():
    positions = np.random.default_rng(0).normal(0, (100, 10, 1), (237, 3))
    parts = blocks(positions, 40)
    assert max(map(len, parts)) <= 40 and sorted(np.concatenate(parts)) == list(range(237))
    assert all(np.ptp(positions[p, 0]) < 0.7 * np.ptp(positions[:, 0]) for p in parts)


def test_a_straight_drive_aligns_by_its_orientations():
    rng = np.random.default_rng(1)
    T = np.tile(np.eye(4), (5, 1, 1))
    T[:, 2, 3] = np.arange(5)
    move = se3_exp([3.0, -1.0, 2.0, 0.2, 0.5, -0.4])
    there = move @ T
    there[:, :3, 3] = (2.5 * (T[:, :3, 3] @ move[:3, :3].T)) + move[:3, 3]
    points = rng.normal(size=(4, 3))
    poses, moved = align_poses(T, there, points)
    np.testing.assert_allclose(poses, there, atol=1e-9)
    np.testing.assert_allclose(moved, 2.5 * points @ move[:3, :3].T + move[:3, 3], atol=1e-9)
    with pytest.raises(DatasetError, match="moved"):
        align_cameras(np.repeat(T[:1], 3, axis=0), there[:3])
