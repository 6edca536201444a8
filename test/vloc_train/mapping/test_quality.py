"""Quality figures: known sigmas, weak places and their advice, and the report's files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_street

from vloc_ros.geometry.cameras import project, projection_jacobian
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import inverse, se3_exp, transform_points
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.quality import Limits, advice, assess, places_in_words
from vloc_train.mapping.report import write_quality_report

CAMERA = CameraModel(200, 120, 150.0, 150.0, 99.5, 59.5)


def model_of(points, T, noise_px=0.0, keep=None) -> SparseModel:
    """What frames see of points; ``keep(frame)`` chooses rows."""
    rng = np.random.default_rng(0)
    ids, pixels, offsets = [], [], [0]
    for frame, t in enumerate(T):
        shown, valid = project(CAMERA, transform_points(inverse(t), points))
        rows = np.flatnonzero(valid)
        rows = rows if keep is None else rows[keep(frame, rows)]
        ids.append(rows)
        pixels.append(shown[rows] + rng.normal(0, noise_px, (len(rows), 2)))
        offsets.append(offsets[-1] + len(rows))
    joined = np.concatenate(ids)
    count = len(T)
    return SparseModel(
        points, np.bincount(joined, minlength=len(points)).astype(np.int32), np.zeros(len(points), np.float32),
        np.array(offsets), joined, np.concatenate(pixels), T, np.arange(1, count + 1) * 10**8,
        np.zeros(count, np.int64), (CAMERA,), np.zeros(count, np.int64), np.arange(count),
    )  # fmt: skip


def cloud(count=400, seed=0):
    return np.random.default_rng(seed).uniform((-12, -6, 6), (12, 6, 25), (count, 3))


def poses(count=8):
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 3] = 0.3 * np.arange(count)
    return T


def test_sigma_is_what_noisy_pixels_do_to_a_pose():
    points, T = cloud(60), poses(1)
    model = model_of(points, T)
    predicted = assess(model).sigma_m[0]
    rng = np.random.default_rng(1)
    cam, pixels = model.points_cam(), model.pixels
    found = []
    for _ in range(300):
        seen, guess = pixels + rng.normal(0, 1, pixels.shape), np.eye(4)
        for _ in range(4):
            p = transform_points(guess, cam)
            J = np.concatenate([projection_jacobian(CAMERA, p), -projection_jacobian(CAMERA, p) @ skew(p)], -1)
            step = np.linalg.lstsq(J.reshape(-1, 6), (seen - project(CAMERA, p)[0]).reshape(-1), rcond=None)[0]
            guess = se3_exp(step) @ guess
        found.append(inverse(guess)[:3, 3])
    sampled = np.sqrt(np.linalg.eigvalsh(np.cov(np.array(found).T))[-1])
    assert predicted == pytest.approx(sampled, rel=0.15)


def test_points_on_a_line_fix_no_position():
    line = np.stack([np.linspace(-3, 3, 40), np.zeros(40), np.full(40, 10.0)], 1)
    quality = assess(model_of(line, poses(3)))
    assert np.isinf(quality.sigma_m).all()
    assert any("points that hardly fix the position" in p.reasons for p in quality.weak)
    wall = np.concatenate([np.random.default_rng(0).uniform((-6, -3), (6, 3), (200, 2)), np.full((200, 1), 10.0)], 1)
    assert np.isfinite(assess(model_of(wall, poses(3))).sigma_m).all()  # a plane does


def test_a_good_model_has_no_weak_place_and_no_advice():
    quality = assess(model_of(cloud(), poses()))
    assert quality.weak == () and advice(quality) == []
    found = quality.summary
    assert found["frames"] == 8 and found["weak_frames"] == 0
    assert found["reprojection_px"]["max"] < 1e-6 and found["coverage"]["min"] > 0.8
    assert found["track_length"]["median"] >= 6 and found["shared_with_neighbour"]["min"] > 100


def test_weak_frames_are_found_together_with_the_reason():
    def keep(frame, rows):
        return rows % 20 == 0 if frame in (3, 4) else rows >= 0

    quality = assess(model_of(cloud(), poses(), keep=keep))
    (place,) = quality.weak
    assert (place.first, place.last) == (3, 4) and "few points" in place.reasons
    assert np.allclose(place.position, poses()[3, :3, 3])
    assert "frames 3 to 4" in places_in_words(quality)[0]
    assert any("few points" in line for line in advice(quality))
    corner = assess(model_of(cloud(2000), poses(), keep=lambda _, rows: rows >= 0)).coverage

    def left(frame, rows):
        shown, _ = project(CAMERA, transform_points(inverse(poses()[frame]), cloud(2000)[rows]))
        return shown[:, 0] < 45

    squeezed = assess(model_of(cloud(2000), poses(), keep=left), Limits(observations=10))
    assert (squeezed.coverage < 0.3).all() and (corner > 0.9).all()
    assert "points in one part of the image" in squeezed.weak[0].reasons


def test_poses_that_do_not_fit_are_told_by_the_error():
    quality = assess(model_of(cloud(), poses(), noise_px=3.0))
    assert quality.summary["reprojection_px"]["median"] > 1.0
    assert any("refine_poses" in line for line in advice(quality))
    assert not any("refine_poses" in line for line in advice(quality, "depth"))


def test_parts_that_share_no_points_are_noticed():
    quality = assess(model_of(cloud(), poses(), keep=lambda frame, rows: (rows % 2 == 0) == (frame < 4)))
    assert quality.shared[3] > 100  # with the frame before
    alone = assess(model_of(cloud(1600), poses(), keep=lambda frame, rows: rows % 8 == frame))
    assert (alone.shared == 0).all() and any("share no points" in line for line in advice(alone))


def test_a_frame_without_points_and_an_empty_model_do_not_stumble():
    empty_frame = model_of(cloud(), poses(), keep=lambda frame, rows: (rows >= 0) & (frame != 2))
    quality = assess(empty_frame)
    assert np.isinf(quality.sigma_m[2]) and quality.coverage[2] == 0 and quality.weak[0].first == 2
    nothing = assess(empty_frame.keep(np.zeros(len(empty_frame.point_ids), dtype=bool)))
    assert nothing.summary["points"] == 0 and nothing.summary["weak_share"] == 1.0


def test_the_report_holds_words_figures_and_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    drive = tiny_street.drive(4)
    T = drive.T_map_cam
    rng = np.random.default_rng(0)
    points = rng.uniform((5, -5, 0), (9, 4, 4), (400, 3))
    model = model_of(points, T, noise_px=0.5, keep=lambda frame, rows: rows % 20 == 0 if frame == 2 else rows >= 0)
    report = write_quality_report(tmp_path / "r", {"yard": model}, {"yard": [drive]}, notes={"map": "yard"})
    text = report.read_text()
    for word in ("## Scene yard", "track length", "reprojection px", "Weak places", "Advice", "- map: yard"):
        assert word in text, word
    figures = json.loads((tmp_path / "r" / "report.json").read_text())["yard"]
    assert [p["first"] for p in figures["weak_places"] if "few points" in p["reasons"]] == [2]
    assert figures["frames"] == 4
    for name in ("map", "histograms", "along", "frames"):
        assert (tmp_path / "r" / f"yard_{name}.png").stat().st_size > 5000 and f"yard_{name}.png" in text
    # Infinite sigmas are no numbers in JSON.
    bare = model.keep(model.frame_of != 1)
    write_quality_report(tmp_path / "s", {"yard": bare})
    assert "Infinity" not in (tmp_path / "s" / "report.json").read_text()
