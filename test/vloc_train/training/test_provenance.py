from __future__ import annotations

import dataclasses

import numpy as np
import tiny_drive

import vloc_ros
from vloc_train.training.provenance import frame_id_of, provenance, scene_of


def test_a_map_says_how_it_was_made():
    found = provenance({"place": [tiny_drive.drive(3)]}, {"batch_size": 8}, training_minutes=2.0)
    assert found["data"] == {"place": ["lap"]} and found["settings"] == {"batch_size": 8}
    assert found["vloc_ros"] == vloc_ros.__version__ and found["training_minutes"] == 2.0
    assert len(found["date"]) == 10 and found["commit"]


def test_the_scene_covers_its_positions():
    scene = scene_of("place", np.array([[0.0, 5.0, 1.0], [2.0, -3.0, 1.5]]), "site")
    assert (scene.name, scene.frame_id) == ("place", "site")
    assert scene.area_min == (0.0, -3.0, 1.0) and scene.area_max == (2.0, 5.0, 1.5)


def test_the_frame_that_drives_agree_on():
    here = tiny_drive.drive(3)
    there = dataclasses.replace(here, frame_id="site")
    assert frame_id_of({"a": [there], "b": [there]}) == "site"
    assert frame_id_of({"a": [here], "b": [there]}) == "map"
