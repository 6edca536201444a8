from __future__ import annotations

import numpy as np
import pytest
import tiny_pixloc

import vloc_ros
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.pixloc.localizer import PixLocLocalizer
from vloc_ros.types import LocalizationState, PosePrior, Query

pytest.importorskip("lightning", reason="calibration needs the extra [train]")


class Images:
    def __init__(self, poses):
        self.poses = poses

    def image(self, index):
        return tiny_pixloc.image(self.poses[index])

    def frames(self):
        return ((i, self.image(i)) for i in range(len(self.poses)))


def drive(count, seed):
    """Frames somewhere between the references, a little beside them."""
    rng = np.random.default_rng(seed)
    numbers, phases = rng.integers(2, 13, count), rng.uniform(0, 0.04, count)
    pairs = zip(numbers, phases, strict=True)
    poses = np.stack([tiny_pixloc.lap(16, phase=float(phase))[number] for number, phase in pairs])
    poses[:, :3, 3] += rng.normal(0.0, 0.05, (count, 3))
    stamps = np.arange(count, dtype=np.int64) * 100_000_000 + 1
    return PosedSequence("drive", stamps, poses, np.eye(4), tiny_pixloc.CAMERA, Images(poses))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    from vloc_train.training.calibration import recalibrate

    folder = tmp_path_factory.mktemp("calibrated")
    tiny_pixloc.wall_map(folder / "map", pixloc={"references": 2, "max_points": 150, "pyramid": False})
    return recalibrate(folder / "map", {"map": [drive(36, 0)]}, folder / "done", "cpu")


def test_a_calibrated_map_knows_how_wrong_it_is(calibrated):
    from vloc_ros.localizers.base import SimulatedPrior
    from vloc_train.training.calibration import simulated_prior

    stored = calibrated.manifest.calibration["map"]
    assert stored["covariance"]["names"] == list(PixLocLocalizer.statistics)
    other, rng, nees, ratio, states = drive(14, 1), np.random.default_rng(5), [], [], []
    with vloc_ros.load_localizer(calibrated.path, "cpu") as localizer:
        for index, truth in enumerate(other.T_map_cam):
            prior = simulated_prior(truth, rng, SimulatedPrior((0.1, 0.4)))
            estimate = localizer.localize(Query(other.image(index), other.camera, index + 1, prior))
            states.append(estimate.state)
            if estimate.state is LocalizationState.LOST:
                continue
            error = pose_error(estimate.T_map_cam, truth)
            nees.append(error @ np.linalg.solve(estimate.covariance, error))
            raw = estimate.diagnostics["hessian_sigma_x_m"]
            ratio.append(estimate.diagnostics["position_sigma_m"] / raw)
    assert states.count(LocalizationState.LOST) <= 3
    assert LocalizationState.LOCALIZED in states
    assert np.median(nees) < 14.0, "far too sure of itself"
    assert np.median(nees) > 0.1, "far too unsure of itself"
    assert np.median(ratio) > 1.5, "the Hessian alone is too sure of itself"


def test_a_sure_prior_outside_changes_nothing_about_lost(calibrated):
    T = drive(1, 3).T_map_cam[0].copy()
    T[:3, 3] += 200.0
    with vloc_ros.load_localizer(calibrated.path, "cpu") as localizer:
        image, prior = tiny_pixloc.image(tiny_pixloc.lap()[0]), PosePrior(T, np.eye(6) * 1e-4)
        found = localizer.localize(Query(image, tiny_pixloc.CAMERA, 1, prior))
    assert found.state is LocalizationState.LOST
