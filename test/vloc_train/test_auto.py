"""``vloc map build auto``: members of one drive in one map, points found once, nothing downloaded."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny_features

import vloc_ros
from vloc_ros.errors import ConfigError, MapChecksumError, MapError
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers import backbones
from vloc_ros.localizers.cascade.bundle import calibration_of, open_members, whole_size
from vloc_ros.maps import pack_map, read_map, verify_map
from vloc_ros.types import LocalizationState, Query
from vloc_train import auto
from vloc_train.training.registry import BUILDERS, find

pytest.importorskip("pycolmap", reason="points need the extra [maps]")


def build(out, **changes):
    few = tiny_features.settings(calibration_frames=20, image_dimension=16)
    values = {"features": few, **changes}
    return find(BUILDERS, "auto", "map build").run(
        {"map": [tiny_features.lap()]}, out, auto.AutoSettings(**values), tiny_features.OPTIONS
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("auto") / "campus")


def localized(path):
    drive, errors = tiny_features.unseen(4), []
    with vloc_ros.load_localizer(path, "cpu") as localizer:
        for number, truth in enumerate(drive.T_map_cam):
            found = localizer.localize(Query(drive.image(number), drive.camera, int(drive.stamps_ns[number])))
            assert found.state is LocalizationState.LOCALIZED
            errors.append(np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]))
    return max(errors)


def test_one_map_with_both_members_localizes(made):
    members = open_members(made)
    assert [m.role for m in members] == ["features", "fine"] and all(m.inside for m in members)
    features, pixloc = (m.bundle for m in members)
    told = made.manifest.provenance
    assert told["bytes"] == {"features": features.size_bytes, "pixloc": pixloc.size_bytes}
    assert told["length_m"]["map"] > 3.0 and set(told["seconds"]) == {"features", "pixloc"}
    assert whole_size(made) == made.size_bytes > features.size_bytes + pixloc.size_bytes
    assert calibration_of(made) == features.manifest.calibration and calibration_of(made)
    # The same points: none was triangulated a second time.
    assert 0 < pixloc.manifest.provenance["points"]["map"] <= features.manifest.provenance["points"]["map"]
    assert all(check.passed for check in verify_map(made.path))
    assert localized(made.path) < 0.06
    assert not (made.path.with_name("campus.work") / "members").exists()


def test_it_moves_as_a_whole_and_as_one_file(made, tmp_path):
    file = pack_map(made.path, tmp_path / "elsewhere.vmap")
    assert read_map(file).id == made.id and localized(file) < 0.06


def test_a_member_that_was_altered_is_refused(made, tmp_path):
    copy = shutil.copytree(made.path, tmp_path / "copy")
    (copy / "members" / "fine" / "map.yaml").write_text("format_version: 1\n")
    with pytest.raises(MapChecksumError, match="altered"):
        open_members(read_map(copy))
    (copy / "members" / "features" / "points.safetensors").unlink()
    assert not all(check.passed for check in verify_map(copy))
    (copy / "members.yaml").unlink()
    with pytest.raises(MapError, match=r"members\.yaml"):
        vloc_ros.load_localizer(copy, "cpu")


def test_without_weights_and_refinement(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(backbones.WeightsPackage, "file", lambda self: None)
    caplog.set_level("INFO")
    with pytest.raises(ConfigError, match=r"encoder: expected one whose weights are installed"):
        build(tmp_path / "map", encoder="tf_efficientnet_lite0", refine=False)
    bundle = build(tmp_path / "map", refine=False)
    assert bundle.manifest.backend == "features" and bundle.manifest.file("vlad.safetensors") is not None
    assert "VLAD of the local features" in caplog.text and "a kilometre like it is" in caplog.text


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [((640, 480), 640 * 480, (640, 480)), ((1241, 376), 288 * 192, (416, 128)), ((64, 48), 1 << 20, (64, 48))],
)
def test_image_sizes_keep_the_aspect(size, pixels, expected):
    assert auto.size_within(*size, pixels) == expected
