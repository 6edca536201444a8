"""Drives and splits: rendered once, folds that partition the queries and keep the map apart from them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.rotations import rotation_angle, so3_exp
from vloc_train.benchmark.data import Drive, FolderDrive, Selection
from vloc_train.benchmark.drives import Drives, Part, join, overlap
from vloc_train.benchmark.protocol import load
from vloc_train.benchmark.score import asked_of
from vloc_train.benchmark.splits import Near, Prior, ReferencePrior, Split, folds_of
from vloc_train.training.town import TownDrive

TINY = TownDrive(seed=4, index=0, width=48, height=27, loop_m=120.0, spacing_m=12.0)


def straight(name: str, count: int, side_m: float = 0.0, yaw: float = 0.0, start_ns: int = 1000) -> PosedSequence:
    """A drive along x without images."""
    T = np.tile(np.eye(4), (count, 1, 1))
    c, s = np.cos(yaw), np.sin(yaw)
    T[:, :3, :3] = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])
    T[:, 0, 3], T[:, 1, 3] = np.arange(count), side_m
    stamps = start_ns + 100 * np.arange(count, dtype=np.int64)
    return PosedSequence(name, stamps, T, np.eye(4), None, None)  # type: ignore[arg-type]


class FixedDrives:
    """Drives by name that are there already."""

    def __init__(self, **sequences):
        self.sequences = sequences

    def part(self, selection):
        sequence = self.sequences[selection.name]
        return Part(selection.name, selection.rows(len(sequence)), sequence, selection.name)

    def all_parts(self, texts, where):
        return [self.part(Selection.parse(text, where)) for text in texts]


@given(st.integers(20, 60), st.integers(1, 6), st.integers(1, 4))
def test_folds_partition_queries_and_stay_apart(count, folds, apart):
    drives = FixedDrives(left=straight("left", count), right=straight("right", count, side_m=-0.5))
    split = Split(("left",), ("right",), folds=folds * 2 * apart, apart_frames=apart)
    if split.folds > count:
        return
    found = folds_of("s", split, drives)
    asked = np.concatenate([fold.query[0].rows for fold in found])
    np.testing.assert_array_equal(np.sort(asked), np.arange(count))
    for fold in found:
        distance = np.abs(fold.map[0].rows[:, None] - fold.query[0].rows[None])
        assert distance.min() == apart  # not one frame less, not one more
        left_out = fold.left_out[0].rows if fold.left_out else np.zeros(0, dtype=np.int64)
        np.testing.assert_array_equal(np.sort(np.r_[left_out, fold.map[0].rows]), np.arange(count))
        others = fold.query_left_out[0].rows if fold.query_left_out else np.zeros(0, dtype=np.int64)
        np.testing.assert_array_equal(np.sort(np.r_[others, fold.query[0].rows]), left_out)


def test_a_query_of_another_time_excludes_nothing():
    drives = FixedDrives(left=straight("left", 20), right=straight("right", 20, start_ns=10**9))
    fold = folds_of("s", Split(("left",), ("right",), apart_frames=5), drives)[0]
    assert len(fold.map[0]) == 20


def test_only_queries_close_to_the_map_and_looking_alike():
    maps = straight("map", 10)
    drives = FixedDrives(map=maps, on=straight("on", 30, 0.3), back=straight("back", 30, 0.3, np.pi))
    near = Split(("map",), ("on", "back"), within_m=0.5)
    assert [len(p) for p in folds_of("s", near, drives)[0].query] == [10, 10]
    alike = Split(("map",), ("on", "back"), within_m=0.5, within_deg=40.0)
    assert [(p.name, len(p)) for p in folds_of("s", alike, drives)[0].query] == [("on", 10)]
    with pytest.raises(ConfigError, match="none left"):
        folds_of("s", Split(("map",), ("on",), within_m=0.1), drives)


def test_map_frames_cannot_ask():
    drives = FixedDrives(a=straight("a", 10))
    with pytest.raises(ConfigError, match="found frames of a in both"):
        folds_of("s", Split(("a[:5]",), ("a[4:]",)), drives)
    assert len(folds_of("s", Split(("a[:5]",), ("a[5:]",)), drives)) == 1


def test_overlap_is_of_the_drive_not_of_its_name():
    sequence = straight("a", 10)
    one, two = Part("x", np.arange(4), sequence, "d"), Part("y", np.arange(3, 6), sequence, "d")
    assert overlap([one], [two]) == "x"
    assert overlap([one], [two.keep(np.array([1]))]) == ""
    assert one.digest != two.digest


def test_a_town_drive_is_rendered_once(tmp_path):
    told = []
    drives = Drives({"a": Drive(town=TINY), "b": Drive(town=TINY)}, None, tmp_path, told.append)
    part = drives.part(Selection("a"))
    first = part.frames().image(3)
    assert first.shape == (27, 48, 3) and first.std() > 5
    again = Drives({"a": Drive(town=TINY)}, None, tmp_path, told.append).part(Selection("a"))
    np.testing.assert_array_equal(again.frames().image(3), first)
    assert len(told) == 1 and again.digest == part.digest
    depth = again.sequence.source.depth(3)
    assert depth.shape == (27, 48) and np.isinf(depth[0]).any() and 0.5 < depth[-1].min() < 10.0  # sky and road
    assert drives.part(Selection("b")).digest == part.digest  # equal content, whatever its name
    np.testing.assert_allclose(again.sequence.T_map_cam, part.sequence.T_map_cam)
    assert [i for i, _ in again.keep(np.array([2, 5])).frames().frames()] == [0, 1]


def test_folders_need_a_root(tmp_path):
    data = {"a": Drive(folder=FolderDrive("rgb"))}
    with pytest.raises(ConfigError, match=r"data\.a: expected --root"):
        Drives(data, None, tmp_path).part(Selection("a"))


def test_grey_takes_the_colour_out(tmp_path, shared_data):
    root = shared_data("kitti00_416x128").parent
    camera = {"intrinsics": (240.97, 244.72, 203.54, 63.05)}
    data = {
        "grey": Drive(folder=FolderDrive("kitti00_416x128", grey=True, **camera)),
        "colour": Drive(folder=FolderDrive("kitti00_416x128", **camera)),
    }
    drives = Drives(data, root, tmp_path)
    grey, colour = drives.part(Selection("grey", 3, 5)), drives.part(Selection("colour", 3, 5))
    image = grey.frames().image(1)
    assert (image[..., 0] == image[..., 2]).all() and (colour.frames().image(1)[..., 0] != image[..., 0]).any()
    assert grey.digest != colour.digest


def test_priors_are_the_same_whatever_a_fold_leaves_out():
    drives = FixedDrives(left=straight("left", 40), right=straight("right", 40, side_m=-0.5))
    prior = Prior(reference=ReferencePrior((2.0, 6.0)), repeats=2)
    told = {}
    for name, split in {
        "whole": Split(("left",), ("right",)),
        "folds": Split(("left",), ("right",), folds=8, apart_frames=4),
    }.items():
        asked = [asked_of(fold, prior, 3) for fold in folds_of(name, split, drives)]
        for one in asked:
            stamps = np.concatenate([part.sequence.stamps_ns[part.rows] for part in one.queries])
            seen: dict[int, int] = {}
            for row, stamp in enumerate(stamps.tolist()):
                repeat = seen[stamp] = seen.get(stamp, -1) + 1
                told.setdefault((stamp, repeat), []).append(one.prior(row).T_map_cam)
    assert len(told) == 80
    for poses in told.values():
        assert len(poses) == 2 and (poses[0] == poses[1]).all()
    assert asked_of(folds_of("s", Split(("left",), ("right",)), drives)[0], None, 3).prior(0) is None


def test_folders_of_the_tum_benchmark_need_intrinsics_and_may_distort(tmp_path):
    (tmp_path / "desk" / "rgb").mkdir(parents=True)
    for name in ("10.0", "10.1"):
        cv2.imwrite(str(tmp_path / "desk" / "rgb" / f"{name}.png"), np.zeros((36, 64, 3), np.uint8))
    (tmp_path / "desk" / "groundtruth.txt").write_text("10.0 0 0 1 0 0 0 1\n10.1 0.1 0 1 0 0 0 1\n")
    lens = (0.26, -0.95, -0.005, 0.003, 1.16)
    data = {
        "plain": Drive(folder=FolderDrive("desk")),
        "lens": Drive(folder=FolderDrive("desk", intrinsics=(50.0, 50.0, 31.5, 17.5), distortion=lens)),
    }
    drives = Drives(data, tmp_path, tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"desk: expected the intrinsics"):
        drives.part(Selection("plain"))
    part = drives.part(Selection("lens"))
    assert len(part) == 2 and part.sequence.camera.is_distorted and part.sequence.camera.distortion == lens


@given(st.integers(0, 2**16), st.floats(0.5, 8.0), st.floats(1.0, 179.0))
def test_queries_near_frames_of_any_drive_and_each_condition_for_itself(seed, within, turned):
    rng = np.random.default_rng(seed)
    drives = FixedDrives(
        map=straight("map", 20), query=straight("query", 20, start_ns=9000), other=straight("other", 20)
    )
    for name in ("query", "other"):
        T = drives.sequences[name].T_map_cam
        T[:, :3, 3] += rng.normal(size=(20, 3)) * 3
        T[:, :3, :3] = so3_exp(rng.normal(size=(20, 3))) @ T[:, :3, :3]
    near = (Near(("other[::2]",), within), Near(turned_deg=turned))
    query, other, base = (drives.sequences[name].T_map_cam for name in ("query", "other", "map"))
    distance = np.linalg.norm(query[:, None, :3, 3] - other[None, ::2, :3, 3], axis=-1)
    angle = np.degrees(rotation_angle(query[:, None, :3, :3], base[None, :, :3, :3]))
    expected = np.flatnonzero((distance <= within).any(axis=1) & (angle <= turned).any(axis=1))
    if not len(expected):
        with pytest.raises(ConfigError, match="none left"):
            folds_of("s", Split(("map",), ("query",), near=near), drives)
        return
    (fold,) = folds_of("s", Split(("map",), ("query",), near=near), drives)
    assert fold.query[0].rows.tolist() == expected.tolist()


def test_selections_of_one_drive_are_one_part():
    rows = {"a": [[4, 6], [1, 4]], "b": [[0]]}
    parts = [Part(name, np.array(r), None, name) for name, parts in rows.items() for r in parts]
    assert [(part.name, part.rows.tolist()) for part in join(parts)] == [("a", [1, 4, 6]), ("b", [0])]


def test_the_splits_of_the_real_images(shared_data, tmp_path):
    """As they are stated: how many frames, which, and how far from the map."""
    root = shared_data("hololens_indoor").parent
    protocol = load("real_images")
    drives = Drives(protocol.data, root, tmp_path)
    found = {name: folds_of(name, split, drives)[0] for name, split in protocol.splits.items()}
    sizes = {name: tuple(len(part) for part in (*fold.map, *fold.query)) for name, fold in found.items()}
    assert sizes == {
        "hololens": (87, 15), "tum": (34, 25), "kitti_stereo": (17, 16), "between": (469, 47), "gap": (469, 80)
    }  # fmt: skip
    frames = np.arange(1018)
    block = ((frames % 200) < 20) & (frames >= 200) & (frames < 1000)
    for name in ("between", "gap"):
        np.testing.assert_array_equal(found[name].map[0].rows, frames[(frames % 2 == 0) & ~block])
    np.testing.assert_array_equal(found["between"].query[0].rows, frames[(frames % 2 == 1) & ~block][::10])
    np.testing.assert_array_equal(found["gap"].query[0].rows, frames[block])
    np.testing.assert_array_equal(found["hololens"].map[0].rows, np.arange(0, 261, 3))
    assert found["hololens"].query[0].rows.min() >= 291
    np.testing.assert_array_equal(found["kitti_stereo"].map[0].rows, np.arange(0, 97, 6))
    np.testing.assert_array_equal(found["kitti_stereo"].query[0].rows, np.arange(3, 94, 6))
    # Of the desk by the images' names: number 50 has no pose.
    names = sorted((root / "tum_fr1_xyz" / "rgb").iterdir())
    for part, wanted in ((found["tum"].map[0], names[:100:3]), (found["tum"].query[0], names[100::4])):
        assert [part.sequence.source.paths[row].name for row in part.rows] == [path.name for path in wanted]
