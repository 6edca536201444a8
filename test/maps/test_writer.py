from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from vloc_ros import staging
from vloc_ros.errors import MapError, MapFormatError, MapTensorError
from vloc_ros.maps import MapManifest, pack_map, read_map, write_map

Tensors = dict[str, dict[str, torch.Tensor]]


def test_existing_map_is_not_overwritten(map_dir: Path, manifest: MapManifest) -> None:
    before = read_map(map_dir).id
    with pytest.raises(MapError, match="exists"):
        write_map(map_dir, manifest, {})
    assert read_map(map_dir).id == before


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_swaps(map_dir: Path, manifest: MapManifest, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:  # a system without renameat2

        def no_library(*args: object, **options: object) -> None:
            raise OSError

        monkeypatch.setattr(staging.ctypes, "CDLL", no_library)
    write_map(map_dir, manifest, {"new.safetensors": {"x": torch.ones(2)}}, overwrite=True)
    assert [entry.name for entry in read_map(map_dir).manifest.files] == ["new.safetensors"]
    assert sorted(os.listdir(map_dir)) == ["map.yaml", "new.safetensors"]
    assert os.listdir(map_dir.parent) == ["town"], "nothing is left beside the map"


def test_overwrite_spares_what_is_no_map(tmp_path: Path, manifest: MapManifest) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(MapError, match="expected a map to overwrite"):
        write_map(tmp_path / "precious", manifest, {}, overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()


@pytest.mark.parametrize("suffix", ["", ".vmap"])
@pytest.mark.parametrize("existing", [True, False])
def test_crash_leaves_the_old_map_or_none(
    tmp_path: Path,
    manifest: MapManifest,
    tensors: Tensors,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    existing: bool,
) -> None:
    target = tmp_path / f"town{suffix}"
    if existing:
        write_map(target, manifest, tensors)
        before = read_map(target).id

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MapError, match="No space"):
        write_map(target, manifest, {"new.safetensors": {"x": torch.ones(2)}}, overwrite=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([target.name] if existing else [])
    if existing:
        assert read_map(target).id == before


def test_nan_is_never_written(tmp_path: Path, manifest: MapManifest) -> None:
    with pytest.raises(MapTensorError, match="'w'"):
        write_map(tmp_path / "m", manifest, {"weights.safetensors": {"w": torch.tensor([float("inf")])}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../w.safetensors", "/w", "map.yaml"])
def test_file_names_stay_inside(tmp_path: Path, manifest: MapManifest, name: str) -> None:
    with pytest.raises(MapFormatError):
        write_map(tmp_path / "m", manifest, {name: {"w": torch.ones(1)}})


def test_shared_memory_and_views(tmp_path: Path, manifest: MapManifest) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    group = {"a": base, "b": base, "view": base.t()}
    found = write_map(tmp_path / "m", manifest, {"w.safetensors": group}).tensors("w.safetensors")
    assert all(torch.equal(found[name], group[name]) for name in group)


def test_extra_files(tmp_path: Path, manifest: MapManifest) -> None:
    bundle = write_map(tmp_path / "m", manifest, {}, extra_files={"sfm/points.bin": b"abc"})
    assert bundle.read("sfm/points.bin") == b"abc"


def test_written_vmap_equals_packed_directory(tmp_path: Path, manifest: MapManifest, tensors: Tensors) -> None:
    write_map(tmp_path / "a.vmap", manifest, tensors)
    write_map(tmp_path / "b", manifest, tensors)
    assert (tmp_path / "a.vmap").read_bytes() == pack_map(tmp_path / "b").read_bytes()


def test_pack_refuses_a_bad_map_and_an_existing_file(map_dir: Path) -> None:
    packed = pack_map(map_dir)
    with pytest.raises(MapError, match="exists"):
        pack_map(map_dir)
    assert pack_map(map_dir, overwrite=True) == packed
    (map_dir / "weights.safetensors").write_bytes(b"")
    with pytest.raises(MapError, match="bytes"):
        pack_map(map_dir, map_dir.with_suffix(".2.vmap"))


def test_permissions_follow_the_umask(map_dir: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert map_dir.stat().st_mode & 0o777 == 0o777 & ~mask
    assert pack_map(map_dir).stat().st_mode & 0o777 == 0o666 & ~mask
