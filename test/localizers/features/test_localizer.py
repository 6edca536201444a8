"""The backend on a painted corner: centimetres, any lens, priors, twins, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_drive
import tiny_features
import tiny_street
import yaml

from vloc_ros.errors import ConfigError, ImageError, MapBackendError, MapError, MapTensorError
from vloc_ros.features.matching import match_descriptors
from vloc_ros.features.verification import Support
from vloc_ros.features.view_matching import ViewMatcher
from vloc_ros.geometry.cameras import project, resized
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform, nees, pose_error, se3_exp
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.features.localizer import FAILURES
from vloc_ros.localizers.features.store import POINTS_FILE, REFERENCES_FILE, tile_name
from vloc_ros.maps import read_map, write_map
from vloc_ros.maps.reader import files_of
from vloc_ros.types import CameraModel, LocalizationState, PosePrior, Query, View

pytest.importorskip("pycolmap", reason="needs the extra [maps]")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_features.built(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def localizer(bundle):
    with load_localizer(bundle.path, "cpu", backend="features") as loaded:
        yield loaded


def queries(drive, prior=None):
    for number in range(len(drive)):
        yield Query(drive.image(number), drive.camera, int(drive.stamps_ns[number]), prior), drive.T_map_cam[number]


def test_unseen_frames_are_localized_to_centimetres_and_the_covariance_holds(localizer):
    inside = []
    for query, truth in queries(tiny_features.unseen(10)):
        found = localizer.localize(query, keep_candidates=True)
        assert found.state is LocalizationState.LOCALIZED, found.diagnostics
        error = pose_error(found.T_map_cam, truth)
        assert np.linalg.norm(error[:3]) < 0.06 and np.linalg.norm(error[3:]) < 0.01
        inside.append(nees(error, found.covariance) < 12.59)
        assert found.diagnostics["failure"] == FAILURES["none"] and found.diagnostics["source"] == 1.0
        assert found.candidates and 0.5 < found.score <= 1.0
        again = localizer.localize(query)
        np.testing.assert_array_equal(again.T_map_cam, found.T_map_cam)
    assert np.mean(inside) >= 0.8


def test_large_images_are_reduced_and_matches_are_in_the_image_that_was_asked(bundle, tmp_path):
    """Limits in pixels are of the reduced image, whatever the sensor has."""
    path = tmp_path / "map"
    shutil.copytree(bundle.path, path)
    width = tiny_street.CAMERA.width
    tiny_drive.edited(path, lambda m: m["settings"]["local_features"].update(maximum_side=width))
    drive = tiny_features.unseen(3)
    with load_localizer(path, "cpu") as bounded:
        for query, truth in queries(drive):
            size = (3 * width, 3 * query.camera.height)
            image = cv2.resize(query.image_rgb, size, interpolation=cv2.INTER_NEAREST)
            large = replace(query, image_rgb=image, camera=resized(query.camera, *size))
            found, usual = bounded.localize(large), bounded.localize(query)
            # Means of nine equal pixels are the image again.
            np.testing.assert_allclose(found.T_map_cam, usual.T_map_cam, atol=1e-6)
            assert found.state is LocalizationState.LOCALIZED
            assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06
            local = (found.matches.points - truth[:3, 3]) @ truth[:3, :3]
            expected, _ = project(large.camera, local)
            assert np.median(np.linalg.norm(expected - found.matches.pixels, axis=1)) < 3.0
            rigged = replace(large, others=(View(image, large.camera, np.eye(4), "again"),))
            both = bounded.localize(rigged)
            assert both.diagnostics["rig_fused"] == 2.0
            np.testing.assert_allclose(both.matches.of_view(1).pixels, both.matches.of_view(0).pixels)


def test_a_prior_spares_the_search_and_a_wrong_one_is_forgotten(bundle, localizer):
    drive = tiny_features.unseen(3)
    for query, truth in queries(drive):
        near = PosePrior(se3_exp([0.1, 0.1, -0.05, 0.01, 0.0, 0.01]) @ truth, np.diag([0.02] * 3 + [3e-4] * 3))
        found = localizer.localize(replace(query, prior=near))
        assert found.diagnostics["source"] == 0.0 and "retrieval" not in found.timings_ms
        assert found.state is LocalizationState.LOCALIZED
        assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06
        wrong = PosePrior(se3_exp([0.0, 30.0, 0.0, 0.0, 0.0, 2.0]) @ truth, np.diag([0.02] * 3 + [3e-4] * 3))
        found = localizer.localize(replace(query, prior=wrong))
        assert found.diagnostics["source"] == 1.0 and found.state is LocalizationState.LOCALIZED
    with load_localizer(bundle.path, "cpu", settings={"search_again": False}) as fixed:
        assert fixed.localize(replace(query, prior=wrong)).state is LocalizationState.LOST


def test_several_proposals_are_decided_between(localizer):
    query, truth = next(queries(tiny_features.unseen(1)))
    covariance = np.diag([0.02] * 3 + [3e-4] * 3)
    off = PosePrior(se3_exp([0.0, -1.5, 0.0, 0.0, 0.0, 0.0]) @ truth, covariance)
    right = PosePrior(se3_exp([0.05, 0.1, 0.0, 0.0, 0.0, 0.01]) @ truth, covariance)
    found = localizer.localize_from(query, [off, right])
    assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06
    described = localizer.describe(query)
    assert localizer.judge(truth, query, described).support(localizer.settings.judge) is Support.STRONG
    assert localizer.judge(off.T_map_cam, query, described).support(localizer.settings.judge) is Support.NONE
    better = localizer.improve(right.T_map_cam, query, described, covariance=covariance)
    assert np.linalg.norm(pose_error(better.T_map_cam, truth)[:3]) < 0.06
    poses = [(better.T_map_cam, better.evidence), (off.T_map_cam, localizer.judge(off.T_map_cam, query, described))]
    assert localizer.decide(poses).best == 0


def test_a_prior_without_a_heading_is_an_area_to_search(localizer):
    query, truth = next(queries(tiny_features.unseen(1)))
    spread = np.diag([1.0, 1.0, 1.0, 0.1, 0.1, np.pi**2])
    turned = make_transform(so3_exp([0.0, 0.0, 2.0]), truth[:3, 3] + (0.5, 0.5, 0.0))
    found = localizer.localize(replace(query, prior=PosePrior(turned, spread)))
    assert found.state is LocalizationState.LOCALIZED and found.diagnostics["source"] == 1.0
    assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06
    # Where there are no images, everything is searched after all.
    far = make_transform(np.eye(3), truth[:3, 3] + (500.0, 0.0, 0.0))
    again = localizer.localize(replace(query, prior=PosePrior(far, spread)))
    assert again.state is LocalizationState.LOCALIZED


def test_the_cameras_of_a_rig_are_one_camera(bundle, localizer):
    """One pose from both images, sure and exact; a camera that shows nothing takes nothing from the other."""
    drive = tiny_features.unseen(5)
    T_front_side = make_transform(so3_exp([0.0, 0.3, 0.0]), [0.4, 0.0, 0.0])
    side = tiny_street.Views(drive.T_map_cam @ T_front_side, tiny_street.LENS)
    grey = np.full_like(side.image(0), 128)
    errors, alone = [], []
    for number, (query, truth) in enumerate(queries(drive)):
        rig = replace(query, others=(View(side.image(number), tiny_street.LENS, T_front_side, "side"),))
        found = localizer.localize(rig)
        assert found.state is LocalizationState.LOCALIZED and found.diagnostics["rig_fused"] == 2.0
        assert found.matches is not None and found.matches.views is not None
        assert {int(v) for v in found.matches.views} == {0, 1}
        error = pose_error(found.T_map_cam, truth)
        assert nees(error, found.covariance) < 30.0
        errors.append(np.linalg.norm(error[:3]))
        one = localizer.localize(query)
        alone.append(np.linalg.norm(pose_error(one.T_map_cam, truth)[:3]))
        assert found.diagnostics["matched_points"] > one.diagnostics["matched_points"]
        near = PosePrior(se3_exp([0.1, 0.1, -0.05, 0.01, 0.0, 0.01]) @ truth, np.diag([0.02] * 3 + [3e-4] * 3))
        guided = localizer.localize(replace(rig, prior=near))
        assert guided.diagnostics["source"] == 0.0 and guided.state is LocalizationState.LOCALIZED
        blind = localizer.localize(replace(query, others=(View(grey, tiny_street.LENS, T_front_side, "side"),)))
        np.testing.assert_allclose(blind.T_map_cam, one.T_map_cam, atol=1e-6)
        assert blind.state is one.state
        # The query's own image may be the one that shows nothing.
        hidden = Query(np.full_like(query.image_rgb, 128), query.camera, query.stamp_ns, others=rig.others)
        found = localizer.localize(hidden)
        assert found.state is LocalizationState.LOCALIZED
        assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.1
    assert np.median(errors) <= np.median(alone) + 0.002


LENSES = {
    "barrel": tiny_street.LENS,
    "zoom": CameraModel(320, 240, 330.0, 330.0, 159.5, 119.5),
    "wide": CameraModel(320, 200, 160.0, 160.0, 159.5, 99.5),
    "fisheye": CameraModel(240, 180, 150.0, 150.0, 119.5, 89.5, "equidistant", (0.01, 0.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("lens", LENSES)
def test_another_camera_than_the_map_s_is_taken_distorted_or_rectified(localizer, lens):
    camera = LENSES[lens]
    localizer.check_camera(camera)
    for query, truth in queries(tiny_features.unseen(2, camera)):
        assert np.linalg.norm(pose_error(localizer.localize(query).T_map_cam, truth)[:3]) < 0.08
        if camera.is_distorted:
            image, pinhole = Rectifier(camera).rectify(query.image_rgb)
            found = localizer.localize(Query(image, pinhole, query.stamp_ns))
            assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.08


def test_nothing_to_see_and_strange_images_are_lost(localizer):
    camera = tiny_street.CAMERA
    grey = np.full((camera.height, camera.width, 3), 127, np.uint8)
    found = localizer.localize(Query(grey, camera, 1))
    assert found.state is LocalizationState.LOST and found.diagnostics["failure"] == FAILURES["no_features"]
    other = tiny_street.drive(2, T=tiny_street.path(2), seed=99)
    for query, _ in queries(other):
        found = localizer.localize(query)
        assert found.state is LocalizationState.LOST and found.diagnostics["failure"] != FAILURES["none"]
    with pytest.raises(ImageError, match="expected an image of the camera's"):
        localizer.localize(Query(grey[:50], camera, 1))
    localizer.warm_up()


def test_two_places_that_look_the_same_are_not_localized_without_a_prior(tmp_path):
    made = tiny_features.built(tmp_path, {"map": [tiny_features.twins()]}, calibration_frames=0)
    query, truth = next(queries(tiny_features.unseen(1)))
    with load_localizer(made.path, "cpu") as localizer:
        found = localizer.localize(query)
        assert found.state is LocalizationState.LOST and found.diagnostics["failure"] == FAILURES["ambiguous"]
        assert found.diagnostics["rivalry"] > 0.6
        prior = PosePrior(truth, np.diag([0.1] * 3 + [1e-3] * 3))
        found = localizer.localize(replace(query, prior=prior))
        assert found.state is LocalizationState.DEGRADED  # a map without calibration is never sure
        assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06


def changed(bundle, target, change):
    """A copy of the map with an altered manifest."""
    shutil.copytree(bundle.path, target)
    text = yaml.safe_load((target / "map.yaml").read_text())
    change(text)
    (target / "map.yaml").write_text(yaml.safe_dump(text))
    return target


def test_descriptors_of_another_feature_are_refused(bundle, tmp_path):
    def other(text):
        text["settings"]["local_features"]["id"] = "another-feature"

    def none(text):
        del text["settings"]["local_features"]["id"]

    with pytest.raises(MapBackendError, match=r"expected descriptors of 'rootsift-128'.*another-feature"):
        load_localizer(changed(bundle, tmp_path / "other", other), "cpu")
    with pytest.raises(MapError, match="expected the id of the descriptors"):
        load_localizer(changed(bundle, tmp_path / "none", none), "cpu")


def test_tensors_that_do_not_agree_are_refused(bundle, tmp_path):
    def broken(file, name, value):
        tensors = dict(bundle.stored_tensors(file))
        tensors[name] = value(tensors[name])
        rest = {n: files_of(bundle)[n] for n in files_of(bundle) if n != file}
        return write_map(tmp_path / "broken", bundle.manifest, {file: tensors}, extra_files=rest, overwrite=True)

    for file, name, value, message in (
        (REFERENCES_FILE, "map.point_ids", lambda t: t + 10**6, "point_ids"),
        (REFERENCES_FILE, "map.offsets", lambda t: t.flip(0), "offsets"),
        (POINTS_FILE, "map.tile_ends", lambda t: t - 1, "tiles"),
        (REFERENCES_FILE, "map.depth", lambda t: -t, "depth"),
    ):
        made = broken(file, name, value)
        with pytest.raises(MapTensorError, match=message):
            load_localizer(made.path, "cpu")
    made = broken(tile_name("map", 0), "owner", lambda t: t.flip(0))
    with load_localizer(made.path, "cpu") as localizer, pytest.raises(MapTensorError, match="point by point"):
        localizer.localize(next(queries(tiny_features.unseen(1)))[0])


def test_frames_of_the_map_can_be_kept_from_finding_themselves(bundle):
    drive = tiny_features.lap()
    with load_localizer(bundle.path, "cpu", settings={"exclude_s": 0.15}) as localizer:
        query, truth = next(queries(drive))
        found = localizer.localize(query)
        assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.06
    assert read_map(bundle.path).manifest.validation["map"]["median_translation_m"] < 0.05


class NearestViews(ViewMatcher):
    """Mutual nearest neighbours in the place of a network; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def match(self, first, second):
        self.asked.append((len(first), len(second)))
        pairs, ratios = match_descriptors(first.unit, second.unit, 0.9)
        return pairs, 1.0 - ratios


def test_a_matcher_compares_the_query_with_views_of_the_map(bundle, monkeypatch):
    matcher = NearestViews()
    monkeypatch.setattr("vloc_ros.localizers.features.localizer.make_matcher", lambda kind, device: matcher)
    with load_localizer(bundle.path, "cpu", settings={"matcher": "lightglue", "matcher_images": 3}) as matched:
        lens = CameraModel(420, 300, 260.0, 260.0, 205.0, 150.0, "equidistant", (0.01, 0.0, 0.0, 0.0))
        for camera in (tiny_street.CAMERA, lens):
            for query, truth in queries(tiny_features.unseen(2, camera)):
                found = matched.localize(query)
                assert found.state is LocalizationState.LOCALIZED, found.diagnostics
                assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.08
                assert 1 <= len(matcher.asked) <= 3 * int(found.diagnostics["places"]) and min(matcher.asked)[1] > 0
                matcher.asked.clear()
        # With a prior the map is projected, and nothing is left to match.
        near = PosePrior(truth, np.diag([0.02] * 3 + [3e-4] * 3))
        assert matched.localize(replace(query, prior=near)).state is LocalizationState.LOCALIZED and not matcher.asked


def test_a_matcher_for_other_features_than_the_maps_is_refused(bundle, tmp_path):
    with pytest.raises(ConfigError, match="lightglue expects a map of aliked, disk, xfeat, found one of 'sift'"):
        load_localizer(bundle.path, "cpu", settings={"matcher": "lightglue"})
    with pytest.raises(ConfigError, match="found one of 'sift'"):  # before anything is computed
        tiny_features.built(tmp_path, localizer={"matcher": "lightglue"})
