"""bench/vehicle.py: the road between its two towns, and a map that is given a place on the Earth."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bench import vehicle
from bench.timing import quantiles
from bench.two_towns import TwoTowns
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.localizers.base import load_localizer

ROOT = Path(__file__).resolve().parents[2]


def test_half_a_circle_leads_from_north_to_south_without_a_step():
    north = make_transform(so3_exp([0.0, 0.0, np.pi / 2]), [30.0, 5.0, 1.0])
    road = TwoTowns.bend(SimpleNamespace(RADIUS_M=12.0), north, 1.0, "west", "east")
    poses = [north, *(T for _, T in road), north @ make_transform(so3_exp([0.0, 0.0, -np.pi]), [0.0, -24.0, 0.0])]
    steps = [inverse(a) @ b for a, b in itertools.pairwise(poses)]
    lengths = [np.linalg.norm(step[:3, 3]) for step in steps]
    assert max(lengths) < 0.6 and min(step[0, 3] for step in steps) > 0.4, "always ahead"
    assert np.allclose(poses[-1][:3, 3], [54.0, 5.0, 1.0])
    assert [name for name, _ in road].count("west") == len(road) // 2


def test_a_map_with_a_datum_is_the_same_map(tmp_path):
    made = vehicle.with_datum(ROOT / "models" / "town_demo_features", tmp_path / "map")
    with load_localizer(made, "cpu") as localizer:
        assert [scene.datum for scene in localizer.manifest.scenes] == [vehicle.DATUM]


def test_quantiles_of_nothing_are_none():
    assert quantiles([]) == {} and quantiles([1.0, 2.0, 3.0])["p50"] == 2.0
