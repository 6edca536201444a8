from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
from random_poses import moved, pose

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.localizers.cascade.judge import agreement
from vloc_ros.types import CameraModel, Matches, Query


@pytest.mark.parametrize("distorted", [False, True])
def test_points_agree_with_the_pose_that_saw_them(distorted):
    camera = tiny_drive.CAMERA
    if distorted:
        camera = CameraModel(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, "plumb_bob", (-0.1, 0.01, 0, 0)
        )
    rng = np.random.default_rng(2)
    T = pose(rng)
    local = np.stack([rng.uniform(-2, 2, 60), rng.uniform(-1, 1, 60), rng.uniform(4, 9, 60)], 1)
    pixels, valid = project(camera, local)
    points = local @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose((points - T[:3, 3]) @ inverse(T)[:3, :3].T, local, atol=1e-9)
    matches = Matches(points, pixels, valid & (np.arange(60) < 50))
    query = Query(np.zeros((camera.height, camera.width, 3), np.uint8), camera, 1)
    found = agreement(T, query, matches, 2.0)
    assert found.count == int(matches.inliers.sum()) and found.error_px < 1e-6
    off = agreement(moved(T, np.array([0.1, 0, 0, 0, 0, 0])), query, matches, 2.0)
    assert off.count <= found.count and off.error_px > 0.1
    behind = T.copy()
    behind[:3, 3] += T[:3, 2] * 100.0
    assert agreement(behind, query, matches, 2.0).count == 0
