"""Densified databases: what is regressed, what is kept, whose the rows are, and that memory does not grow with them."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from vloc_ros.errors import ConfigError, InterpolationError, MapTensorError
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.copr.densify import densify, plan, regressed, sparsify
from vloc_ros.localizers.copr.network import DescriptorRegressor, relative_pose
from vloc_ros.localizers.copr.settings import DensifySettings, PlaneSettings, RegressorSettings, TargetSettings
from vloc_ros.localizers.retrieval.database import EXTRAPOLATED, IMAGE, INTERPOLATED, Database

SLOPE = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, -1.0], [0.0, 0.0, 0.0]])


def street(x, y=0.0, metric="l2", bend=0.0) -> Database:
    """References whose descriptors are linear in the position, and of a rectangle where ``bend`` spreads them in y."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=float), y)
    t = np.stack([x, y + bend * (np.arange(len(x)) % 2), np.full(len(x), 1.5)], axis=1)
    poses = torch.from_numpy(to_vectors(make_transform(np.tile(np.eye(3), (len(x), 1, 1)), t)))
    descriptors = poses[:, :3] @ SLOPE + torch.tensor([3.0, 0, 1])
    if metric == "cosine":
        descriptors = torch.nn.functional.normalize(descriptors, dim=1)
    return Database.of_images(descriptors, poses, torch.arange(len(x)), metric, "e" * 64)


def network(dimension=3) -> DescriptorRegressor:
    torch.manual_seed(0)
    return DescriptorRegressor(dimension, RegressorSettings(layers=2)).eval().requires_grad_(False)


def interpolation(method, **changes):
    return DensifySettings(method=method, targets=TargetSettings(scheme="interpolate", step_m=1.0), **changes)


def extrapolation(method, **changes):
    return DensifySettings(method=method, targets=TargetSettings(step_m=1.0, span_m=2.0), **changes)


@pytest.mark.parametrize("method", ["linear", "plane"])
def test_linear_methods_are_exact_where_descriptors_are_linear(method):
    dense = densify(street([0.0, 4.0, 8.0]), interpolation(method))
    assert len(dense) == 3 + 6
    torch.testing.assert_close(
        dense.descriptors.float(), dense.poses[:, :3] @ SLOPE + torch.tensor([3.0, 0, 1]), atol=0.02, rtol=0
    )
    assert dense.origin.tolist() == [IMAGE] * 3 + [INTERPOLATED] * 6
    assert dense.anchor.tolist() == [0, 1, 2, 0, 0, 1, 1, 1, 2]
    assert dense.stamps.tolist() == [0, 1, 2] + [0] * 6
    assert dense.regressed_share == pytest.approx(6 / 9)


def test_a_plane_extrapolates_sideways_where_the_references_spread_sideways():
    dense = densify(street([0.0, 4.0, 8.0, 12.0], bend=3.0), extrapolation("plane"))
    assert (dense.origin[4:] == EXTRAPOLATED).all() and len(dense) == 4 * 13
    torch.testing.assert_close(
        dense.descriptors.float(), dense.poses[:, :3] @ SLOPE + torch.tensor([3.0, 0, 1]), atol=0.02, rtol=0
    )


def test_h_makes_each_target_from_its_anchor_alone():
    database, H = street([0.0, 4.0, 8.0]), network()
    dense = densify(database, extrapolation("nonlinear", chunk=5), H)
    rows = dense.anchor[3:].long()
    relative = relative_pose(dense.poses[rows].double(), dense.poses[3:].double()).float()
    expected = H(database.descriptors[rows].float(), relative)
    torch.testing.assert_close(dense.descriptors[3:].float(), expected, atol=2e-3, rtol=2e-3)


def test_blended_h_between_two_weighs_as_equations_1_to_3():
    database, H = street([0.0, 4.0]), network()
    dense = densify(database, interpolation("nonlinear", blend=2), H)
    for row, (a, b) in zip((2, 3, 4), ((0.75, 0.25), (0.5, 0.5), (0.25, 0.75)), strict=True):
        made = [
            H(database.descriptors[i, None].float(), relative_pose(dense.poses[i, None], dense.poses[row, None]))[0]
            for i in (0, 1)
        ]
        torch.testing.assert_close(dense.descriptors[row].float(), a * made[0] + b * made[1], atol=2e-3, rtol=2e-3)
    near = densify(database, interpolation("nonlinear", blend=2), H, reach_m=1.5)
    alone = densify(database, interpolation("nonlinear"), H)
    torch.testing.assert_close(near.descriptors[[2, 4]], alone.descriptors[[2, 4]])
    assert not torch.equal(near.descriptors[3], alone.descriptors[3])  # in the middle both are equally near


def test_chunks_change_nothing():
    database = street(np.arange(0.0, 40, 4.0), bend=2.0)
    for settings in (extrapolation("plane"), interpolation("linear")):
        made = plan(database, settings)
        whole = torch.cat(list(regressed(made)))
        small = DensifySettings(settings.method, settings.targets, chunk=3)
        parts = list(regressed(plan(database, small)))
        assert max(len(p) for p in parts) == 3
        torch.testing.assert_close(torch.cat(parts), whole, atol=2e-3, rtol=0)


def test_descriptors_compared_by_direction_stay_of_unit_length():
    dense = densify(street([0.0, 4.0, 8.0], metric="cosine"), interpolation("linear"))
    torch.testing.assert_close(dense.descriptors.float().norm(dim=1), torch.ones(9), atol=1e-3, rtol=0)


def test_every_kth_image_is_kept_and_nothing_that_was_regressed():
    dense = densify(street(np.arange(10.0)), interpolation("linear", every=3))
    sparse = sparsify(dense, 2)
    assert sparse.poses[:, 0].tolist() == [0.0, 6.0]
    assert sparse.origin.tolist() == [IMAGE] * 2 and sparse.anchor.tolist() == [0, 1]
    assert sparsify(dense, 1).poses[:, 0].tolist() == [0.0, 3.0, 6.0, 9.0]
    with pytest.raises(ConfigError, match="at least 1"):
        sparsify(dense, 0)


def test_descriptors_at_the_poses_of_the_images_that_were_left_out():
    full = street(np.arange(11.0))
    settings = DensifySettings("linear", TargetSettings(scheme="interpolate", at="dropped"), every=5)
    dense = densify(full, settings)
    order = torch.argsort(dense.poses[:, 0])
    torch.testing.assert_close(dense.poses[order], full.poses)
    torch.testing.assert_close(dense.descriptors[order], full.descriptors, atol=0.02, rtol=0)
    assert dense.regressed_share == pytest.approx(8 / 11)


def test_a_map_is_interpolated_first_and_extrapolated_then_from_images_alone():
    once = densify(street([0.0, 4.0]), interpolation("linear"))
    twice = densify(once, extrapolation("nonlinear"), network())
    assert len(twice) == 5 + 2 * 12
    assert torch.equal(twice.descriptors[:5], once.descriptors)
    assert set(twice.anchor[5:].tolist()) == {0, 1}
    last = densify(once.append(street([8.0])), interpolation("plane"), None)
    assert set(last.anchor.tolist()) == {0, 1, 5}  # rows of the database, not numbers of images


def test_two_from_each_trajectory_with_less_than_two_of_them_are_the_nearest_four():
    lanes = street([0.0, 4.0, 8.0]).append(street([8.0, 4.0, 0.0], y=30.0))
    settings = DensifySettings(
        "plane", TargetSettings(step_m=5.0, span_m=5.0, max_gap_m=10.0), PlaneSettings(per_trajectory=2)
    )
    dense = densify(lanes, settings)
    torch.testing.assert_close(
        dense.descriptors.float(), dense.poses[:, :3] @ SLOPE + torch.tensor([3.0, 0, 1]), atol=0.05, rtol=0
    )
    alone = densify(street([0.0, 4.0, 8.0]), settings)
    plain = densify(street([0.0, 4.0, 8.0]), DensifySettings("plane", settings.targets))
    assert torch.equal(alone.descriptors, plain.descriptors)


def test_what_cannot_be_regressed_is_an_error():
    with pytest.raises(ConfigError, match="scheme interpolate"):
        extrapolation("linear")
    with pytest.raises(ConfigError, match="leaves references out"):
        DensifySettings("linear", TargetSettings(scheme="interpolate", at="dropped"))
    with pytest.raises(ConfigError, match="--regressor"):
        densify(street([0.0, 4.0]), extrapolation("nonlinear"))
    with pytest.raises(InterpolationError, match="lone reference"):
        densify(street([0.0]), interpolation("linear"))
    with pytest.raises(InterpolationError, match="at least one"):
        densify(street([]), extrapolation("plane"))
    steep = street([0.0, 0.1])
    huge = Database.of_images(
        torch.tensor([[-6e4, 0, 0], [6e4, 0, 0]]), steep.poses, steep.stamps, "l2", steep.extractor_id
    )
    ahead = DensifySettings("plane", TargetSettings(step_m=1.0, span_m=1.0))
    with pytest.raises(MapTensorError, match="float16"):
        densify(huge, ahead)


def test_descriptors_that_were_handed_out_are_not_kept():
    rng = np.random.default_rng(0)
    base = street(np.arange(0.0, 40, 2.0))
    wide = Database.of_images(
        torch.from_numpy(rng.normal(size=(20, 128))).float(), base.poses, base.stamps, "l2", base.extractor_id
    )
    settings = DensifySettings("plane", TargetSettings(step_m=0.1, span_m=5.65), chunk=2048)
    made = plan(wide, settings)
    assert len(made.targets) > 200_000
    rows, alive = 0, []
    for part in regressed(made):
        rows += len(part)
        alive.append(weakref.ref(part))
        assert len(part) <= settings.chunk
        assert sum(reference() is not None for reference in alive) <= 2
    assert rows == len(made.targets)
