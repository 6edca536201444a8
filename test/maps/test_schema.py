from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vloc_ros.errors import MapError, MapFormatError, MapVersionError
from vloc_ros.maps.schema import FileEntry, MapManifest, check_file_name, dump_manifest, parse_manifest


def edited(manifest: MapManifest, *path: str | int, value: Any = None, delete: bool = False) -> str:
    data = yaml.safe_load(dump_manifest(manifest))
    target = data
    for key in path[:-1]:
        target = target[key]
    if delete:
        del target[path[-1]]
    else:
        target[path[-1]] = copy.deepcopy(value)
    return yaml.safe_dump(data)


def test_round_trip(manifest: MapManifest) -> None:
    full = manifest.with_files((FileEntry("weights.safetensors", 3, "0" * 64),))
    assert parse_manifest(dump_manifest(full), "map.yaml") == full


def test_numpy_values_and_tuples_become_plain(manifest: MapManifest) -> None:
    odd = dataclasses.replace(manifest, validation={"m": np.float32(0.5), "n": (np.int64(1), 2)})
    assert parse_manifest(dump_manifest(odd), "map.yaml").validation == {"m": 0.5, "n": [1, 2]}


def test_numpy_numbers_in_typed_fields_become_plain(manifest: MapManifest) -> None:
    low, high = (tuple(row) for row in np.array([[-1.5, 0.0, 2.0], [1.0, 2.0, 3.0]]))
    scene = dataclasses.replace(manifest.scenes[0], area_min=low, area_max=tuple(map(np.float32, high)))
    found = parse_manifest(dump_manifest(dataclasses.replace(manifest, scenes=(scene,))), "map.yaml").scenes[0]
    assert found.area_min == (-1.5, 0.0, 2.0) and found.area_max == (1.0, 2.0, 3.0)
    odd = dataclasses.replace(scene, area_min=np.zeros(3))
    with pytest.raises(MapFormatError, match="plain values"):
        dump_manifest(dataclasses.replace(manifest, scenes=(odd,)))


def test_values_that_are_not_plain_are_refused_by_name(manifest: MapManifest) -> None:
    with pytest.raises(MapFormatError, match=r"settings\.x.*ndarray"):
        dump_manifest(dataclasses.replace(manifest, settings={"x": np.zeros(3)}))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("surprise",), 1, "surprise"),
        (("camera", "zoom"), 1, "camera.*zoom"),
        (("camera", "fx"), "wide", "camera: fx"),
        (("camera", "fx"), float("nan"), "camera: fx"),
        (("camera", "fx"), -1.0, "focal"),
        (("camera", "width"), 240.5, "camera: width"),
        (("camera", "cx"), -1e12, "they are of no camera"),
        (("camera", "fx"), 1e12, "they are of no camera"),
        (("camera", "distortion"), [1e14, 0.0, 0.0, 0.0], "they are of no camera"),
        (("camera", "width"), True, "camera: width"),
        (("camera", "distortion_model"), "fisheye9", "fisheye9"),
        (("scenes",), [], "scenes"),
        (("scenes",), {"name": "town"}, "scenes"),
        (("scenes", 0, "area_min"), [1.0, 2.0], "area_min"),
        (("scenes", 0, "area_min"), [1e9, 0.0, 0.0], "area"),
        (("scenes", 0, "datum", "latitude_deg"), 200.0, "latitude"),
        (("backend",), 7, "backend"),
        (("backend",), "../evil", "backend"),
        (("settings",), [1], "settings"),
        (("settings",), {1: 2}, "settings"),
        (("files",), [{"name": "../x", "bytes": 1, "sha256": "0" * 64}], "inside the map"),
        (("files",), [{"name": "x", "bytes": -1, "sha256": "0" * 64}], "bytes"),
        (("files",), [{"name": "x", "bytes": 1, "sha256": "zz"}], "sha256"),
        (("files",), [{"name": "x", "bytes": 1}], "sha256"),
        (("files",), [{"name": "x", "bytes": n, "sha256": "0" * 64} for n in (1, 2)], "distinct"),
        (("format_version",), "1", "format_version"),
        (("format_version",), True, "format_version"),
    ],
)
def test_bad_fields_are_named(manifest: MapManifest, path: tuple[str | int, ...], value: Any, named: str) -> None:
    with pytest.raises(MapFormatError, match=named) as caught:
        parse_manifest(edited(manifest, *path, value=value), "some/map.yaml")
    assert "some/map.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["backend", "scenes", "camera", "files", "format_version"])
def test_missing_fields_are_named(manifest: MapManifest, name: str) -> None:
    with pytest.raises(MapFormatError, match=name):
        parse_manifest(edited(manifest, name, delete=True), "map.yaml")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_versions(manifest: MapManifest, version: int) -> None:
    # Whatever else a later version changes, the version is what the message is about.
    text = edited(manifest, "format_version", value=version) + "new_field: 1\n"
    with pytest.raises(MapVersionError, match=f"found {version}"):
        parse_manifest(text, "map.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "[1, 2",
        "a: &x [1]\nb: *x",  # aliases: a few bytes could stand for gigabytes
        "format_version: 1\nformat_version: 1",
        "x: !!python/object/apply:os.system ['true']",
        "\x00",
        "{" * 5000,
        "a: 2024-99-99",
        "a: !!int ''",
        "a: !!bool foo",
        "a: !!timestamp foo",
        "a: !!float ''",
        "a: !!binary x",
        "!!set {a}",
        f"a: {'9' * 5000}",
        f"a: {'9' * 30}",
        f"a: 0x{'f' * 4000}",
        f"a: 1:{'59:' * 2000}0",
    ],
)
def test_hostile_text(text: str) -> None:
    with pytest.raises(MapFormatError):
        parse_manifest(text, "map.yaml")


def test_size_is_limited() -> None:
    with pytest.raises(MapFormatError, match="bytes"):
        parse_manifest("#" * (2 << 20), "map.yaml")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_any_text_gives_a_map_error(text: str | bytes) -> None:
    with pytest.raises(MapError):
        parse_manifest(text, "map.yaml")


@pytest.mark.parametrize("name", ["w.safetensors", "scenes/a/b.npz", "..hidden", "a..b"])
def test_good_file_names(name: str) -> None:
    assert check_file_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "a/../../b", "a/..", "a//b", "a/", "./a", "a\\b", "C:x", "a\nb", "map.yaml"]
)
def test_bad_file_names(name: str) -> None:
    with pytest.raises(MapFormatError):
        check_file_name(name)


def test_scene_by_name(manifest: MapManifest) -> None:
    assert manifest.scene().name == manifest.scene("town").name == "town"
    with pytest.raises(MapFormatError, match="village"):
        manifest.scene("village")
