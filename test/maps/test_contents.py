from __future__ import annotations

import pytest

from vloc_ros.errors import MapChecksumError
from vloc_ros.maps import read_map, write_map
from vloc_ros.maps.reader import LazyFiles, files_below, files_of


def test_files_are_read_when_they_are_written(tmp_path, manifest):
    alive = []

    def fetch(name):
        alive.append(name)
        return name.encode() * 10

    names = ["tiles/a-0.bin", "tiles/a-1.bin"]
    for target in (tmp_path / "map", tmp_path / "map.vmap"):
        bundle = write_map(target, manifest, {}, extra_files=LazyFiles(names, fetch))
        assert [entry.name for entry in bundle.manifest.files] == names
        assert bundle.read(names[1]) == names[1].encode() * 10
    assert sorted(set(alive)) == names


def test_another_map_of_the_same_files(tmp_path, manifest):
    (tmp_path / "staging" / "tiles").mkdir(parents=True)
    (tmp_path / "staging" / "tiles" / "x.bin").write_bytes(b"abc")
    first = write_map(tmp_path / "a", manifest, {}, extra_files=files_below(tmp_path / "staging", ["tiles/x.bin"]))
    second = write_map(tmp_path / "b", manifest, {}, extra_files=files_of(read_map(tmp_path / "a")))
    assert first.id == second.id
    (tmp_path / "a" / "tiles" / "x.bin").write_bytes(b"abd")
    with pytest.raises(MapChecksumError):
        write_map(tmp_path / "c", manifest, {}, extra_files=files_of(first))
    assert not (tmp_path / "c").exists()
