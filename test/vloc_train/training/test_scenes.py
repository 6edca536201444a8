"""Drives by scene: options reach those that they are said of, and all lie in one map frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_drive
import typer
from typer.testing import CliRunner

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.maps import read_map, write_map
from vloc_ros.maps.reader import files_of
from vloc_train import cli
from vloc_train.training.scenes import by_scene, check_bag_options, common_datum, datum_option, of_known_scenes

HERE, THERE = Datum(48.0, 11.0, 500.0), Datum(48.0, 11.1, 500.0)


def test_scenes_and_the_origin_of_bags(tmp_path):
    a = write_sequence(replace(tiny_drive.drive(4), datum=HERE), tmp_path / "a", image_format="png")
    b = write_sequence(replace(tiny_drive.drive(5), datum=HERE), tmp_path / "b", image_format="png")
    scenes = by_scene([f"yard={a}", str(b), f"yard=bag:{b}"], None)
    assert {name: [len(d) for d in drives] for name, drives in scenes.items()} == {"yard": [4, 5], "map": [5]}
    assert datum_option(scenes) == [48.0, 11.0, 500.0] and common_datum(scenes, None) == HERE


def test_origins_that_differ_are_refused_and_silent_ones_named(caplog):
    drives = [replace(tiny_drive.drive(4, name=n), datum=d) for n, d in (("a", HERE), ("b", THERE), ("c", None))]
    with pytest.raises(DatasetError, match=r"found a: 48.0,11.0,500.0; b: 48.0,11.1"):
        common_datum({"map": drives[:1]}, {"map": drives[1:]})
    assert common_datum({"map": drives[::2]}) == HERE
    assert "c: no origin is known; counts as that of a" in caplog.text
    assert common_datum({"map": drives[2:]}, None) is None


def test_calibration_of_a_scene_that_is_not_there():
    drives = {"map": [tiny_drive.drive(4)]}
    assert list(of_known_scenes(drives, ["yard"])) == ["yard"]
    with pytest.raises(ConfigError, match=r"expected drives of scene yard or road, found 'map'; write SCENE=SRC"):
        of_known_scenes(drives, ["yard", "road"])


def test_options_that_only_bags_have(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "groundtruth.txt").write_text("# x\n")
    check_bag_options({}, ["town:seed=1"])
    check_bag_options({"time_offset_s": 1.0}, ["town:seed=1", "yard=bag:drive"])
    with pytest.raises(ConfigError, match=r"--time-offset, --datum: expected a bag .* none among town:seed=1"):
        check_bag_options({"time_offset_s": 1.0, "datum": [1, 2, 3]}, ["town:seed=1", f"tum:{tmp_path}"])


def run(command, arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_training_refuses_drives_of_different_origins_before_it_begins(tmp_path):
    for name, datum in (("a", HERE), ("b", THERE)):
        write_sequence(replace(tiny_drive.drive(4), datum=datum), tmp_path / name, image_format="png")
    done = run(cli.train, ["imposing", "--data", tmp_path / "a", "--out", tmp_path / "map", tmp_path / "b"])
    assert isinstance(done.exception, DatasetError) and "one map origin" in str(done.exception)
    assert not (tmp_path / "map").exists() and not (tmp_path / "map.work").exists()


def test_a_map_is_calibrated_in_its_own_frame_alone(tmp_path):
    from tiny_maps import tiny_map

    bundle = read_map(tiny_map("imposing"))
    scenes = tuple(replace(scene, datum=HERE) for scene in bundle.manifest.scenes)
    write_map(tmp_path / "map", replace(bundle.manifest, scenes=scenes), {}, extra_files=files_of(bundle))
    bag = write_sequence(replace(tiny_drive.drive(4), datum=THERE), tmp_path / "bag", image_format="png")
    done = run(cli.calibrate, [tmp_path / "map", "--data", bag, "--device", "cpu"])
    assert isinstance(done.exception, DatasetError) and "in the map's frame at" in str(done.exception)
