"""Which of several maps a place is in."""

from __future__ import annotations

import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.maps import MapManifest, Scene
from vloc_ros.maps.atlas import Atlas
from vloc_ros.types import CameraModel

CAMERA = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)


def manifest(low, high, datum=None, frame="map"):
    scene = Scene("town", frame, (low, -10.0, 0.0), (high, 10.0, 2.0), datum)
    return MapManifest("fake", (scene,), CAMERA)


def atlas(*maps, hysteresis=3.0, ahead=20.0):
    return Atlas([(f"map{n}", m) for n, m in enumerate(maps)], hysteresis, ahead)


def test_a_vehicle_changes_maps_once_on_each_way():
    made = atlas(manifest(0.0, 100.0), manifest(90.0, 200.0))
    current, changes = 0, []
    for x in [*range(0, 200), *range(199, -1, -1)]:
        wanted = made.wanted((x, 0.0, 0.0), current)
        if wanted != current:
            changes.append((x, wanted))
        current = wanted
    assert changes == [(104, 1), (86, 0)]
    assert [made.near((x, 0.0)) for x in (50.0, 75.0, 95.0, 150.0)] == [[0], [0, 1], [0, 1], [1]]
    assert made.distances((230.0, 50.0)).tolist() == pytest.approx([(130**2 + 40**2) ** 0.5, 50.0])


def test_maps_that_do_not_continue_each_other_are_refused():
    here, there = Datum(48.0, 11.0, 500.0), Datum(48.1, 11.0, 500.0)
    with pytest.raises(ConfigError, match="one datum for all"):
        atlas(manifest(0.0, 100.0, here), manifest(90.0, 200.0, there))
    with pytest.raises(ConfigError, match="map1: none"):
        atlas(manifest(0.0, 100.0, here), manifest(90.0, 200.0))
    with pytest.raises(ConfigError, match="one frame"):
        atlas(manifest(0.0, 1.0), manifest(0.0, 1.0, frame="other"))
    with pytest.raises(ConfigError, match="at least one"):
        atlas()
    assert atlas(manifest(0.0, 100.0, here), manifest(90.0, 200.0, here)).wanted((150.0, 0.0), 0) == 1
