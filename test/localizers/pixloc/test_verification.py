from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.levels import Level, Sight
from vloc_ros.localizers.pixloc.verification import MINIMAL, every, joint_share, peaks, share
from vloc_ros.types import CameraModel

WIDTH, HEIGHT = 60, 40
CAMERA = CameraModel(WIDTH, HEIGHT, 50.0, 50.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)


def scene(count: int, seed: int = 0, reach: int = 7):
    """A field of random features, and points 5 m ahead that project to cell centres and have their features."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(1, 12, HEIGHT, WIDTH)).astype(np.float32))
    x, y = rng.integers(reach, WIDTH - reach, count), rng.integers(reach, HEIGHT - reach, count)
    points = np.stack([(x - CAMERA.cx) / 50.0 * 5.0, (y - CAMERA.cy) / 50.0 * 5.0, np.full(count, 5.0)], axis=1)
    reference = features[0, :, y, x].T
    camera = TorchCamera.from_model(CAMERA, torch.device("cpu"))
    level = Level(GridField(features), camera, reference[None], None, torch.zeros(6))
    return level, torch.from_numpy(points)[None]


def at(x_m: float = 0.0) -> torch.Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[0, 3] = x_m
    return T


def peak_share(level, points, T):
    rows = every(points.shape[1])
    sight = Sight(points[:, rows], (replace(level, reference=level.reference[:, rows]),))
    return torch.tensor([share(*counts) for counts in peaks(sight, T)[:, 0].tolist()])


@pytest.mark.parametrize("count", [40, 600])
def test_all_points_peak_at_the_true_pose_and_chance_has_it_elsewhere(count):
    level, points = scene(count)
    # Half a cell is 5 cm at 5 m; three cells beside, the features there are those of nothing.
    share = peak_share(level, points, torch.stack([at(), at(0.03), at(0.3), at(-50.0)]))
    assert share[0] == 1.0 and share[1] == 1.0
    assert share[2] < 0.1 and share[3] == 0.0


def test_features_are_compared_whatever_their_length():
    level, points = scene(100)
    longer = Level(level.field, level.camera, 7.0 * level.reference, None, level.damping)
    assert peak_share(longer, points, at()[None]) == 1.0


def test_too_few_points_tell_nothing():
    for count, wanted in ((MINIMAL, 1.0), (MINIMAL - 1, 0.0)):
        level, points = scene(count)
        assert peak_share(level, points, at()[None]) == wanted


def test_points_without_room_around_them_do_not_count():
    level, points = scene(200, reach=0)
    full = peak_share(level, points, at()[None])
    assert full == 1.0
    corner = torch.full_like(points, 5.0) * torch.tensor([-0.588, -0.388, 1.0])  # cell (0, 0)
    assert peak_share(level, corner, at()[None]) == 0.0


def test_what_is_not_finite_counts_as_not_seen():
    level, points = scene(100)
    assert peak_share(level, points, torch.full((1, 4, 4), float("nan"), dtype=torch.float64)) == 0.0
    points = points.clone()
    points[0, :50] = float("inf")
    assert peak_share(level, points, at()[None]) == 1.0


def test_a_camera_that_sees_nothing_takes_nothing_from_the_rig():
    assert joint_share([(30, 100), (50, 100)]) == 0.5
    assert joint_share([(30, 100), (0, 100)]) == 0.3 == joint_share([(30, 100), (0, 0)])
    # Too few points in each, enough in both.
    assert joint_share([(10, 20), (10, 20)]) == 0.5 and joint_share([(10, 20), (5, 5)]) == 0.0


def test_cameras_of_a_rig_are_counted_each_for_itself():
    (first, points), (second, where) = scene(100), scene(100, seed=1)
    turn = torch.eye(4, dtype=torch.float64)[None]
    turn[0, :3, :3] = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    cells = [level.field.rows.view(1, HEIGHT + 2, WIDTH + 2, -1)[:, 1:-1, 1:-1] for level in (first, second)]
    both = replace(
        first, field=GridField(torch.cat(cells).permute(0, 3, 1, 2)),
        reference=torch.cat([first.reference, second.reference]),
    )  # fmt: skip
    # The second camera looks along the first one's x axis.
    points = torch.cat([points, where @ turn[0, :3, :3]])
    rig = torch.cat([torch.eye(4, dtype=torch.float64)[None], turn])
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[1, 80:] = False
    poses = torch.stack([at(), at(-50.0)])
    assert peaks(Sight(points, (both,), mask, rig), poses).tolist() == [[[100, 100], [80, 80]], [[0, 0], [0, 0]]]
