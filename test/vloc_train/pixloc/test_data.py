"""Pairs and batches: covisible, keyed, and with poses and points that agree."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_aligned
import torch

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.images.preprocess import Preprocess
from vloc_train.mapping.frame_points import depth_points
from vloc_train.pixloc.data import KeyedPairs, Place, random_motion
from vloc_train.pixloc.pairs import mine_pairs, overlap
from vloc_train.pixloc.settings import PairSettings, PointSettings, PriorSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.frames import cache_frames
from vloc_train.training.sampling import TrainingData

ROOT = Path(__file__).parents[3]


def place(folder: Path, **pairs) -> Place:
    drives = [tiny_aligned.drive(16), tiny_aligned.drive(16, "second", phase=0.1)]
    frames = cache_frames(drives, Preprocess(64, 36), folder)
    points = depth_points(drives, frames, 128, 80.0, 0, folder)
    settings = PairSettings(**{"reach_m": 4.0, "max_angle_deg": 45.0, **pairs})
    return Place(frames, points, mine_pairs(frames, points, np.repeat([0, 1], 16), settings, 0))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Place:
    return place(tmp_path_factory.mktemp("data"))


def test_partners_are_near_look_the_same_way_and_share_the_view(here):
    table, T = here.pairs, here.frames.T_map_cam
    assert len(table) == 32 and (np.diff(table.offsets) > 0).all()
    for number, anchor in enumerate(table.anchors):
        partners = table.partners[table.offsets[number] : table.offsets[number + 1]]
        assert anchor not in partners
        assert np.linalg.norm(T[partners, :3, 3] - T[anchor, :3, 3], axis=1).max() <= 4.0
        assert (T[partners, :3, 2] @ T[anchor, :3, 2]).min() >= np.cos(np.radians(45.0)) - 1e-9
    assert table.shared.min() >= 0.3
    _, own = here.points.of(5)
    for other in (6, 21):  # the share, counted by the package's projection
        cam = np.linalg.inv(T[other]) @ T[5]
        _, seen = project(here.frames.camera, own @ cam[:3, :3].T + cam[:3, 3])
        assert overlap(own, T[5], T[other], here.frames.camera) == pytest.approx(seen.mean(), abs=0.02)


def test_pairs_of_one_drive_and_of_two(here):
    drive, rng = here.pairs.drive, np.random.default_rng(0)
    for share, expected in ((0.0, 0), (1.0, 60)):
        other = [drive[here.pairs.draw(3, share, rng)] != drive[here.pairs.anchors[3]] for _ in range(60)]
        assert sum(other) == expected


def test_places_without_pairs(tmp_path):
    with pytest.raises(DatasetError, match="found none among 32"):
        place(tmp_path, reach_m=0.01)


def test_held_out_frames_are_anchors_only(here):
    held = np.arange(32) % 4 == 2
    settings = PairSettings(reach_m=4.0, max_angle_deg=45.0)
    table = mine_pairs(here.frames, here.points, here.pairs.drive, settings, 0, held, ~held)
    assert held[table.anchors].all() and not held[table.partners].any() and len(table) == 8


def test_an_item_agrees_with_itself(here):
    """A point of either image, taken by the true pose into the other, lies where the other's pose in the map says."""
    pairs = KeyedPairs([here], tiny_aligned.settings())
    item, images, pixels, points, mask, T_other, T_start, frames = pairs[(0, 0, 0, 3)]
    assert item == (0, 0, 0, 3) and frames[0] == 3 and images.dtype == torch.uint8 and images.shape == (2, 3, 36, 64)
    assert bool(mask.all()) and points.shape == (2, 64, 3)
    T = here.frames.T_map_cam[frames.numpy()]
    for k in range(2):
        np.testing.assert_array_equal(images[k].permute(1, 2, 0), here.frames.images[int(frames[k])])
        at, _ = project(here.frames.camera, points[k].numpy())
        np.testing.assert_allclose(at, pixels[k], atol=1e-3)
        np.testing.assert_allclose(T_other[k], np.linalg.inv(T[1 - k]) @ T[k], atol=1e-6)
        off = pose_error(np.linalg.inv(T_start[k].double().numpy()), np.linalg.inv(T_other[k].double().numpy()))
        assert 0 < np.linalg.norm(off[:3]) <= 0.6 + 1e-5 and 0 < np.degrees(np.linalg.norm(off[3:])) <= 4.0 + 1e-3


def test_frames_of_few_points_are_filled_up_and_masked(here):
    settings = tiny_aligned.settings(points=PointSettings(drawn=200))
    _, _, pixels, points, mask, *_ = KeyedPairs([here], settings)[(0, 0, 0, 0)]
    assert mask.sum(dim=1).tolist() == [128, 128] and points.shape == (2, 200, 3)
    assert bool((points[~mask] == torch.tensor([0.0, 0.0, 1.0])).all()) and bool((pixels[~mask] == 0).all())


def test_priors(here):
    def starts(kind):
        pairs = KeyedPairs([here], tiny_aligned.settings(prior=PriorSettings(kind, 0.6, 4.0)))
        return [pairs[(0, 0, 0, n)][6][0] for n in range(32)]

    eye = torch.eye(4)
    assert all(torch.equal(T, eye) for T in starts("reference"))
    assert not any(torch.equal(T, eye) for T in starts("noise"))
    assert 6 <= sum(torch.equal(T, eye) for T in starts("mixed")) <= 26


def test_random_motions_fill_their_ranges_evenly():
    rng = np.random.default_rng(0)
    moves = [random_motion(rng, 2.0, 5.0) for _ in range(400)]
    metres = np.array([np.linalg.norm(T[:3, 3]) for T in moves])
    degrees = np.degrees([np.arccos(np.clip((np.trace(T[:3, :3]) - 1) / 2, -1, 1)) for T in moves])
    for values, most in ((metres, 2.0), (degrees, 5.0)):
        counts, _ = np.histogram(values, 4, (0, most))
        assert values.max() <= most + 1e-6 and counts.min() > 70


def test_the_scale_is_the_batch_s(here):
    pairs = KeyedPairs([here], tiny_aligned.settings(scales=(0.5, 1.0)))
    scales = [pairs.collate([pairs[(0, step, 0, i)] for i in (1, 2)]).scale for step in range(12)]
    assert set(scales) == {0.5, 1.0} and scales == [pairs.scale(0, step) for step in range(12)]


def checksum(folder: Path) -> str:
    """Of all numbers of a batch."""
    settings = replace(tiny_aligned.settings(), augment=AugmentSettings(rotate_deg=(0.0, 0.0, 0.0)))
    pairs = KeyedPairs([place(folder)], settings)
    batch = pairs.collate([pairs[(3, 1, 0, n)] for n in (4, 9)])
    return sum(float(v.double().sum()) for v in vars(batch).values() if isinstance(v, torch.Tensor)).hex()


SCRIPT = """
import sys
sys.path[:0] = ["test/support", "test/vloc_train/pixloc"]
from pathlib import Path
import vloc_train.pixloc.train
import test_data
print(test_data.checksum(Path(sys.argv[1])), "pycolmap" in sys.modules)
"""


def test_a_batch_is_the_same_whatever_process_makes_it_and_needs_no_pycolmap(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "other")]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert other.split() == [checksum(tmp_path / "here"), "False"]


def test_items_depend_on_the_epoch_and_an_epoch_has_every_anchor_once(here):
    settings = replace(tiny_aligned.settings(), augment=AugmentSettings(rotate_deg=(0.0, 0.0, 0.0)))
    pairs = KeyedPairs([here], settings)
    one, again, other = pairs[(0, 0, 0, 5)], pairs[(0, 7, 0, 5)], pairs[(1, 0, 0, 5)]
    assert all(torch.equal(a, b) for a, b in itertools.islice(zip(one[1:], again[1:], strict=True), 7))
    assert not torch.equal(one[1], other[1]) and not torch.equal(one[2], other[2])
    batches = list(TrainingData(pairs).train_dataloader())
    assert [len(b.images) for b in batches] == [4] * 8
    assert sorted(torch.cat([b.frames[:, 0] for b in batches]).tolist()) == list(range(32))
