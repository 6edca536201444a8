"""Which of several maps is in memory, and which in use."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.maps import MapManifest, Scene
from vloc_ros.maps.atlas import Atlas
from vloc_ros.nodes.map_switch import MapSwitch
from vloc_ros.types import CameraModel

SECOND = 1_000_000_000


class Opened:
    def __init__(self, name):
        self.name, self.closed = name, False

    def close(self):
        assert not self.closed
        self.closed = True


@pytest.fixture
def world():
    """Three maps of 100 m each along x, with 20 m between them, the first in use; and all that was opened."""
    camera = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
    scenes = [Scene("town", "map", (120.0 * k, -10.0, 0.0), (120.0 * k + 100.0, 10.0, 2.0), None) for k in range(3)]
    atlas = Atlas([(f"map{k}", MapManifest("fake", (s,), camera)) for k, s in enumerate(scenes)], 3.0, 30.0)
    opened, told = [Opened("map0")], []

    def load(name):
        if name == "bad":
            raise ValueError("broken")
        opened.append(Opened(name))
        return opened[-1]

    return MapSwitch(atlas, 0, load, told.append), opened, told


def settled(switch, act):
    """``act`` until nothing is loaded any more; what it gave."""
    found = act()
    if switch._thread is not None:
        switch._thread.join(10)
    return found


def test_the_next_map_is_loaded_ahead_and_the_one_left_behind_closed(world):
    switch, opened, told = world
    used = opened[0]
    for x in np.arange(0.0, 340.0, 5.0):
        used = settled(switch, lambda x=x, used=used: switch.at((x, 0.0, 0.0), used)) or used
        alive = [each for each in opened if not each.closed]
        assert len(alive) <= 2 and used in alive
        assert used.name == ("map0" if x < 112 else "map1" if x < 232 else "map2"), x
    assert [text for text in told if "ahead" in text] == ["map map1 is loaded ahead", "map map2 is loaded ahead"]
    switch.close()


def test_while_nothing_is_known_the_maps_are_looked_into_in_turn(world):
    switch, opened, _ = world
    used, seen = opened[0], []
    for tick in range(100):
        used = settled(switch, lambda t=tick, used=used: switch.search((1 + t) * SECOND // 2, used)) or used
        seen.append(used.name)
        assert sum(not each.closed for each in opened) <= 2
    lengths = [(name, sum(1 for each in seen if each == name)) for name in ("map0", "map1", "map2")]
    assert all(count > 20 for _, count in lengths) and seen[:6] == ["map0"] * 6
    # A place that is known ends it at once.
    assert settled(switch, lambda: switch.at((50.0, 0.0, 0.0), used)) is None or switch.current == 0


def test_a_map_that_cannot_be_loaded_is_passed_over(world):
    switch, opened, told = world
    switch.atlas.names[1] = "bad"
    used = opened[0]
    for tick in range(40):
        used = settled(switch, lambda t=tick, used=used: switch.search((1 + t) * SECOND // 2, used)) or used
    assert told.count("map bad cannot be loaded: broken") == 1 and "map map2 is loaded ahead" in told


def test_a_search_can_be_turned_off(world):
    switch, opened, _ = world
    still = MapSwitch(switch.atlas, 0, switch._load, print, 0.0)
    assert all(settled(still, lambda t=t: still.search(t * SECOND, opened[0])) is None for t in range(1, 20))
    assert len(opened) == 1
