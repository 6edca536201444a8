from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_copr
import tiny_drive
import tiny_extractor
import torch

from vloc_ros.errors import MapError, MapTensorError
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.retrieval.database import Database
from vloc_ros.localizers.retrieval.localizer import RetrievalLocalizer
from vloc_ros.types import LocalizationState, PosePrior, Query

DRIVE = tiny_drive.drive(40)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_copr.retrieval_map(tmp_path_factory.mktemp("retrieval"))


@pytest.fixture(scope="module")
def localizer(bundle):
    with load_localizer(bundle.path, device="cpu") as loaded:
        yield loaded


def ask(localizer: RetrievalLocalizer, image, stamp=7, **more):
    return localizer.localize(Query(image, DRIVE.camera, stamp, **more))


def over(localizer, rows):
    return localizer.with_database("map", localizer.database().select(rows))


def test_the_pose_of_the_nearest_image(localizer):
    for index in (0, 13, 39):
        estimate = ask(localizer, DRIVE.image(index))
        np.testing.assert_allclose(estimate.T_map_cam, DRIVE.T_map_cam[index], atol=1e-5)
        assert estimate.diagnostics["nearest_reference"] == index
        assert estimate.backend == "retrieval" and estimate.scene == "map" and 0.0 <= estimate.score <= 1.0
        assert np.linalg.eigvalsh(estimate.covariance)[0] > 0


def test_one_image(localizer):
    alone = over(localizer, [11])
    estimate = ask(alone, DRIVE.image(30))
    np.testing.assert_allclose(estimate.T_map_cam, DRIVE.T_map_cam[11], atol=1e-5)
    assert np.isfinite(estimate.covariance).all()


def test_an_empty_database_is_refused(localizer):
    with pytest.raises(MapTensorError, match="at least one reference"):
        over(localizer, [])


@pytest.mark.parametrize("weights", ["uniform", "similarity", "interpolation"])
def test_more_neighbours_than_references(bundle, weights):
    with load_localizer(bundle.path, device="cpu", settings={"k": 500, "weights": weights}) as loaded:
        estimate = ask(over(loaded, [4, 5, 6]), DRIVE.image(5))
    near = np.linalg.norm(estimate.T_map_cam[:3, 3] - DRIVE.T_map_cam[5, :3, 3])
    assert near < 2.5 and estimate.diagnostics["averaged"] <= 3


def test_duplicate_poses_share_their_weight(bundle):
    with load_localizer(bundle.path, device="cpu", settings={"k": 6}) as loaded:
        once = ask(over(loaded, [4, 5, 6]), DRIVE.image(5))
        twice = ask(over(loaded, [4, 4, 5, 5, 6, 6]), DRIVE.image(5))
    np.testing.assert_allclose(once.T_map_cam, twice.T_map_cam, atol=0.05)


def test_descriptors_of_another_extractor_or_length_are_refused(localizer):
    database = localizer.database()
    with pytest.raises(MapError, match="extractor"):
        localizer.with_database("map", dataclasses.replace(database, extractor_id="0" * 64))
    with pytest.raises(MapTensorError, match="length"):
        localizer.with_database("map", dataclasses.replace(database, descriptors=database.descriptors[:, :8]))
    foreign = tiny_extractor.descriptor(seed=5)
    stranger = dataclasses.replace(database, extractor_id=foreign.identity)
    with pytest.raises(MapError, match="describe"):
        database.append(stranger)


def test_images_without_overlap_are_not_believed(localizer):
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = rng.integers(0, 256, DRIVE.image(0).shape, dtype=np.uint8)
        assert ask(localizer, noise).state is LocalizationState.LOST


def test_images_added_later_are_found(localizer):
    database = localizer.database()
    grown = database.select(range(20)).append(database.select(range(20, 40)))
    estimate = ask(localizer.with_database("map", grown), DRIVE.image(33))
    np.testing.assert_allclose(estimate.T_map_cam, DRIVE.T_map_cam[33], atol=1e-5)
    assert torch.equal(grown.anchor, torch.arange(40, dtype=torch.int32)) and isinstance(grown, Database)


def test_a_prior_can_limit_the_search(bundle):
    """Of two places that look alike the prior's is taken; where the prior knows no reference, it is not asked."""
    here, covariance = DRIVE.T_map_cam[5], np.diag([0.25] * 3 + [0.01] * 3)
    nowhere = here.copy()
    nowhere[:3, 3] += 500.0
    with load_localizer(bundle.path, device="cpu", settings={"prior_gate_sigmas": 3.0}) as loaded:
        found = [ask(loaded, DRIVE.image(30), prior=PosePrior(T, covariance)) for T in (here, nowhere)]
    assert [int(e.diagnostics["nearest_reference"]) for e in found] == [5, 30]
