"""A bag of two cameras replayed as one rig; a camera that is blind for a while; what cannot be a rig."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets.bag.drive import BagOptions
from vloc_ros.errors import ConfigError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.replay import replay

T_FRONT_SIDE = make_transform(so3_exp([0.0, 1.2, 0.0]), [0.6, 0.0, -0.1])
BLIND = range(12, 26)


@pytest.fixture(scope="module")
def drive(make_drive):
    return make_drive()


def write_rig(path, drive, side_frame="side_optical_frame", late_ns=3_000_000):
    """Front and side; the front is black for :data:`BLIND`."""
    side_camera = replace(drive.camera, height=20, cy=9.5)
    T_cam_base = inverse(drive.T_base_cam)
    with BagWriter(path) as bag:
        stamp = int(drive.stamps_ns[0])
        mountings = [("base_link", "camera_optical_frame", stamp, drive.T_base_cam)]
        if side_frame != "camera_optical_frame":
            mountings.append(("base_link", side_frame, stamp, drive.T_base_cam @ T_FRONT_SIDE))
        bag.transforms("/tf_static", stamp, mountings)
        for index, T in enumerate(drive.T_map_cam):
            stamp = int(drive.stamps_ns[index])
            bag.transforms("/tf", stamp, [("odom", "base_link", stamp, drive.T_odom_base[index])])
            bag.pose("/reference/pose", stamp, "map", T @ T_cam_base)
            bag.camera_info("/front/camera_info", stamp, "camera_optical_frame", drive.camera)
            image = drive.image(index)
            bag.image("/front/image", stamp, "camera_optical_frame", image * 0 if index in BLIND else image)
            bag.camera_info("/side/camera_info", stamp + late_ns, side_frame, side_camera)
            side = np.random.default_rng(1000 + index).integers(0, 255, (20, 32, 3), dtype=np.uint8)
            bag.image("/side/image", stamp + late_ns, side_frame, side)
    return path


@pytest.fixture(scope="module")
def rig_bag(tmp_path_factory, drive):
    return write_rig(tmp_path_factory.mktemp("rig") / "rig", drive)


@pytest.fixture
def localizer(knowing, bundle, drive):
    made = knowing(bundle, drive)
    seen = []
    find = type(made).find

    class Knowing(type(made)):
        takes_rigs = True

        def find(self, query, clock, keep_candidates):
            nearest = int(np.argmin(np.abs(drive.stamps_ns - query.stamp_ns)))
            T = drive.T_map_cam[nearest]
            if query.camera.height == 20:
                T = T @ T_FRONT_SIDE
            self.truth[query.stamp_ns] = T
            seen.append((query.camera.height, len(query.others)))
            return find(self, query, clock, keep_candidates)

    made.__class__ = Knowing
    made.seen = seen
    return made


def test_two_cameras_are_one_rig_and_one_that_is_blind_is_left_out(rig_bag, bundle, localizer, tmp_path):
    options = BagOptions(image="/front/image")
    result = replay(
        rig_bag, bundle.path, tmp_path / "out", options, localizer=localizer, rig=["/side/image"], plots=False
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["frames"] == 40 and report["published"] == 38 and not result.problem
    assert report["cameras"] == {
        "front": {"images": 40, "left_out": len(BLIND)}, "side": {"images": 40, "left_out": 0}
    }  # fmt: skip
    assert localizer.seen.count((18, 1)) >= 26 and localizer.seen.count((20, 0)) == len(BLIND)
    # The reference is the base's at the rig's stamp, whichever camera the pose came from.
    assert report["median_translation_m"] < 0.5 and report["max_translation_localized_m"] < 1.5


def test_cameras_that_are_apart_in_time_are_localized_one_after_the_other(rig_bag, bundle, localizer, tmp_path):
    result = replay(
        rig_bag, bundle.path, tmp_path / "out", BagOptions(image="/front/image"), localizer=localizer,
        rig=["/side/image"], rig_tolerance_s=0.001, plots=False,
    )  # fmt: skip
    assert result.report["frames"] == 80 and all(others == 0 for _, others in localizer.seen[5:])


def test_what_is_no_rig_is_refused(rig_bag, bundle, localizer, drive, tmp_path):
    def tried(bag=rig_bag, rig=("/side/image",), **options):
        chosen = BagOptions(**{"image": "/front/image", **options})
        replay(bag, bundle.path, tmp_path / "out", chosen, localizer=localizer, rig=rig, plots=False)

    with pytest.raises(ConfigError, match="different topics"):
        tried(rig=["/front/image"])
    with pytest.raises(ConfigError, match="--extrinsics: expected one --image"):
        tried(extrinsics=(0.0,) * 6)
    shared = write_rig(tmp_path / "shared", drive, "camera_optical_frame")
    with pytest.raises(ConfigError, match="frames of their own"):
        tried(shared)
