from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_drive
import tiny_extractor
import tiny_pixloc
import torch

import vloc_ros
from vloc_ros.errors import (
    ConfigError,
    GeometryError,
    MapChecksumError,
    MapError,
    MapFormatError,
    MapNotFoundError,
)
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.pixloc.bundle import write_pixloc_map
from vloc_ros.localizers.pixloc.features import scaled_size
from vloc_ros.localizers.pixloc.localizer import FAILURES
from vloc_ros.localizers.pixloc.selection import choose_points, spread, starting_poses
from vloc_ros.localizers.pixloc.statistics import SIGMAS, STATISTICS
from vloc_ros.maps import Scene, read_map
from vloc_ros.types import CameraModel, LocalizationState, PosePrior, Query, check_covariance, check_transform

CAMERA = tiny_pixloc.CAMERA
SURE = np.diag([0.04] * 3 + [0.001] * 3)
STAMP = tiny_drive.START


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_pixloc.wall_map(tmp_path_factory.mktemp("pixloc") / "map")


@pytest.fixture(scope="module")
def localizer(bundle):
    with vloc_ros.load_localizer(bundle.path, "cpu", "pixloc") as loaded:
        yield loaded


def opened(bundle, **settings):
    return vloc_ros.load_localizer(bundle.path, "cpu", settings=settings)


def moved(T, metres=0.0, degrees=0.0, seed=0):
    rng = np.random.default_rng(seed)
    out, way, axis = T.copy(), rng.normal(size=3), rng.normal(size=3)
    out[:3, 3] += metres * way / np.linalg.norm(way)
    out[:3, :3] = so3_exp(np.radians(degrees) * axis / np.linalg.norm(axis)) @ T[:3, :3]
    return out


def asked(T, start=None, covariance=SURE, stamp=STAMP, image=None, camera=CAMERA, **more):
    image = tiny_pixloc.image(T, camera) if image is None else image
    prior = None if covariance is None else PosePrior(T if start is None else start, covariance)
    return Query(image, camera, stamp, prior, **more)


def lost(estimate, why):
    """LOST for this reason, and nothing in it is NaN."""
    assert estimate.state is LocalizationState.LOST
    assert estimate.diagnostics["failure"] == FAILURES[why]
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)
    assert all(np.isfinite(v) for v in estimate.diagnostics.values()), estimate.diagnostics
    return True


# -- what it is for -------------------------------------------------------------------------------


def test_refines_to_the_same_pose_from_everywhere_near(localizer):
    T = tiny_pixloc.lap(14, phase=0.02)[6]
    found = [
        localizer.localize(asked(T, moved(T, metres, degrees, seed)))
        for seed, (metres, degrees) in enumerate([(0.0, 0.0), (0.4, 1.0), (0.6, 2.0)])
    ]
    for estimate in found:
        error = pose_error(estimate.T_map_cam, T)
        assert np.linalg.norm(error[:3]) < 0.3 and np.linalg.norm(error[3:]) < np.radians(1.0)
        assert estimate.state is LocalizationState.DEGRADED, "nobody has calibrated this map"
        assert estimate.diagnostics["failure"] == 0.0 and set(STATISTICS + SIGMAS) <= set(estimate.diagnostics)
        assert 0.5 < estimate.score <= 1.0
        check_covariance(estimate.covariance)
        np.testing.assert_allclose(estimate.T_map_cam, found[0].T_map_cam, atol=0.15)
    assert set(found[0].timings_ms) == {"prior", "references", "features", "align", "assess"}


def test_a_reference_image_is_found_exactly(bundle):
    T = tiny_pixloc.lap()[7]
    with opened(bundle, references=1) as localizer:
        estimate = localizer.localize(asked(T, moved(T, 0.3, 1.0)), keep_candidates=True)
    error = pose_error(estimate.T_map_cam, T)
    assert np.abs(error[:3]).max() < 5e-3 and np.abs(error[3:]).max() < 5e-4
    assert estimate.diagnostics["nearest_reference"] == 7.0 and len(estimate.candidates) == 6
    np.testing.assert_allclose(estimate.candidates[-1].T_map_cam[0], estimate.T_map_cam, atol=1e-6)


def test_references_are_chosen_again_where_the_small_image_leads(bundle):
    T, beside = tiny_pixloc.lap()[7], tiny_pixloc.lap()[8]
    assert np.linalg.norm(T[:3, 3] - beside[:3, 3]) > 0.05
    errors = {}
    for again in (True, False):
        with opened(bundle, references=1, reselect=again) as localizer:
            estimate = localizer.localize(asked(T, beside, np.diag([1.0] * 3 + [0.1] * 3)), keep_candidates=True)
        assert estimate.diagnostics["nearest_reference"] == (7.0 if again else 8.0)
        assert len(estimate.candidates) == 6
        errors[again] = float(np.linalg.norm(pose_error(estimate.T_map_cam, T)[:3]))
    assert errors[True] < 5e-3 < errors[False], "the image of the reference itself is found exactly"


def test_another_resolution_of_the_same_lens(localizer):
    camera = CameraModel(256, 144, 168.0, 168.0, 127.5, 71.5)
    T = tiny_pixloc.lap()[7]
    estimate = localizer.localize(asked(T, moved(T, 0.6, 1.0), camera=camera))
    assert np.linalg.norm(pose_error(estimate.T_map_cam, T)[:3]) < 0.4  # its pixels are sharper than the map's


def test_distortion_is_part_of_the_projection(localizer):
    bent = replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.25, 0.05, 0.001, -0.001))
    T = tiny_pixloc.lap()[7]
    image = tiny_pixloc.image(T, bent)
    with_lens = localizer.localize(asked(T, moved(T, 0.2), image=image, camera=bent))
    without = localizer.localize(asked(T, moved(T, 0.2), image=image))
    off = [np.linalg.norm(pose_error(e.T_map_cam, T)[:3]) for e in (with_lens, without)]
    assert off[0] < 0.4 and off[1] > 2.0 * off[0], off
    assert localizer.takes_distorted


def test_references_near_the_query_in_time_can_be_left_out(bundle):
    references = tiny_pixloc.lap()
    with opened(bundle, exclude_s=0.25) as localizer:
        estimate = localizer.localize(asked(references[7], stamp=STAMP + 700_000_000))
        assert estimate.diagnostics["nearest_reference"] in (4.0, 10.0)
        with_all = localizer.localize(asked(references[7], stamp=1))
    assert with_all.diagnostics["nearest_reference"] == 7.0


def test_pyramid_and_points_are_settings(bundle):
    T = tiny_pixloc.lap()[7]
    with opened(bundle, pyramid=False, max_points=60) as localizer:
        estimate = localizer.localize(asked(T), keep_candidates=True)
        assert estimate.diagnostics["points"] == 60.0 and len(estimate.candidates) == 3
    with opened(bundle, max_points=0) as localizer:
        assert localizer.localize(asked(T)).diagnostics["points"] > 200.0
    with opened(bundle, precision="bfloat16") as localizer:
        assert np.linalg.norm(pose_error(localizer.localize(asked(T)).T_map_cam, T)[:3]) < 0.5
    with opened(bundle, optimizer={"iterations": 1}) as localizer:
        assert localizer.localize(asked(T, moved(T, 0.4))).diagnostics["iterations"] <= 6.0
        assert localizer.settings.optimizer.damping == "constant", "what is not changed comes from the map"
    for wrong in ({"optimizer": {"iteration": 1}}, {"optimizer": 3}, {"starts": 0}, {"lost_sigma_m": 0.1}):
        with pytest.raises(ConfigError):
            opened(bundle, **wrong)
    with pytest.raises(ConfigError, match="trained network"):
        opened(bundle, optimizer={"damping_log10": [0, 1]})


def test_a_wide_prior_starts_more_than_once(bundle):
    T = tiny_pixloc.lap()[7]
    wide = np.diag([4.0, 4.0, 0.01] + [0.001] * 3)
    start = T.copy()
    start[:3, 3] += np.array([0.0, 2.0, 0.0])
    with opened(bundle, starts=5) as localizer:
        estimate = localizer.localize(asked(T, start, wide))
        assert estimate.diagnostics["start"] in (0.0, 1.0, 2.0, 3.0, 4.0)
        trace = localizer.trace(asked(T, start, wide))
    assert len(trace.starts) == 5 and trace.refinement.T_cam_map.shape == (5, 4, 4)


# -- the prior ------------------------------------------------------------------------------------


def test_without_a_prior_nothing_is_found(localizer):
    T = tiny_pixloc.lap()[3]
    assert lost(localizer.localize(asked(T, covariance=None)), "no_prior")
    assert localizer.needs_prior
    localizer.warm_up()


def test_retrieval_stands_in_for_the_prior(tmp_path):
    from vloc_ros.geometry.vectors import to_vectors
    from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
    from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor, preprocess_for

    extractor = tiny_extractor.extractor()
    descriptor = Descriptor(
        extractor, preprocess_for(extractor.settings, tiny_pixloc.preprocess()), torch.device("cpu")
    )
    references = tiny_pixloc.lap()
    vectors = torch.stack([descriptor.describe(tiny_pixloc.image(T)) for T in references])
    database = Database.of_images(
        vectors, torch.from_numpy(to_vectors(references)), torch.arange(len(references)), descriptor.metric,
        descriptor.identity,
    )  # fmt: skip
    bundle = tiny_pixloc.wall_map(
        tmp_path / "map",
        sections={"extractor": descriptor.settings_mapping(), "database": database.settings()},
        tensors={EXTRACTOR_FILE: descriptor.tensors(), DATABASE_FILE: database.tensors("map")},
    )
    with opened(bundle) as localizer:
        assert not localizer.needs_prior
        for covariance in (None, np.diag([1e8] * 6)):  # a prior that says nothing is none
            estimate = localizer.localize(asked(references[5], covariance=covariance))
            assert estimate.diagnostics["prior_source"] == 1.0
            assert np.linalg.norm(pose_error(estimate.T_map_cam, references[5])[:3]) < 0.1
        assert localizer.localize(asked(references[5])).diagnostics["prior_source"] == 0.0
    # A desk is not a street: how wrong the most similar image's pose may be is how far references may be.
    with opened(bundle, retrieval_sigma_m=0.02, radius_m=0.1, references=100) as near, opened(bundle) as far:
        first, second = (found.localize(asked(references[5], covariance=None)) for found in (near, far))
    assert first.diagnostics["points"] < second.diagnostics["points"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prior_that_is_no_pose(value):
    T = np.eye(4)
    T[0, 3] = value
    with pytest.raises(GeometryError):
        PosePrior(T, np.eye(6))
    with pytest.raises(GeometryError):
        PosePrior(np.eye(4), np.full((6, 6), value))


@pytest.mark.parametrize(
    ("offset", "covariance", "why"),
    [
        ((40.0, 0.0, 0.0), SURE, "no_references"),  # outside the map
        ((9e7, 0.0, 0.0), SURE, "no_references"),
        ((0.0, 0.0, -1e6), SURE, "no_references"),
        ((0.0, 0.0, 0.0), np.diag([1e12] * 6), "wide_prior"),
        ((40.0, 0.0, 0.0), np.diag([400.0] * 6), "wide_prior"),
        ((0.0, 0.0, 15.0), SURE, "few_points"),  # above the wall, all points out of sight
    ],
)
def test_priors_that_lead_nowhere(localizer, offset, covariance, why):
    T = tiny_pixloc.lap()[7].copy()
    start = T.copy()
    start[:3, 3] += offset
    assert lost(localizer.localize(asked(T, start, covariance)), why)


def test_how_wide_a_prior_may_be_and_how_far_to_read_ahead_are_settings(bundle):
    T = tiny_pixloc.lap()[7]
    with opened(bundle, max_prior_sigma_m=0.1, prefetch_m=0.0) as localizer:
        assert lost(localizer.localize(asked(T)), "wide_prior")  # 0.2 m
        assert localizer.localize(asked(T, covariance=0.2 * SURE)).diagnostics["failure"] == 0.0


def test_points_behind_the_camera(localizer):
    T = tiny_pixloc.lap()[7]
    for turn, why in ((180.0, "no_references"), (-74.0, "few_points")):
        start = T.copy()
        start[:3, :3] = so3_exp(np.array([0.0, 0.0, np.radians(turn)])) @ T[:3, :3]
        estimate = localizer.localize(asked(T, start))
        if why == "few_points" and estimate.diagnostics["failure"] != FAILURES["few_points"]:
            # some points are left at the edge: whatever comes of them is refused or near the truth
            assert estimate.state is LocalizationState.LOST
            continue
        assert lost(estimate, why)


def test_an_image_of_another_place(localizer):
    T = tiny_pixloc.lap()[7]
    other = np.random.default_rng(0).integers(0, 255, (72, 128, 3)).astype(np.uint8)
    estimate = localizer.localize(asked(T, moved(T, 0.3), image=other))
    # Two scales of three levels, each with so many iterations at most.
    assert estimate.diagnostics["iterations"] <= 2 * 3 * localizer.settings.optimizer.iterations
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)
    good = localizer.localize(asked(T, moved(T, 0.3)))
    assert estimate.state is LocalizationState.LOST or estimate.score < good.score - 0.05


def test_an_image_without_texture(localizer):
    T = tiny_pixloc.lap()[7]
    grey = np.full((72, 128, 3), 127, np.uint8)
    estimate = localizer.localize(asked(T, moved(T, 0.3), image=grey))
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)
    assert estimate.state is LocalizationState.LOST or estimate.score < 0.8


# -- cameras and images ---------------------------------------------------------------------------


# -- geometry -------------------------------------------------------------------------------------


def degenerate(tmp_path, points):
    """A map whose points are these, seen from four references."""
    sparse = tiny_pixloc.observed(points, tiny_pixloc.lap(4), CAMERA, 100.0)
    return tiny_pixloc.wall_map(tmp_path / "map", sparse=sparse)


def on_the_wall(angle, z):
    return np.stack([tiny_pixloc.WALL_M * np.cos(angle), tiny_pixloc.WALL_M * np.sin(angle), z], axis=1)


def test_points_on_a_line(tmp_path):
    T = tiny_pixloc.lap(4)[1]
    line = np.linspace(0, 1, 60)[:, None] * np.array([[0.5, 4.0, 0.3]]) + T[:3, 3] + 8.0 * T[:3, 2]
    with opened(degenerate(tmp_path, line), references=4) as localizer:
        estimate = localizer.localize(asked(T, moved(T, 0.05)))
    sigma_m = np.sqrt(np.linalg.eigvalsh(estimate.covariance[:3, :3])[-1])
    # A turn about the line changes nothing: nobody may be sure of it.
    assert estimate.state is LocalizationState.LOST and sigma_m > 0.1
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)


def test_points_on_a_plane_are_enough(tmp_path):
    T = tiny_pixloc.lap(4)[1]
    rng = np.random.default_rng(0)
    across = rng.uniform(-4, 4, (300, 2))
    plane = T[:3, 3] + 8.0 * T[:3, 2] + across[:, :1] * T[:3, 0] + across[:, 1:] * T[:3, 1]
    # What is painted there is the wall behind; features are those of the pixels.
    with opened(degenerate(tmp_path, plane), references=1) as localizer:
        estimate = localizer.localize(asked(T, moved(T, 0.05)))
    assert estimate.diagnostics["failure"] == 0.0
    assert np.linalg.norm(pose_error(estimate.T_map_cam, T)[:3]) < 0.05


def test_fewer_than_ten_points(tmp_path):
    angle = np.linspace(0.7, 0.9, 9)
    with opened(degenerate(tmp_path, on_the_wall(angle, np.linspace(0, 3, 9)))) as localizer:
        assert lost(localizer.localize(asked(tiny_pixloc.lap(4)[1])), "few_points")


def test_all_points_in_one_place(tmp_path):
    points = np.repeat(on_the_wall(np.array([0.9]), np.array([1.0])), 40, axis=0)
    with opened(degenerate(tmp_path, points)) as localizer:
        estimate = localizer.localize(asked(tiny_pixloc.lap(4)[1]))
    assert estimate.state is LocalizationState.LOST
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)


# -- maps -----------------------------------------------------------------------------------------


def test_missing_and_altered_tiles(tmp_path):
    bundle = tiny_pixloc.wall_map(tmp_path / "map")
    tiles = sorted(tmp_path.glob("map/tiles/*"))
    assert len(tiles) > 1
    content = bytearray(tiles[-1].read_bytes())
    content[-3] ^= 4
    tiles[-1].write_bytes(bytes(content))
    T = tiny_pixloc.lap()
    with opened(bundle, references=2) as localizer:
        with pytest.raises(MapChecksumError):
            localizer.localize(asked(T[-1]))
        tiles[-1].unlink()
        with pytest.raises(MapNotFoundError):
            localizer.localize(asked(T[-1]))
        assert localizer.localize(asked(T[0])).diagnostics["failure"] == 0.0, "elsewhere the map is as good as before"


def test_a_network_alone_is_no_map(tmp_path):
    made = tiny_pixloc.model()
    bundle = write_pixloc_map(
        tmp_path / "net", made, made.dimensions, {}, lambda s, r: [], CAMERA, tiny_pixloc.preprocess(),
        sections={"network": vloc_ros.settings.settings_to_mapping(tiny_pixloc.NETWORK)},
    )  # fmt: skip
    with pytest.raises(MapFormatError, match="vloc map build pixloc"):
        opened(bundle)


def test_weights_and_settings_that_do_not_agree(bundle, tmp_path):
    def narrower(manifest):
        manifest["settings"]["network"]["dimensions"] = [12, 12, 10]

    copy = tiny_drive.rewritten(bundle.path, tmp_path / "copy", "points.safetensors", lambda tensors: None)
    with pytest.raises(MapError):
        opened(read_map(tiny_drive.edited(copy, narrower)))


def test_several_scenes(tmp_path):
    made = tiny_pixloc.model()
    near, far = tiny_pixloc.wall(tiny_pixloc.lap(8)), tiny_pixloc.wall(tiny_drive.circle(160)[80:88])
    settings = tiny_pixloc.MapSettings(pyramid=(1.0,), tile_mb=0.2)
    features = {
        "a": tiny_pixloc.reference_features(made, near, (1.0,)),
        "b": tiny_pixloc.reference_features(made, far, (1.0,)),
    }
    sections = {
        "network": vloc_ros.settings.settings_to_mapping(tiny_pixloc.NETWORK),
        "optimizer": {"damping": "constant"},
        "pixloc": {"precision": "float32"},
    }
    bundle = write_pixloc_map(
        tmp_path / "map", made, made.dimensions, {"a": near, "b": far}, lambda s, r: features[s](s, r), CAMERA,
        tiny_pixloc.preprocess(), settings, sections=sections,
        scenes=[Scene("b", "map", (-20.0, -20.0, 0.0), (20.0, 20.0, 3.0))],
    )  # fmt: skip
    assert [scene.name for scene in bundle.manifest.scenes] == ["a", "b"]
    T = far.T_map_cam[4]
    with opened(bundle) as localizer:
        assert localizer.localize(asked(T)).scene == "b"
        assert localizer.localize(asked(T, scene="b")).diagnostics["failure"] == 0.0
        assert localizer.localize(asked(T, scene="a")).state is LocalizationState.LOST
        with pytest.raises(ConfigError, match="scene"):
            localizer.localize(asked(T, scene="c"))


# -- parts ----------------------------------------------------------------------------------------


def test_points_are_chosen_all_over_the_image_and_by_their_tracks():
    pixels = np.concatenate([np.full((50, 2), 5.0), np.array([[95.0, 5.0], [5.0, 95.0]])])
    priority = np.arange(52)
    chosen = spread(pixels, priority, 6, 10.0)
    assert {50, 51} <= set(chosen.tolist()), "a lonely point counts more than the fiftieth of a crowd"
    assert set(chosen.tolist()) - {50, 51} == {49, 48, 47, 46}
    np.testing.assert_array_equal(np.sort(spread(pixels, priority, 52, 10.0)), np.arange(52))


@pytest.mark.parametrize(("scale", "expected"), [(1.0, (370, 1226)), (0.4, (144, 496)), (0.001, (16, 16))])
def test_small_images_have_no_broken_cells(scale, expected):
    assert scaled_size(370, 1226, scale, 16) == expected


def test_points_that_cannot_be_seen_are_not_chosen():
    camera = CameraModel(100, 80, 50.0, 50.0, 49.5, 39.5)
    points = np.array([[0, 0, 5.0], [0, 0, -5.0], [100.0, 0, 5.0], [5.2, 0, 5.0]])
    rows = choose_points(points, np.ones(4, np.int64), np.eye(4), camera, 10)
    np.testing.assert_array_equal(rows, [0, 3])  # the last is just outside: a better prior may bring it in


def test_starts_lie_where_the_prior_is_unsure():
    T = moved(np.eye(4), 3.0, 30.0)
    way = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = 4.0 * np.outer(way, way)
    poses = starting_poses(T, covariance, 5, 1.0)
    np.testing.assert_array_equal(poses[0], T)
    along = (poses[:, :3, 3] - T[:3, 3]) @ way
    np.testing.assert_allclose(np.sort(along), [-4.0, -2.0, 0.0, 2.0, 4.0], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3] - T[:3, 3], axis=1), np.abs(along), atol=1e-9)
    assert len(starting_poses(T, covariance, 1, 1.0)) == 1
    assert len(starting_poses(T, 0.01 * covariance, 9, 1.0)) == 1, "a prior that is sure starts once"
