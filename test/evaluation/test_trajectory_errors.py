"""Absolute and relative errors: their definitions, and the same figures as the evo command (which is only run)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.evaluation.trajectory import read_tum, write_tum
from vloc_ros.evaluation.trajectory_errors import (
    PairChoice,
    compare,
    pairs_by_frames,
    pairs_by_path,
    relative_errors,
    statistics,
)
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform, se3_exp

START = 1_700_000_000_000_000_000
STATISTICS = ("rmse", "mean", "median", "std", "min", "max", "sse")


def drive(seed: int, count: int = 240, origin=(0.0, 0.0, 0.0)) -> PoseTrack:
    """A winding way at 20 Hz, about half a metre a frame, with hills."""
    rng = np.random.default_rng(seed)
    steps = np.zeros((count, 6))
    steps[:, 0] = rng.uniform(0.3, 0.7, count)
    steps[:, 3:] = rng.normal(size=3) * 0.01 + rng.normal(size=(count, 3)) * (0.005, 0.005, 0.03)
    T = np.empty((count, 4, 4))
    T[0] = make_transform(so3_exp(rng.normal(size=3)), np.asarray(origin))
    for i in range(1, count):
        T[i] = T[i - 1] @ se3_exp(steps[i])
    return PoseTrack(START + np.arange(count, dtype=np.int64) * 50_000_000, T)


def noisy(reference: PoseTrack, seed: int, every: int = 1, jitter_ns: int = 4_000_000, scale: float = 1.0) -> PoseTrack:
    """What a localizer might say of it: fewer frames, drop-outs, stamps beside the reference's, in another map."""
    rng = np.random.default_rng(seed)
    rows = np.arange(0, len(reference), every)
    rows = rows[rng.uniform(size=len(rows)) > 0.15]
    T = reference.T[rows] @ se3_exp(rng.normal(size=(len(rows), 6)) * ([0.2] * 3 + [0.02] * 3))
    T = se3_exp(rng.normal(size=6) * ([5.0] * 3 + [0.3] * 3)) @ T
    T[:, :3, 3] *= scale
    return PoseTrack(reference.stamps_ns[rows] + rng.integers(-jitter_ns, jitter_ns + 1, len(rows)), T)


# -- definitions ------------------------------------------------------------------------------------


def test_statistics_by_hand():
    found = statistics(np.array([3.0, 1.0, 2.0]))
    assert (found.count, found.mean, found.median, found.min, found.max, found.sse) == (3, 2.0, 2.0, 1.0, 3.0, 14.0)
    assert found.rmse == pytest.approx(np.sqrt(14 / 3)) and found.std == pytest.approx(np.sqrt(2 / 3))
    assert statistics(np.zeros(0)) is None


@given(st.integers(0, 40), st.integers(1, 12))
def test_pairs_by_frames(count, delta):
    every = pairs_by_frames(count, delta, all_pairs=True).tolist()
    assert every == [[i, i + delta] for i in range(count) if i + delta < count]
    marks = range(0, count, delta)
    assert pairs_by_frames(count, delta).tolist() == [[a, a + delta] for a in marks if a + delta < count]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), max_size=25), st.sampled_from([0.5, 2.0, 5.0]))
def test_pairs_by_path_against_the_definition(steps, delta):
    """Steps that are exact in binary, so that equal distances are equal; a vehicle that stands is among them."""
    way = np.concatenate([[0.0], np.cumsum(steps)])
    positions = np.stack([way, 0 * way, 0 * way], axis=1)
    expected = []
    for i in range(len(way) - 1):
        off = [abs(way[j] - way[i] - delta) for j in range(i + 1, len(way))]
        if min(off) <= 0.1 * delta:
            expected.append([i, i + 1 + off.index(min(off))])
    assert pairs_by_path(positions, delta, all_pairs=True).tolist() == expected
    marks = pairs_by_path(positions, delta)
    assert not len(marks) or marks[0, 0] == 0
    assert (marks[1:, 0] == marks[:-1, 1]).all()
    assert (way[marks[:, 1]] - way[marks[:, 0]] >= delta).all()
    assert (way[marks[:, 1] - 1] - way[marks[:, 0]] < delta).all()


@given(st.integers(0, 1000))
def test_a_relative_error_is_the_same_in_every_map(seed):
    reference = drive(seed, 30)
    estimate = se3_exp(np.array([4.0, 5.0, 6.0, 0.1, 0.2, 0.3])) @ reference.T
    metres, degrees = relative_errors(estimate, reference.T, pairs_by_frames(30, 3))
    np.testing.assert_allclose(metres, 0, atol=1e-9)
    np.testing.assert_allclose(degrees, 0, atol=1e-5)


def test_no_pairs_and_no_common_time():
    reference = drive(0, 20)
    found = compare(reference, reference, choice=PairChoice(1000.0))
    assert len(found.pairs) == len(found.relative_m) == 0 and found.absolute_m.max() == 0
    later = PoseTrack(reference.stamps_ns + 10**12, reference.T)
    with pytest.raises(ConfigError, match=r"at most 0.01 s apart, found none.*--time-offset"):
        compare(later, reference)
    assert len(compare(later, reference, offset_ns=-(10**12)).association) == 20


@pytest.mark.parametrize("bad", [{"delta": 0.0}, {"delta": float("nan")}, {"delta": 1.5, "unit": "f"}, {"unit": "km"}])
def test_deltas_that_make_no_sense(bad):
    with pytest.raises(ConfigError):
        PairChoice(**bad)


# -- against evo ------------------------------------------------------------------------------------


class Evo:
    """Runs ``evo_ape`` and ``evo_rpe`` on TUM files, in a home of their own, without a display."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.environment = {**os.environ, "HOME": str(folder), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}

    def figures(self, name: str, reference: Path, estimate: Path, *options: str) -> dict[str, float]:
        """``stats`` of the results, at full precision, and the number of errors."""
        beside = Path(sys.executable).with_name(name)
        command = str(beside) if beside.exists() else shutil.which(name)
        if command is None:
            pytest.skip(f"no {name}: pip install 'vloc_ros[eval]'")
        self.count += 1
        saved = self.folder / f"{self.count}.zip"
        done = subprocess.run(
            [command, "tum", str(reference), str(estimate), *options, "--save_results", str(saved), "--no_warnings"],
            env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and saved.exists(), done.stdout + done.stderr
        with zipfile.ZipFile(saved) as archive:
            stats = json.loads(archive.read("stats.json"))
            with archive.open("error_array.npy") as file:
                stats["count"] = len(np.load(file, allow_pickle=False))
        return stats


@pytest.fixture(scope="module")
def evo(tmp_path_factory):
    return Evo(tmp_path_factory.mktemp("evo"))


def agree(theirs: dict[str, float], ours) -> None:
    assert ours.count == theirs["count"]
    for name in STATISTICS:
        assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-6), name


def exported(folder: Path, reference: PoseTrack, estimate: PoseTrack) -> tuple[Path, Path]:
    for name, track in (("reference", reference), ("estimate", estimate)):
        write_tum(folder / f"{name}.tum", zip(track.stamps_ns.tolist(), track.T, strict=True))
    return folder / "reference.tum", folder / "estimate.tum"


@pytest.mark.parametrize(
    ("how", "options", "relation", "faster"),
    [
        ("none", (), "trans_part", "reference"),
        ("none", (), "angle_deg", "estimate"),
        ("se3", ("-a",), "trans_part", "estimate"),
        ("se3", ("-a",), "angle_deg", "reference"),
        ("sim3", ("-a", "-s"), "trans_part", "reference"),
        ("origin", ("--align_origin",), "trans_part", "reference"),
    ],
)
def test_absolute_errors_are_those_of_evo(evo, tmp_path, how, options, relation, faster):
    """Other rates on either side, drop-outs, jitter around the limit, a map at coordinates of a kilometre."""
    base = drive(1, origin=(1000.0, -2000.0, 50.0))
    sparse = noisy(base, 2, every=3, jitter_ns=12_000_000, scale=1.1)
    reference, estimate = (base, sparse) if faster == "reference" else (sparse, base)
    files = exported(tmp_path, reference, estimate)
    ours = compare(read_tum(files[1]), read_tum(files[0]), how=how)
    assert 30 < len(ours.association) < min(len(reference), len(estimate)) and not ours.association.contested
    errors = ours.absolute_m if relation == "trans_part" else ours.absolute_deg
    agree(evo.figures("evo_ape", *files, *options, "-r", relation, "--t_max_diff", "0.01"), statistics(errors))


@pytest.mark.parametrize(
    ("choice", "options", "relation"),
    [
        (PairChoice(1, "f"), ("-d", "1", "-u", "f"), "trans_part"),
        (PairChoice(7, "f", all_pairs=True), ("-d", "7", "-u", "f", "--all_pairs"), "angle_deg"),
        (PairChoice(10.0, "m"), ("-d", "10", "-u", "m"), "trans_part"),
        (PairChoice(10.0, "m", all_pairs=True), ("-d", "10", "-u", "m", "--all_pairs"), "trans_part"),
        (PairChoice(4.0, "m", path="reference"), ("-d", "4", "-u", "m", "--pairs_from_reference"), "angle_deg"),
    ],
)
def test_relative_errors_are_those_of_evo(evo, tmp_path, choice, options, relation):
    base = drive(3)
    files = exported(tmp_path, base, noisy(base, 4, jitter_ns=4_000_000))
    ours = compare(read_tum(files[1]), read_tum(files[0]), choice=choice)
    assert len(ours.pairs) > 5
    errors = ours.relative_m if relation == "trans_part" else ours.relative_deg
    theirs = evo.figures("evo_rpe", *files, *options, "-r", relation)
    if choice.unit == "m" and not choice.all_pairs and theirs["count"] == len(errors) - 1:
        errors = errors[1:]  # older releases leave out the first pair
    agree(theirs, statistics(errors))


def test_contested_poses_are_left_out_and_the_rest_is_as_in_evo(evo, tmp_path):
    """Two estimates beside one reference pose: evo counts both, we the nearer; exported pairs give equal figures."""
    base = drive(5, 60)
    doubled = PoseTrack(
        np.sort(np.concatenate([base.stamps_ns[:50] - 2_000_000, base.stamps_ns[:5] + 1_000_000])),
        np.repeat(base.T[:50], [2] * 5 + [1] * 45, axis=0) @ se3_exp(np.full((55, 6), 0.01)),
    )
    ours = compare(doubled, base)
    assert ours.association.contested == 5 and len(ours.association) == 50
    files = exported(tmp_path, PoseTrack(ours.stamps_ns, ours.reference), PoseTrack(ours.stamps_ns, ours.estimate))
    agree(evo.figures("evo_ape", *files), statistics(ours.absolute_m))
