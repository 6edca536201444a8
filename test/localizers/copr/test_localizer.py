"""CoPR as a backend: retrieval that says whether what it found was regressed, and from which image."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_copr
import tiny_drive

from vloc_ros.errors import MapError
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.copr.localizer import CoPRLocalizer
from vloc_ros.localizers.retrieval.database import IMAGE, Database
from vloc_ros.types import LocalizationState, Query
from vloc_train.copr.densify import densify_map, densify_settings

SETTINGS = densify_settings({"method": "linear", "targets": {"scheme": "interpolate", "step_m": 0.3}})


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copr")
    sparse = tiny_copr.retrieval_map(folder, 20)
    drives = {"map": [tiny_drive.drive(30, "other", phase=0.07)]}
    return sparse, densify_map(sparse.path, folder / "dense", SETTINGS, None, drives, "cpu")


def queries(count=24, phase=0.11):
    drive = tiny_drive.drive(count, phase=phase)
    return [(Query(image, drive.camera, int(drive.stamps_ns[i])), drive.T_map_cam[i]) for i, image in drive.frames()]


def test_a_densified_map_is_a_copr_map_and_says_what_it_found(maps):
    with load_localizer(maps[1].path, "cpu", backend="copr") as localizer:
        assert isinstance(localizer, CoPRLocalizer)
        database = Database.read(maps[1], "map")
        kinds = set()
        for query, _ in queries():
            found = localizer.localize(query)
            row = int(found.diagnostics["nearest_reference"])
            assert found.backend == "copr"
            assert found.diagnostics["regressed"] == float(database.origin[row] != IMAGE)
            anchor = int(found.diagnostics["anchor"])
            assert anchor == int(database.anchor[row]) and database.origin[anchor] == IMAGE
            apart = np.linalg.norm(database.T_map_cam[anchor, :3, 3] - database.T_map_cam[row, :3, 3])
            assert apart <= 0.5 * 2 * np.pi * 12.0 / 20 + 1e-3
            kinds.add(found.diagnostics["regressed"])
        assert kinds == {0.0, 1.0}


def test_between_sparse_references_the_regressed_ones_are_nearer(maps):
    medians = []
    for bundle in maps:
        with load_localizer(bundle.path, "cpu") as localizer:
            errors = [pose_error(localizer.localize(q).T_map_cam, T)[:3] for q, T in queries()]
        medians.append(float(np.median(np.linalg.norm(errors, axis=1))))
    assert medians[1] < 0.7 * medians[0]


def test_a_densified_map_is_calibrated_on_drives_that_are_given_and_else_cautious(maps, tmp_path):
    query = queries()[0][0]
    with load_localizer(maps[1].path, "cpu") as localizer:
        assert localizer.localize(query).diagnostics["position_sigma_m"] > 0
    bare = densify_map(maps[0].path, tmp_path / "bare", SETTINGS, device="cpu")
    assert not bare.manifest.calibration and not bare.manifest.validation
    with load_localizer(bare.path, "cpu") as localizer:
        found = localizer.localize(query)
    assert found.state is LocalizationState.DEGRADED and found.covariance[0, 0] >= 25.0


def test_settings_of_retrieval_apply_and_a_foreign_database_is_refused(maps):
    with load_localizer(maps[1].path, "cpu", settings={"k": 5}) as localizer:
        assert localizer.settings.k == 5
        assert localizer.localize(queries()[0][0]).diagnostics["averaged"] >= 1
        other = Database.read(maps[1], "map")
        foreign = Database(other.descriptors, other.poses, other.origin, other.anchor, other.stamps, "l2", "f" * 64)
        with pytest.raises(MapError, match="extractor"):
            localizer.with_database("map", foreign)
