"""Altered maps of every backend, with checksums that hold: a named error, or poses and covariances that are some."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_features
import tiny_street
import yaml
from fuzzing import NUMBERS, Edit, assault, damaged, edit_tree, spoiled, tree_edit

import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.errors import VlocError
from vloc_ros.maps.describe import describe_map, verify_map
from vloc_ros.maps.reader import read_map
from vloc_ros.types import Estimate, LocalizationState, PosePrior, Query, check_covariance, check_transform

DATA = Path(__file__).parents[1] / "data" / "maps_0_1"
BACKENDS = ("imposing", "retrieval", "copr", "irpnet", "camnet", "pixloc", "cascade", "features")
#: The whole map's texts are read and written as fast as can be; what is attacked reads them in its own way.
LOADER, DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
#: What a line of numbers of a tensor is filled with.
FILLS = ("zeros", "nan", "inf", "huge", "tiny", "noise", "shuffled", "repeated", "negated")


class Whole:
    """The files of a map as bytes, its manifest as a tree, and images to ask about."""

    def __init__(self, folder: Path, drive: Any) -> None:
        self.files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.drive = drive

    def write(self, folder: Path, edits: list[Edit]) -> None:
        """The map with some edits; sizes and checksums are those of what is written."""
        files = dict(self.files)
        manifest = yaml.load(files["map.yaml"], LOADER)
        for kind, name, *how in edits:
            if kind == "manifest":
                edit_tree(manifest, how[0])
            elif kind == "yaml" and name in files:
                try:
                    tree = yaml.load(files[name], LOADER)
                except yaml.YAMLError:  # an edit before this one hit its bytes
                    continue
                edit_tree(tree, how[0])
                files[name] = yaml.dump(tree, Dumper=DUMPER, allow_unicode=True).encode()
            elif kind == "bytes" and name in files:
                files[name] = damaged(files[name], random.Random(how[0]))
            elif kind == "tensor" and name in files:
                files[name] = altered(files[name], *how)
            elif kind == "swap" and name in files and how[0] in files:
                files[name], files[how[0]] = files[how[0]], files[name]
            elif kind == "drop":
                files.pop(name, None)
        entries = manifest.get("files") if isinstance(manifest, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            content = files.get(str(entry.get("name"))) if isinstance(entry, dict) else None
            if content is not None:
                entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        if not any(edit[:2] == ["bytes", "map.yaml"] for edit in edits):
            text = yaml.dump(manifest, Dumper=DUMPER, allow_unicode=True)
            files["map.yaml"] = text.encode()
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def altered(content: bytes, seed: int, where: str) -> bytes:
    """A safetensors file with another header, or other numbers in a tensor."""
    if len(content) < 8:
        return content
    size = struct.unpack("<Q", content[:8])[0]
    try:
        header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
        size = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
        for entry in header.values():
            begin, end = entry.get("data_offsets", (0, 0))
            if begin < 0 or end > len(body) or (end - begin) % size.get(entry.get("dtype"), 1):
                return content
    except (ValueError, TypeError, AttributeError):  # an edit before this one hit the header
        return content
    chance = random.Random(seed)
    names = sorted(set(header) - {"__metadata__"})
    if not names:
        return content
    name = chance.choice(names)
    entry = header[name]
    if where == "header":
        key = chance.choice(["dtype", "shape", "data_offsets", "name"])
        if key == "name":
            header[chance.choice([name + "x", *names])] = header.pop(name)
        elif key == "dtype":
            entry["dtype"] = chance.choice(["F32", "F64", "F16", "BF16", "I8", "U8", "I64", "I32", "BOOL", "X1"])
        elif key == "shape":
            shape = entry["shape"]
            entry["shape"] = chance.choice([shape[::-1], [*shape, 1], shape[1:], [0, *shape], spoiled(chance, shape)])
        else:
            entry["data_offsets"] = spoiled(chance, entry["data_offsets"])
    else:
        begin, end = entry["data_offsets"]
        kind = {
            "F32": np.float32,
            "F64": np.float64,
            "F16": np.float16,
            "I64": np.int64,
            "I32": np.int32,
            "I8": np.int8,
        }
        numbers = np.frombuffer(bytes(body[begin:end]), kind.get(entry["dtype"], np.uint8)).copy()
        if numbers.size:
            refill(numbers, chance)
        body[begin:end] = numbers.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def refill(numbers: np.ndarray, chance: random.Random) -> None:
    """Some of the numbers, or all, become others."""
    part = numbers[chance.randrange(numbers.size) :] if chance.random() < 0.5 else numbers
    part = part[: chance.choice([1, 3, 1000, part.size])]
    fill = chance.choice(FILLS)
    real = np.issubdtype(numbers.dtype, np.floating)
    with np.errstate(all="ignore"):
        if fill == "shuffled":
            part[:] = np.random.default_rng(chance.randrange(1000)).permutation(part)
        elif fill == "repeated":
            part[:] = part[0]
        elif fill == "negated":
            part[:] = -part if real or np.issubdtype(numbers.dtype, np.signedinteger) else ~part
        elif fill == "noise":
            noise = np.random.default_rng(chance.randrange(1000)).integers(-100, 100, part.size)
            part[:] = noise.astype(part.dtype)
        elif real:
            edge = {"zeros": 0.0, "nan": np.nan, "inf": np.inf, "huge": np.finfo(part.dtype).max / 2, "tiny": 1e-30}
            part[:] = np.array(edge[fill], np.float64).astype(part.dtype)
        else:
            limits = np.iinfo(part.dtype)
            part[:] = chance.choice([0, limits.min, limits.max])


@pytest.fixture(scope="module")
def drive():
    return open_sequence(DATA / "drive")


@pytest.fixture(scope="module")
def whole(request, drive, tmp_path_factory):
    """The untouched map of a backend."""
    backend = request.param
    folder = tmp_path_factory.mktemp(backend)
    if backend == "features":
        return Whole(Path(tiny_features.built(folder).path), tiny_features.unseen())
    if backend == "irpnet":
        shutil.unpack_archive(DATA / "irpnet.vmap", folder, "zip")
        return Whole(folder, drive)
    if backend == "cascade":
        from vloc_ros.localizers.cascade.bundle import write_cascade

        members = [shutil.copytree(DATA / name, folder / name) for name in ("retrieval", "pixloc")]
        write_cascade(folder / "cascade", members, inside=True)
        return Whole(folder / "cascade", drive)
    return Whole(DATA / backend, drive)


def sound(estimate: Estimate) -> str:
    """A pose with a positive definite covariance, in every state: whoever inverts it need not look."""
    try:
        check_transform(estimate.T_map_cam)
        check_covariance(estimate.covariance, definite=True)
        np.linalg.cholesky(estimate.covariance)
    except VlocError as problem:
        raise AssertionError(f"{estimate.state.value}: {problem}") from problem
    return "lost" if estimate.state is LocalizationState.LOST else "used"


def edits_of(whole: Whole):
    """A maker of one to four edits."""
    manifest = yaml.safe_load(whole.files["map.yaml"])
    tensors = sorted(name for name in whole.files if name.endswith(".safetensors"))
    texts = sorted(name for name in whole.files if name.endswith(".yaml") and name != "map.yaml")

    def one(chance: random.Random) -> Edit:
        way = chance.random()
        if way < 0.5:
            return ["manifest", "map.yaml", tree_edit(chance, manifest)]
        if texts and way < 0.6:
            name = chance.choice(texts)
            return ["yaml", name, tree_edit(chance, yaml.safe_load(whole.files[name]))]
        if tensors and way < 0.9:
            where = "header" if chance.random() < 0.3 else "numbers"
            return ["tensor", chance.choice(tensors), chance.randrange(2**31), where]
        names = sorted(whole.files)
        if way < 0.95:
            return ["bytes", chance.choice(names), chance.randrange(2**31)]
        return ["swap", *chance.choices(names, k=2)] if way < 0.98 else ["drop", chance.choice(names)]

    return lambda chance: [one(chance) for _ in range(chance.choice([1, 1, 1, 2, 4]))]


@pytest.mark.parametrize("whole", BACKENDS, indirect=True, ids=BACKENDS)
def test_altered_maps(whole, tmp_path, request):
    folder = tmp_path / "map"
    image, stamp = whole.drive.image(0), int(whole.drive.stamps_ns[0])
    prior = PosePrior(whole.drive.T_map_cam[0], np.diag([1.0, 1.0, 1.0, 0.01, 0.01, 0.01]))
    asked = Query(image, whole.drive.camera, stamp, prior)

    def attempt(edits: list[Edit]) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        whole.write(folder, edits)
        for look in (verify_map, lambda path: [str(part) for part in describe_map(read_map(path))]):
            try:
                look(folder)
            except VlocError as problem:
                assert "\n" not in str(problem)
        with vloc_ros.load_localizer(folder, device="cpu") as localizer:
            estimate = localizer.localize(asked)
        assert 0.0 <= estimate.score <= 1.0
        return sound(estimate)

    assert attempt([]) in ("used", "lost")
    name = f"maps-{request.node.callspec.id}"
    outcomes = assault(name, edits_of(whole), attempt, quick=25)
    assert outcomes["used"] + outcomes["lost"] and outcomes["refused"]


def test_the_edits_are_some():
    """An attack that changes nothing finds nothing."""
    chance = random.Random(0)
    numbers = np.ones(50, np.float32)
    changed = 0
    for _ in range(40):
        copy = numbers.copy()
        refill(copy, chance)
        changed += not np.array_equal(copy, numbers, equal_nan=True)
    assert changed > 25 and NUMBERS and tiny_street.CAMERA
