"""Satellite fixes in a map: where to look, what contradicts them, and each kind that is of no use."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.maps import Scene
from vloc_ros.tracking.fixes import FixMemory, FixSettings, SatelliteFix

DATUM = Datum(48.0, 11.0, 500.0)
SCENE = Scene("town", "map", (-50.0, -40.0, -1.0), (120.0, 90.0, 3.0), DATUM)
SECOND = 10**9
LOOSE = np.diag([0.04] * 3 + [1e-4] * 3)


def memory(scenes=(SCENE,), **settings):
    return FixMemory(scenes, FixSettings(**settings), 20.0)


def fix(position=(10.0, 20.0, 1.0), stamp=10 * SECOND, sigma=2.0, datum=DATUM, lever=(0.0, 0.0, 0.0)):
    place = [float(v) for v in datum.to_geodetic(np.array(position))]
    covariance = None if sigma is None else np.diag([sigma**2] * 3)
    return SatelliteFix(stamp, *place, covariance, np.array(lever))


def pose(x, y, yaw=0.0):
    return make_transform(so3_exp([0.0, 0.0, yaw]), [x, y, 0.0])


def test_a_fix_is_a_place_without_a_heading():
    fixes = memory()
    assert fixes.prior(10 * SECOND, np.eye(4)) is None
    assert fixes.offer(fix()) and fixes.problem == ""
    T_base_cam = make_transform(so3_exp([-np.pi / 2, 0.0, 0.0]), [1.0, 0.0, 1.5])
    prior = fixes.prior(10 * SECOND, T_base_cam)
    sigma = np.sqrt(np.linalg.eigvalsh(prior.covariance[:2, :2]))
    # The camera is a metre from the base, in a direction that nobody knows.
    assert np.allclose(prior.T_map_cam[:3, 3], (11.0, 20.0, 2.5), atol=1e-4) and 3.0 < sigma[0] < sigma[1] < 6.0
    assert prior.covariance[5, 5] == pytest.approx(np.pi**2)
    assert fixes.prior(13 * SECOND, T_base_cam) is None  # too old
    assert memory(use="gate").offer(fix())
    gate_only = memory(use="gate")
    gate_only.offer(fix())
    assert gate_only.prior(10 * SECOND, T_base_cam) is None


def test_what_contradicts_a_fix():
    fixes = memory()
    fixes.offer(fix(lever=(3.0, 0.0, 1.0)))
    now = 10 * SECOND
    # The antenna is three metres ahead of the base, wherever that looks.
    assert not fixes.contradicts(pose(7.0, 20.0), LOOSE, now, "town")
    assert not fixes.contradicts(pose(10.0, 17.0, np.pi / 2), LOOSE, now, "town")
    assert fixes.contradicts(pose(40.0, 20.0), LOOSE, now, "town")
    assert not fixes.contradicts(pose(40.0, 20.0), np.diag([100.0] * 3 + [0.1] * 3), now, "town")
    # A second later the vehicle may have driven away, and a fix of long ago says nothing.
    assert not fixes.contradicts(pose(28.0, 20.0), LOOSE, now + SECOND, "town")
    assert not fixes.contradicts(pose(90.0, 20.0), LOOSE, now + 3 * SECOND, "town")


@pytest.mark.parametrize(
    "offered, scenes, problem",
    [
        (fix(), (Scene("town", "map", (0, 0, 0), (1, 1, 1)),), "no datum"),
        (fix((5000.0, 20.0, 0.0)), (SCENE,), "m outside the map's area"),
        (fix(datum=Datum(47.0, 11.0, 500.0)), (SCENE,), "not the map's"),
        (SatelliteFix(1, np.nan, 11.0, 500.0), (SCENE,), "expected latitude"),
        (SatelliteFix(1, 91.0, 11.0, 500.0), (SCENE,), "expected latitude"),
    ],
)
def test_fixes_of_no_use_say_why(offered, scenes, problem):
    fixes = memory(scenes)
    assert not fixes.offer(offered) and problem in fixes.problem
    assert fixes.prior(offered.stamp_ns, np.eye(4)) is None
    assert not fixes.contradicts(pose(0.0, 0.0), LOOSE, offered.stamp_ns, "town")


def test_a_covariance_that_is_none_is_refused_and_a_missing_one_is_wide():
    fixes = memory()
    with pytest.raises(GeometryError, match="covariance of position"):
        fixes.offer(SatelliteFix(1, 48.0, 11.0, 500.0, np.diag([1.0, -2.0, 1.0])))
    fixes.offer(fix(sigma=None))
    wide = fixes.prior(10 * SECOND, np.eye(4)).covariance[0, 0]
    fixes.offer(fix(sigma=0.01))
    sure = fixes.prior(10 * SECOND, np.eye(4)).covariance[0, 0]
    assert wide == pytest.approx(100.0) and 9.0 <= sure < 9.1  # no receiver is believed to a centimetre
    assert not memory(use="off").offer(fix())


def test_of_two_scenes_the_fix_says_which():
    other = Scene("village", "map", (0.0, 0.0, 0.0), (100.0, 100.0, 1.0), Datum(48.5, 11.0, 500.0))
    fixes = memory((SCENE, other))
    fixes.offer(fix((20.0, 20.0, 0.0), datum=other.datum))
    assert not fixes.contradicts(pose(20.0, 20.0), LOOSE, 10 * SECOND, "village")
    assert fixes.contradicts(pose(20.0, 20.0), LOOSE, 10 * SECOND, "town")
