"""A chain of real members on a painted corner: matched points decide, PixLoc refines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_features
import tiny_street

import vloc_ros
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.cascade.bundle import write_cascade
from vloc_ros.localizers.cascade.localizer import FAILURES
from vloc_ros.localizers.features.localizer import FAILURES as JUDGED
from vloc_ros.types import LocalizationState, PosePrior, Query
from vloc_train.pixloc.build import BUILDER, BuildSettings

pytest.importorskip("pycolmap", reason="needs the extra [maps]")

NETWORK = Path(__file__).parents[3] / "models" / "pixloc_features"
NEAR = np.diag([0.01] * 3 + [1e-4] * 3)


def pixloc(folder, drive):
    settings = BuildSettings(image_width=240, image_height=144, report=False)
    return BUILDER.run(
        {"map": [drive]}, folder / "pixloc", settings, tiny_features.OPTIONS, extractor=NETWORK, hold_out="none"
    ).path


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    members = [tiny_features.built(folder).path, pixloc(folder, tiny_features.lap())]
    return write_cascade(folder / "chain", members).path


def test_a_judged_and_refined_pose_is_localized(chain):
    drive, errors = tiny_features.unseen(6), []
    with vloc_ros.load_localizer(chain, "cpu") as localizer:
        for number, truth in enumerate(drive.T_map_cam):
            query = Query(drive.image(number), drive.camera, int(drive.stamps_ns[number]))
            found = localizer.localize(query)
            assert found.backend == "cascade" and found.state is LocalizationState.LOCALIZED, found.diagnostics
            assert found.diagnostics["refinement_failure"] in (FAILURES["none"], FAILURES["outside_gate"])
            assert found.matches is not None and found.matches.inliers.sum() >= 20
            alone = localizer.judge.localize(query)
            assert np.linalg.eigvalsh(found.covariance - 0.99 * alone.covariance)[0] > -1e-5
            errors.append(np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]))
    assert max(errors) < 0.06


def test_nothing_to_see_is_lost(chain):
    drive = tiny_features.unseen(1)
    grey = np.full_like(drive.image(0), 127)
    with vloc_ros.load_localizer(chain, "cpu") as localizer:
        for prior in (None, PosePrior(drive.T_map_cam[0], NEAR)):
            found = localizer.localize(Query(grey, tiny_street.CAMERA, 5, prior))
            assert found.state is LocalizationState.LOST and found.diagnostics["failure"] == JUDGED["no_features"]
            assert np.isfinite(found.covariance).all()


def test_places_that_look_the_same_are_not_localized_without_a_prior(tmp_path):
    twins = tiny_features.twins()
    members = [tiny_features.built(tmp_path, {"map": [twins]}, calibration_frames=0).path, pixloc(tmp_path, twins)]
    chain = write_cascade(tmp_path / "chain", members)
    drive = tiny_features.unseen(1)
    query = Query(drive.image(0), drive.camera, 5)
    with vloc_ros.load_localizer(chain.path, "cpu") as localizer:
        found = localizer.localize(query)
        assert found.state is LocalizationState.LOST and found.diagnostics["rivalry"] > 0.6
        prior = PosePrior(drive.T_map_cam[0], NEAR)
        found = localizer.localize(Query(query.image_rgb, query.camera, 5, prior))
        assert found.state is LocalizationState.DEGRADED, "nobody has calibrated these maps"
        assert np.linalg.norm(pose_error(found.T_map_cam, drive.T_map_cam[0])[:3]) < 0.06
