from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from vloc_ros.errors import MapChecksumError, MapFormatError, MapNotFoundError, MapTensorError
from vloc_ros.maps import MapManifest, pack_map, read_map, write_map
from vloc_ros.maps.checksums import file_entry
from vloc_ros.maps.schema import dump_manifest

Tensors = dict[str, dict[str, torch.Tensor]]


def make_by_hand(path: Path, manifest: MapManifest, contents: dict[str, bytes]) -> Path:
    """A map that the writer would refuse, with checksums that agree."""
    path.mkdir()
    for name, content in contents.items():
        (path / name).write_bytes(content)
    entries = tuple(file_entry(name, content) for name, content in contents.items())
    (path / "map.yaml").write_text(dump_manifest(manifest.with_files(entries)))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_tensors_come_back(map_dir: Path, tensors: Tensors, packed: bool) -> None:
    bundle = read_map(pack_map(map_dir) if packed else map_dir)
    for name, group in tensors.items():
        found = bundle.tensors(name)
        assert found.keys() == group.keys()
        for key, tensor in group.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)


def test_packed_map_has_the_same_id(map_dir: Path) -> None:
    assert read_map(pack_map(map_dir)).id == read_map(map_dir).id


def test_id_follows_content(tmp_path: Path, manifest: MapManifest, tensors: Tensors) -> None:
    first = write_map(tmp_path / "a", manifest, tensors)
    again = write_map(tmp_path / "b", manifest, tensors)
    tensors["weights.safetensors"]["layer.bias"][0] += 1
    other = write_map(tmp_path / "c", manifest, tensors)
    assert first.id == again.id != other.id


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MapNotFoundError, match="found nothing"):
        read_map(tmp_path / "absent")
    with pytest.raises(MapNotFoundError, match=r"map\.yaml"):
        read_map(tmp_path)


def test_missing_file_is_named(map_dir: Path) -> None:
    (map_dir / "weights.safetensors").unlink()
    bundle = read_map(map_dir)
    with pytest.raises(MapNotFoundError, match=r"weights\.safetensors"):
        bundle.tensors("weights.safetensors")
    with pytest.raises(MapNotFoundError, match=r"other\.safetensors"):
        bundle.tensors("other.safetensors")


@pytest.mark.parametrize("packed", [False, True])
def test_altered_file(map_dir: Path, packed: bool) -> None:
    file = pack_map(map_dir) if packed else map_dir / "weights.safetensors"
    content = bytearray(file.read_bytes())
    position = content.find(b"layer.weight") if packed else len(content) - 1
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(MapChecksumError, match=r"weights\.safetensors"):
        read_map(file if packed else map_dir).tensors("weights.safetensors")


@pytest.mark.parametrize("change", [b"", b"longer"])
def test_truncated_or_longer_file(map_dir: Path, change: bytes) -> None:
    file = map_dir / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5] if not change else file.read_bytes() + change)
    with pytest.raises(MapChecksumError, match="bytes"):
        read_map(map_dir).tensors("weights.safetensors")


def test_truncated_zip(map_dir: Path) -> None:
    packed = pack_map(map_dir)
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(MapFormatError, match=r"town\.vmap"):
        read_map(packed)


def test_only_used_files_are_checked(map_dir: Path) -> None:
    (map_dir / "scenes" / "town.safetensors").write_bytes(b"altered")
    assert read_map(map_dir).tensors("weights.safetensors")


def test_nan_weights(tmp_path: Path, manifest: MapManifest) -> None:
    from safetensors.torch import save

    content = save({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])})
    bundle = read_map(make_by_hand(tmp_path / "m", manifest, {"weights.safetensors": content}))
    with pytest.raises(MapTensorError, match="'bad'"):
        bundle.tensors("weights.safetensors")


def test_int8_weights_that_overflow(tmp_path: Path, manifest: MapManifest) -> None:
    pair = {"w::int8": torch.full((1, 2), 127, dtype=torch.int8), "w::scale": torch.full((1, 1), 3e38)}
    bundle = write_map(tmp_path / "m", manifest, {"weights.safetensors": pair})
    with pytest.raises(MapTensorError, match="'w'"):
        bundle.tensors("weights.safetensors")


def test_stored_tensors_are_checked_too(tmp_path: Path, manifest: MapManifest) -> None:
    from safetensors.torch import save

    content = save({"bad": torch.tensor([float("inf")])})
    bundle = read_map(make_by_hand(tmp_path / "m", manifest, {"w.safetensors": content}))
    with pytest.raises(MapTensorError, match="'bad'"):
        bundle.stored_tensors("w.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"[:9]])
def test_checksummed_garbage(tmp_path: Path, manifest: MapManifest, content: bytes) -> None:
    bundle = read_map(make_by_hand(tmp_path / "m", manifest, {"weights.safetensors": content}))
    with pytest.raises(MapFormatError, match=r"weights\.safetensors"):
        bundle.tensors("weights.safetensors")


def test_link_out_of_the_map(map_dir: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (map_dir / "weights.safetensors").rename(secret)
    (map_dir / "weights.safetensors").symlink_to(secret)
    with pytest.raises(MapFormatError, match="link"):
        read_map(map_dir).tensors("weights.safetensors")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_zip_slip(tmp_path: Path, map_dir: Path, name: str) -> None:
    packed = pack_map(map_dir)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(MapFormatError, match="inside the map"):
        read_map(packed)


def test_compressed_zip_is_refused(tmp_path: Path, map_dir: Path) -> None:
    packed = tmp_path / "bomb.vmap"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(map_dir / "map.yaml", "map.yaml")
    with pytest.raises(MapFormatError, match="without compression"):
        read_map(packed)


def test_file_that_is_no_zip(tmp_path: Path) -> None:
    file = tmp_path / "x.vmap"
    file.write_bytes(b"no zip")
    with pytest.raises(MapFormatError, match="zip"):
        read_map(file)
