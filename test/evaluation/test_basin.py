from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tiny_pixloc

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import MapBackendError
from vloc_ros.evaluation import basin
from vloc_ros.evaluation.alignment_plots import Basin
from vloc_ros.evaluation.basin import align_drive, offset_prior
from vloc_ros.geometry.se3 import pose_error


class Images:
    def __init__(self, poses):
        self.poses = poses

    def image(self, index):
        return tiny_pixloc.image(self.poses[index])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_pixloc.wall_map(tmp_path_factory.mktemp("align") / "map", pixloc={"references": 2})


@pytest.fixture
def lap(monkeypatch):
    poses = tiny_pixloc.lap()
    stamps = np.arange(len(poses), dtype=np.int64) + 1
    drive = PosedSequence("lap", stamps, poses, np.eye(4), tiny_pixloc.CAMERA, Images(poses))
    monkeypatch.setattr(basin, "open_sequence", lambda name: drive)
    return drive


def test_plots_and_figures_of_a_drive(bundle, lap, tmp_path):
    pytest.importorskip("matplotlib")
    steps = []
    result = align_drive(
        bundle.path, "lap", tmp_path / "out", frames=2, priors=3, offset_m=0.4, offset_deg=1.0, device="cpu",
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(1, 2), (2, 2)] and result["attempts"] == 6
    assert result == json.loads((tmp_path / "out" / "basin.json").read_text())
    shares = [entry["share"] for entry in result["success"]]
    assert shares == sorted(shares) and shares[-1] > 0.5
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == sorted(
        ["basin.png", *(f"{kind}_{i}.png" for kind in ("confidence", "reprojections", "residuals") for i in (0, 15))]
    )
    for name in names:
        picture = cv2.imread(str(tmp_path / "out" / name))
        assert min(picture.shape[:2]) > 100 and picture.std() > 10, name


def test_priors_are_as_far_off_as_they_say():
    T = tiny_pixloc.lap()[3]
    error = pose_error(offset_prior(T, 1.5, 4.0, np.random.default_rng(0)).T_map_cam, T)
    assert np.linalg.norm(error[:3]) == pytest.approx(1.5)
    assert np.degrees(np.linalg.norm(error[3:])) == pytest.approx(4.0)


def test_success_is_of_both_parts():
    found = Basin(*np.array([[0, 0, 0.04, 0.1], [0, 0, 0.04, 3.0], [0, 0, np.inf, np.inf]]).T)
    assert found.success(0.05, 0.2).tolist() == [True, False, False]


def test_only_pixloc_maps(lap, tmp_path):
    from vloc_ros.maps import MapManifest, Scene, write_map

    pytest.importorskip("matplotlib")
    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    write_map(tmp_path / "other", MapManifest("nobody", (scene,), tiny_pixloc.CAMERA), {})
    with pytest.raises(MapBackendError):
        align_drive(tmp_path / "other", "lap", tmp_path / "out", device="cpu")
