from __future__ import annotations

import numpy as np
import pytest
import tiny_camnet
import tiny_drive
import torch

from vloc_ros.errors import (
    ConfigError,
    MapError,
    MapTensorError,
)
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.camnet.localizer import WEIGHTS_FILE
from vloc_ros.localizers.camnet.references import DATABASE_FILE, FEATURES_FILE
from vloc_ros.localizers.camnet.statistics import STATISTICS
from vloc_ros.types import LocalizationState, Query

LAP = tiny_camnet.lap(20)
HALF_SECOND = 500_000_000


def query(index: int = 0, stamp_ns: int = 5, **more) -> Query:
    return Query(np.array(LAP.images[index]), tiny_drive.CAMERA, stamp_ns, **more)


@pytest.fixture(scope="module")
def plain_map(tmp_path_factory):
    return tiny_camnet.written(tmp_path_factory.mktemp("camnet") / "map", [LAP])


@pytest.fixture(scope="module")
def localizer(plain_map):
    return load_localizer(plain_map, "cpu")


# -- the chain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", ["retrieval", "pfr", "prp"])
def test_an_image_of_the_database_is_found_where_it_was_taken(plain_map, stages):
    found = load_localizer(plain_map, "cpu", settings={"stages": stages})
    for index in (0, 7, 19):
        estimate = found.localize(query(index))
        assert estimate.diagnostics["nearest_reference"] == index
        np.testing.assert_allclose(estimate.T_map_cam, LAP.T_map_cam[index], atol=2e-5)
        assert estimate.score == pytest.approx(1.0, abs=1e-3)
        assert estimate.backend == "camnet" and estimate.scene == "map" and estimate.stamp_ns == 5


def test_every_stage_starts_where_the_one_before_led(tmp_path):
    """The coarse pose stands 4 m ahead of its reference; the precise one starts at the reference nearest to that."""
    # T_1^-1 T_2 with the reference behind the query: negative z.
    path = tiny_camnet.written(tmp_path / "m", [LAP], tiny_camnet.network((0, 0, -4.0), (0.5, 0, 0)))
    estimate = load_localizer(path, "cpu").localize(query(3), keep_candidates=True)
    retrieved, coarse, precise = estimate.candidates
    np.testing.assert_allclose(retrieved.T_map_cam[0], LAP.T_map_cam[3], atol=2e-5)
    ahead = LAP.T_map_cam[3] @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4.0], [0, 0, 0, 1]])
    np.testing.assert_allclose(coarse.T_map_cam[0], ahead, atol=2e-4)
    nearest = np.linalg.norm(LAP.T_map_cam[:, :3, 3] - ahead[:3, 3], axis=1).argmin()
    assert nearest == 4  # 3.75 m on, but round the bend
    expected = LAP.T_map_cam[4] @ np.array([[1, 0, 0, -0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(precise.T_map_cam[0], expected, atol=2e-4)
    assert retrieved.T_map_cam.shape == coarse.T_map_cam.shape == precise.T_map_cam.shape == (3, 4, 4)
    assert estimate.diagnostics["refinement"] == pytest.approx(
        np.log(np.linalg.norm(expected[:3, 3] - ahead[:3, 3]) + 0.01), abs=1e-3
    )


def test_world_frame_relative_poses(tmp_path):
    made = tiny_camnet.network((1.0, 2.0, 0.0), relative_frame="world")
    path = tiny_camnet.written(tmp_path / "m", [LAP], made)
    estimate = load_localizer(path, "cpu", settings={"stages": "pfr"}).localize(query(3))
    np.testing.assert_allclose(estimate.T_map_cam[:3, 3], LAP.T_map_cam[3, :3, 3] - [1.0, 2.0, 0.0], atol=1e-4)


def test_full_is_the_mean_of_the_inliers(localizer):
    estimate = localizer.localize(query(5), keep_candidates=True)
    precise = estimate.candidates[2]
    inliers = precise.T_map_cam[precise.selected]
    np.testing.assert_allclose(estimate.T_map_cam[:3, 3], inliers[:, :3, 3].mean(axis=0), atol=1e-5)
    assert estimate.diagnostics["inlier_share"] == pytest.approx(len(inliers) / 3)
    assert localizer.localize(query(5)).candidates == ()
    assert set(estimate.timings_ms) == {"encode", "refine", "average", "assess"}
    assert all(np.isfinite(estimate.diagnostics[name]) for name in STATISTICS)


def test_retrieval_by_the_coarse_features(plain_map):
    found = load_localizer(plain_map, "cpu", settings={"retrieval_features": "pfr"})
    assert [found.localize(query(i)).diagnostics["nearest_reference"] for i in (0, 9)] == [0, 9]


def test_reference_poses(localizer):
    np.testing.assert_allclose(localizer.reference_poses(), LAP.T_map_cam, atol=2e-6)


def test_the_scene_of_the_nearest_image(tmp_path):
    other = tiny_camnet.lap(20, "other", paint=3)
    found = load_localizer(tiny_camnet.written(tmp_path / "m", [LAP, other]), "cpu")
    assert found.localize(query(4)).scene == "map"
    assert found.localize(Query(np.array(other.images[4]), tiny_drive.CAMERA, 1)).scene == "other"
    assert found.localize(query(4, scene="other")).scene == "other"


# -- sequences ----------------------------------------------------------------------------------------


def run(path, order, step_ns=100_000_000):
    found = load_localizer(path, "cpu", settings={"sequence": 2})
    return [found.localize(query(i, stamp_ns=step_ns * (k + 1))) for k, i in enumerate(order)]


def test_two_earlier_frames_add_two_estimates_and_a_replay_agrees(tmp_path):
    # A precise pose one metre behind its reference: estimates by earlier frames follow those frames' estimates.
    path = tiny_camnet.written(
        tmp_path / "m", [LAP], tiny_camnet.network(precise=(0, 0, 1.0)), inlier_m=100.0, inlier_deg=180.0
    )
    first, second = run(path, [0, 1, 2, 3]), run(path, [0, 1, 2, 3])
    assert [e.diagnostics["estimates"] for e in first] == [3, 4, 5, 5]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.T_map_cam, b.T_map_cam)
        assert a.diagnostics == b.diagnostics
    found = load_localizer(path, "cpu", settings={"sequence": 2})
    estimates = [found.localize(query(i, stamp_ns=(i + 1) * 10**8), keep_candidates=True) for i in range(3)]
    behind = np.eye(4)
    behind[2, 3] = -1.0
    for k in (0, 1):  # oldest first
        expected = estimates[k].T_map_cam @ behind
        np.testing.assert_allclose(estimates[2].candidates[2].T_map_cam[3 + k], expected, atol=1e-4)
    again = found.localize(query(2, stamp_ns=3 * 10**8))
    np.testing.assert_array_equal(again.T_map_cam, estimates[2].T_map_cam)


def test_a_pause_and_a_step_back_in_time_start_anew(plain_map):
    assert [e.diagnostics["estimates"] for e in run(plain_map, [0, 1, 2], 2 * HALF_SECOND)] == [3, 3, 3]
    found = load_localizer(plain_map, "cpu", settings={"sequence": 2})
    for stamp, expected in ((10**9, 3), (10**9 + 10**8, 4), (10**8, 3), (2 * 10**8, 4)):
        assert found.localize(query(1, stamp_ns=stamp)).diagnostics["estimates"] == expected


def test_a_lost_frame_does_not_vouch_for_the_next(tmp_path, plain_map):
    import shutil

    shutil.copytree(plain_map, tmp_path / "m")
    names, zeros = list(STATISTICS), [0.0] * len(STATISTICS)
    model = {
        "names": names, "center": zeros, "spread": [1.0] * len(names), "translation": [5.0, *zeros],
        "rotation": [0.0, *zeros], "limits": [[5.0, 5.0], [0.0, 0.0]], "shape": np.eye(6).tolist(), "knots": [5.0],
        "factors": [1.0], "frames": 100,
    }  # fmt: skip
    tiny_drive.edited(tmp_path / "m", lambda m: m["calibration"].update(map={"covariance": model}))
    estimates = run(tmp_path / "m", [0, 1, 2])
    assert {e.state for e in estimates} == {LocalizationState.LOST}  # a sigma of exp(5) metres
    assert [e.diagnostics["estimates"] for e in estimates] == [3, 3, 3]
    # The fit belongs to the stage that it was made for.
    for other in ({"stages": "prp"}, {"retrieval_features": "pfr"}):
        estimate = load_localizer(tmp_path / "m", "cpu", settings=other).localize(query())
        assert estimate.state is LocalizationState.DEGRADED and "position_sigma_m" not in estimate.diagnostics


# -- densified databases ------------------------------------------------------------------------------


def densified(source, target, shift=(0.0, 0.0, 1.0)):
    """Every row a second time, at a shifted pose, with a slightly other descriptor."""

    def add(tensors):
        rows = len(tensors["map.poses"])
        moved = tensors["map.poses"].clone()
        moved[:, :3] += torch.tensor(shift)
        tensors["map.poses"] = torch.cat((tensors["map.poses"], moved))
        tensors["map.descriptors"] = torch.cat((tensors["map.descriptors"], tensors["map.descriptors"] * 1.02))
        tensors["map.origin"] = torch.cat((torch.zeros(rows), torch.ones(rows))).to(torch.uint8)
        tensors["map.anchor"] = torch.arange(rows).repeat(2).to(torch.int32)
        tensors["map.stamps"] = torch.cat((tensors["map.stamps"], torch.zeros(rows, dtype=torch.int64)))

    return tiny_drive.rewritten(source, target, DATABASE_FILE, add)


def test_regressed_rows_lead_to_their_anchors(tmp_path, plain_map, localizer):
    found = load_localizer(densified(plain_map, tmp_path / "d"), "cpu")
    assert len(found.reference_poses()) == 40
    dense, plain = found.localize(query(6), keep_candidates=True), localizer.localize(query(6), keep_candidates=True)
    # The same images in the same order, none of them twice.
    for a, b in zip(dense.candidates, plain.candidates, strict=True):
        np.testing.assert_allclose(a.T_map_cam, b.T_map_cam, atol=1e-6)
    by_pfr = load_localizer(tmp_path / "d", "cpu", settings={"retrieval_features": "pfr"})
    assert by_pfr.localize(query(6)).diagnostics["nearest_reference"] == 6


def test_a_query_nearest_to_a_regressed_row_takes_its_pose_and_its_anchors_features(tmp_path, plain_map):
    path = densified(plain_map, tmp_path / "d", (0.0, 0.0, 2.0))

    def swap(tensors):  # what was measured becomes worse than what was regressed
        first = tensors["map.descriptors"][:20].clone()
        tensors["map.descriptors"] = torch.cat((first * 1.3, first))

    path = tiny_drive.rewritten(path, tmp_path / "swapped", DATABASE_FILE, swap)
    estimate = load_localizer(path, "cpu").localize(query(6), keep_candidates=True)
    assert estimate.diagnostics["nearest_reference"] == 26
    np.testing.assert_allclose(estimate.candidates[0].T_map_cam[0, 2, 3], LAP.T_map_cam[6, 2, 3] + 2.0, atol=1e-4)
    np.testing.assert_allclose(estimate.candidates[1].T_map_cam[0], LAP.T_map_cam[6], atol=1e-4)


@pytest.mark.parametrize("anchor", [-1, 40, 25])
def test_a_row_that_leads_nowhere_is_refused(tmp_path, plain_map, anchor):
    path = densified(plain_map, tmp_path / "d")

    def break_it(tensors):
        tensors["map.anchor"][30] = anchor

    path = tiny_drive.rewritten(path, tmp_path / "broken", DATABASE_FILE, break_it)
    with pytest.raises(MapTensorError, match="lead to one with an image"):
        load_localizer(path, "cpu")


# -- bad input ----------------------------------------------------------------------------------------


def test_one_image_is_a_database_and_k_larger_than_it_takes_what_there_is(tmp_path):
    path = tiny_camnet.written(tmp_path / "m", [LAP.select(np.array([4]))])
    estimate = load_localizer(path, "cpu", settings={"top": 50}).localize(query(9), keep_candidates=True)
    np.testing.assert_allclose(estimate.T_map_cam, LAP.T_map_cam[4], atol=1e-5)
    assert [len(step.scores) for step in estimate.candidates] == [1, 1, 1]


def test_duplicate_poses_and_images_are_harmless(tmp_path):
    path = tiny_camnet.written(tmp_path / "m", [LAP.select(np.array([4, 4, 4, 4, 9]))])
    estimate = load_localizer(path, "cpu").localize(query(4))
    np.testing.assert_allclose(estimate.T_map_cam, LAP.T_map_cam[4], atol=1e-5)
    assert estimate.diagnostics["inlier_share"] == 1.0


def empty(tensors):
    for name in list(tensors):
        tensors[name] = tensors[name][:0]


def test_an_empty_database_is_refused(tmp_path, plain_map):
    path = tiny_drive.rewritten(plain_map, tmp_path / "m", DATABASE_FILE, empty)
    with pytest.raises(MapTensorError, match="at least one image"):
        load_localizer(path, "cpu")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (DATABASE_FILE, lambda t: t.update({"map.descriptors": t["map.descriptors"][:, :8]})),
        (DATABASE_FILE, lambda t: t.update({"map.poses": t["map.poses"][:5]})),
        (DATABASE_FILE, lambda t: t.pop("map.anchor")),
        (FEATURES_FILE, lambda t: t.update({"map.pfr": t["map.pfr"][:5]})),
        (FEATURES_FILE, lambda t: t.pop("map.prp")),
        (WEIGHTS_FILE, lambda t: t.pop("prp_pair.last.bias")),
        (WEIGHTS_FILE, lambda t: t.update({"pfr_pair.first.weight": t["pfr_pair.first.weight"][:, :5]})),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(tmp_path, plain_map, file, change):
    path = tiny_drive.rewritten(plain_map, tmp_path / "m", file, change)
    with pytest.raises(MapTensorError, match="expected"):
        load_localizer(path, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["settings"]["network"].update(backbone="resnet18"),
        lambda m: m["settings"]["network"].update(feature_dim=10**6),
    ],
)
def test_a_manifest_that_does_not_make_sense(tmp_path, plain_map, change):
    import shutil

    shutil.copytree(plain_map, tmp_path / "m")
    tiny_drive.edited(tmp_path / "m", change)
    with pytest.raises((MapError, ConfigError), match=r"\w"):
        load_localizer(tmp_path / "m", "cpu")
