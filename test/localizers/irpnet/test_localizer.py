"""IRPNet against a trained tiny map: accuracy, covariance, what it refuses, determinism, maps that lie."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import tiny_irpnet
import torch
import yaml

from vloc_ros import load_localizer
from vloc_ros.errors import ConfigError, MapFormatError, MapTensorError
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.irpnet.localizer import OTHER_COVARIANCE, WEIGHTS_FILE
from vloc_ros.localizers.irpnet.references import REFERENCES_FILE
from vloc_ros.localizers.irpnet.statistics import (
    DROPOUT_STATISTICS,
    RESIDUAL_STATISTICS,
    deviations,
    regression_statistics,
)
from vloc_ros.maps import read_map, write_map
from vloc_ros.maps.schema import MANIFEST_NAME
from vloc_ros.types import LocalizationState, Query

LAP = tiny_drive.drive(24, name="query", phase=0.02)


@pytest.fixture(scope="module")
def map_path():
    return tiny_irpnet.trained_map()


@pytest.fixture(scope="module")
def localizer(map_path):
    return load_localizer(map_path, device="cpu")


def query(index: int = 0, image: np.ndarray | None = None, stamp: int | None = None) -> Query:
    picture = LAP.image(index) if image is None else image
    return Query(picture, tiny_drive.CAMERA, int(LAP.stamps_ns[index]) if stamp is None else stamp)


@pytest.fixture(scope="module")
def estimates(localizer):
    return [localizer.localize(query(i)) for i in range(len(LAP))]


def test_it_finds_the_way(estimates):
    errors = np.array([pose_error(e.T_map_cam, T) for e, T in zip(estimates, LAP.T_map_cam, strict=True)])
    assert np.median(np.linalg.norm(errors[:, :3], axis=1)) < 2.5
    assert np.degrees(np.median(np.linalg.norm(errors[:, 3:], axis=1))) < 8.0
    assert np.mean([e.state is not LocalizationState.LOST for e in estimates]) > 0.7


@pytest.mark.parametrize("kind", ["residuals", "dropout"])
def test_the_covariance_holds_most_errors(map_path, kind):
    with load_localizer(map_path, device="cpu", settings={"covariance": kind}) as localizer:
        assert localizer.statistics == (RESIDUAL_STATISTICS if kind == "residuals" else DROPOUT_STATISTICS)
        inside = []
        for i, T in enumerate(LAP.T_map_cam):
            e = localizer.localize(query(i))
            error = pose_error(e.T_map_cam, T)
            inside.append(error @ np.linalg.solve(e.covariance, error) < 12.59)
            assert e.covariance.shape == (6, 6) and np.linalg.eigvalsh(e.covariance)[0] > 0
    assert np.mean(inside) > 0.75


def test_what_an_estimate_tells(estimates, localizer):
    e = estimates[0]
    assert e.backend == "irpnet" and e.map_id == localizer.map_id and e.scene == "map"
    assert set(e.timings_ms) == {"describe", "regress", "assess"}
    assert 0 < e.score <= 1 and set(RESIDUAL_STATISTICS) <= set(e.diagnostics)
    references = localizer.reference_poses()
    nearest = references[int(e.diagnostics["nearest_reference"])]
    gap = np.linalg.norm(nearest[:3, 3] - e.T_map_cam[:3, 3])
    assert np.log(gap + 1e-3) == pytest.approx(e.diagnostics["reference_gap"], abs=1e-3)


def test_the_nearest_reference_of_a_training_image_is_itself(localizer):
    training = tiny_drive.drive(60)
    found = [localizer.localize(query(image=training.image(i))).diagnostics["nearest_reference"] for i in (0, 7, 59)]
    assert found == [0.0, 7.0, 59.0]


def test_another_stamp_draws_other_dropout_and_the_same_pose(localizer):
    first, later = (localizer.localize(query(3, stamp=stamp)) for stamp in (3, 5))
    assert np.array_equal(later.T_map_cam, first.T_map_cam)
    assert later.diagnostics["dropout_translation"] != first.diagnostics["dropout_translation"]


@pytest.mark.parametrize("kind", ["residuals", "dropout"])
def test_images_that_do_not_show_the_map(map_path, kind):
    rng = np.random.default_rng(0)
    shape = (tiny_drive.HEIGHT, tiny_drive.WIDTH, 3)
    strangers = [
        rng.integers(0, 255, shape).astype(np.uint8),
        np.zeros(shape, np.uint8),
        np.full(shape, 127, np.uint8),
        np.full(shape, 255, np.uint8),
    ]
    with load_localizer(map_path, device="cpu", settings={"covariance": kind}) as localizer:
        states = [localizer.localize(query(image=image)).state for image in strangers]
    assert states == [LocalizationState.LOST] * 4


def test_another_place_is_not_believed(localizer):
    elsewhere = tiny_drive.drive(20, paint=7)
    wrong = []
    for i, T in enumerate(elsewhere.T_map_cam):
        e = localizer.localize(query(image=elsewhere.image(i)))
        error = pose_error(e.T_map_cam, T)
        honest = error @ np.linalg.solve(e.covariance, error) < 30.0
        wrong.append(e.state is LocalizationState.LOCALIZED and not honest)
    assert np.mean(wrong) <= 0.1


def test_a_map_calibrated_for_one_covariance_alone(map_path, tmp_path):
    def forget(manifest):
        del manifest["calibration"]["map"][OTHER_COVARIANCE]

    other = tiny_drive.edited(_copied(map_path, tmp_path), forget)
    load_localizer(other, device="cpu").localize(query())
    with pytest.raises(ConfigError, match="calibrate"):
        load_localizer(other, device="cpu", settings={"covariance": "dropout"})


def test_more_neighbours_than_references(map_path):
    e = load_localizer(map_path, device="cpu", settings={"neighbours": 100}).localize(query())
    assert np.isfinite(e.diagnostics["reference_spread"])


def _copied(source, target):
    bundle = read_map(source)
    files = {f.name: bundle.read(f.name) for f in bundle.manifest.files}
    return write_map(target / "map", bundle.manifest, {}, extra_files=files).path


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (WEIGHTS_FILE, lambda t: t.pop("map.position.branches.position.head.weight"), "head.weight"),
        (WEIGHTS_FILE, lambda t: t.update({"map.position.extra": torch.zeros(1)}), "unknown tensor 'extra'"),
        (WEIGHTS_FILE, lambda t: t.update({"map.position.shared.0.weight": torch.zeros(64, 9)}), "expected shape"),
        (REFERENCES_FILE, lambda t: t.update({"map.poses": torch.zeros(3, 7)}), "map.descriptors"),
        (
            REFERENCES_FILE,
            lambda t: t.update({"map.poses": torch.zeros(0, 7), "map.descriptors": torch.zeros(0, 32)}),
            "at least one",
        ),
    ],
)
def test_maps_that_lie(map_path, tmp_path, file, change, message):
    broken = tiny_drive.rewritten(map_path, tmp_path / "map", file, change)
    with pytest.raises(MapTensorError, match=message):
        load_localizer(broken, device="cpu")


def test_another_extractor_s_weights_are_refused(map_path, tmp_path):
    def exchange(tensors):
        name = next(k for k in sorted(tensors) if tensors[k].ndim == 4)
        tensors[name] = tensors[name] + 0.5

    broken = tiny_drive.rewritten(map_path, tmp_path / "map", "extractor.safetensors", exchange)
    with pytest.raises(MapFormatError, match="expected id"):
        load_localizer(broken, device="cpu")


def test_the_manifest_is_plain(map_path):
    manifest = yaml.safe_load((map_path / MANIFEST_NAME).read_text())
    assert set(manifest["settings"]) == {"extractor", "network", "inference"}
    assert {"describing_minutes", "training_minutes", "extractor"} <= set(manifest["provenance"])


def test_statistics():
    pose = np.array([1.0, 2.0, 3.0, 0, 0, 0, 1])
    turned = np.array([0, 0, np.sin(0.1), np.cos(0.1)])
    moved, turned_too, above = pose.copy(), pose.copy(), pose.copy()
    moved[0] += 3.0
    turned_too[1] += 4.0
    above[2] += 2.0
    turned_too[3:] = above[3:] = turned
    sampled, near = np.stack([moved, turned_too]), np.stack([above, pose])
    found = np.exp(regression_statistics(pose, sampled, 0.5, 3.0, 1.5, near))
    wanted = [3.0, 2.0, 0.2, np.sqrt(12.5), 0.2 / np.sqrt(2), 1.0, 0.5]
    assert found == pytest.approx([wanted[0], *(w + 1e-3 for w in wanted[1:])], rel=1e-6)


def test_deviations_count_what_is_worse_only(localizer):
    model = localizer._calibration["map"].covariance
    assert not deviations(model, model.center - 1.0).any()
    spread = np.maximum(model.spread, 0.1)
    assert deviations(model, model.center + 2.0 * spread) == pytest.approx(2.0)
