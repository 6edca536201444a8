"""Every writer killed, ended, out of disk, without permission, twice at once: nothing lost, the next run ends well.

``make faults KILLS=200 DISKS=100`` goes through all writers; with the other tests a few quick ones are tried.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import cv2
import faulting
import pytest
import tiny_camnet
import tiny_copr
import tiny_drive
import tiny_extractor
import tiny_features
import tiny_irpnet
import tiny_job
import torch
import yaml
from faulting import Disk, Ended, Running, Writer

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.localizers import base as registry
from vloc_ros.maps.describe import verify_map
from vloc_ros.settings import settings_to_mapping
from vloc_train.retrieval.build import BUILDER
from vloc_train.retrieval.settings import BuildSettings
from vloc_train.training import registry as trainers

KILLS, DISKS = (int(os.environ.get(f"VLOC_FAULTS_{name}", "0")) for name in ("KILLS", "DISKS"))
SEED = int(os.environ.get("VLOC_FAULTS_SEED", "0"))
#: Those that take less than a second each.
QUICK = ("map pack", "map add", "convert")
TRAIN = ("--data", "lap", "--calibration-data", "other", "--device", "cpu", "--no-progress")
EVALUATED = {
    "name": "tiny",
    "title": "A tiny town",
    "baseline": "nearest",
    "untrained": [],
    "data": {
        name: {"town": {"seed": 4, "loop_m": 120.0, "width": 48, "height": 27, "spacing_m": 8.0, "light": "noon"}
               | {"index": index}}
        for index, name in enumerate(("map", "query"))
    },
    "splits": {"full": {"map": ["map"], "query": ["query"], "about": "All frames."}},
    "steps": {"mapped": {"build": "thumbnails", "data": ["map"]}},
    "rows": [{"method": "nearest", "map": "mapped", "splits": ["full"]}],
    "claims": [],
}  # fmt: skip


def map_is_whole(folder: Path, name: str = "map") -> None:
    assert all(check.passed for check in verify_map(folder / name))


def bag_is_whole(folder: Path, name: str = "map") -> None:
    assert len(open_sequence(folder / name)) > 0


def reports_are_whole(folder: Path) -> None:
    """A folder of reports is made file by file: what is there can be read."""
    for file in (folder / "out").rglob("*.json"):
        yaml.safe_load(file.read_text())


def settings_file(folder: Path, name: str, settings: Any, **changes: Any) -> None:
    tree = settings_to_mapping(settings) if is_dataclass(settings) else asdict(settings)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**tree, **changes}))


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A folder with drives, settings and an older map, for every writer; with the names of what may write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BUILT_IN, "thumbnails", "thumbnails:Thumbnails")
        for table in (trainers.TRAINERS, trainers.BUILDERS):
            patch.setitem(table, "thumbnails", "thumbnails:TRAINER")
        yield _made(tmp_path_factory.mktemp("templates"), bool(KILLS or DISKS))


def _made(root: Path, everything: bool) -> dict[str, Writer]:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    base = root / "base"
    base.mkdir()
    write_sequence(tiny_drive.drive(40), base / "lap")
    write_sequence(tiny_drive.drive(24, "other", phase=0.05), base / "other")
    source = tiny_job.descriptor_map(base / "extractor", tiny_extractor.descriptor()).path
    options = tiny_copr.OPTIONS
    BUILDER.run({"map": [tiny_drive.drive(30)]}, base / "map", BuildSettings(), options, extractor=source)

    def copy(name: str, *drop: str) -> Path:
        made = Path(shutil.copytree(base, root / name))
        for part in drop:
            shutil.rmtree(made / part)
        return made

    add = copy("add")
    pack = copy("pack", "lap", "other", "extractor")
    folder = copy("convert", "map", "extractor")
    bag = Path(shutil.copytree(folder / "other", folder / "map"))
    writers = [
        Writer("map add", ("map", "add", "map", "--data", "other", "--device", "cpu"), add, map_is_whole),
        Writer("map pack", ("map", "pack", "map", "map.vmap"), pack, map_is_whole),
        Writer("convert", ("convert", "bag", "lap", "map", "--overwrite"), folder, bag_is_whole, resumes=True),
    ]
    assert bag.is_dir()
    if not everything:
        return {w.name: w for w in writers}

    train = copy("train")
    settings_file(train, "imposing", tiny_drive.settings(epochs=4))
    settings_file(train, "retrieval", tiny_extractor.settings(), epochs=4)
    settings_file(train, "irpnet", tiny_irpnet.settings(epochs=6))
    settings_file(train, "copr", tiny_copr.settings(epochs=4))
    settings_file(train, "camnet", tiny_camnet.train_settings())
    often = ("--checkpoint-minutes", "0.01", "--out", "map")
    for name in ("imposing", "retrieval", "irpnet", "copr", "camnet"):
        needs = ("--extractor", "extractor") if name in ("irpnet", "copr") else ()
        words = ("train", name, *TRAIN, *often, *needs, "--config", f"{name}.yaml")
        writers.append(Writer(f"train {name}", words, train, map_is_whole, resumes=True))
    build = copy("build")
    words = ("map", "build", "retrieval", *TRAIN, "--out", "map", "--extractor", "extractor", "--select")
    writers.append(Writer("map build retrieval", words, build, map_is_whole, resumes=True))
    street = root / "street"
    street.mkdir()
    write_sequence(tiny_features.lap(), street / "lap")
    settings_file(street, "features", tiny_features.settings())
    tiny_features.built(root / "older")
    shutil.copytree(root / "older" / "features", street / "map")
    words = ("map", "build", "features", "--data", "lap", "--out", "map", "--device", "cpu", "--no-progress",
             "--config", "features.yaml", "--all-frames")  # fmt: skip
    writers.append(Writer("map build features", words, street, map_is_whole, resumes=True))
    words = ("map", "densify", "map", "--scheme", "interpolate", "--method", "linear", "--step", "0.5")
    writers.append(Writer("map densify", words, copy("densify"), map_is_whole))
    words = ("map", "calibrate", "map", "--data", "other", "--device", "cpu")
    writers.append(Writer("map calibrate", words, copy("calibrate"), map_is_whole))
    words = ("replay", "other", "--map", "map", "--out", "out", "--device", "cpu")
    writers.append(Writer("replay", words, copy("replay"), reports_are_whole, resumes=True))
    table = root / "evaluate"
    table.mkdir()
    (table / "tiny.yaml").write_text(yaml.safe_dump(EVALUATED))
    words = ("evaluate", "tiny.yaml", "--out", "out", "--device", "cpu", "--no-progress")
    writers.append(Writer("evaluate", words, table, reports_are_whole, resumes=True))
    return {w.name: w for w in writers}


class Matrix:
    """The writers, what each leaves when nothing happens, and what has been tried."""

    def __init__(self, writers: dict[str, Writer], folder: Path) -> None:
        self.writers, self.folder = writers, folder
        self.chance = random.Random(SEED)
        self.tried: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._clean: dict[str, tuple[float, set[str], int, int]] = {}

    def clean(self, writer: Writer) -> tuple[float, set[str], int, int]:
        """Of an undisturbed run: seconds, names of what it leaves, its largest file, bytes of all."""
        if writer.name not in self._clean:
            place = writer.fresh(self.folder / "clean")
            ended = writer.run(place)
            assert ended.code == 0, f"{writer.name}: {ended.said}"
            sizes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            self._clean[writer.name] = (ended.seconds, faulting.listing(place), faulting.largest(place), sizes)
        return self._clean[writer.name]

    def judge(self, fault: str, writer: Writer, place: Path, ended: Ended, allowed: tuple[int, ...]) -> None:
        """After a fault: the target is whole, and the reason is told in one line."""
        self.tried[fault] += 1
        where = f"{fault}, {writer.name} after {ended.seconds:.2f} s"
        try:
            assert ended.code in allowed, f"exit code {ended.code}: {ended.said[-2000:]}"
            assert "Traceback" not in ended.said, ended.said[-2000:]
            if ended.code == 1:
                assert ended.told.count("\n") == 0 and ended.told, f"expected one line, found {ended.said[-800:]!r}"
            if fault in ("full disk", "read-only"):
                assert ended.code == 0 or any(name in ended.told for name in ("map", "out")), ended.told
            writer.intact(place)
            if fault in ("SIGTERM", "full disk") and not writer.resumes:
                left = [path.name for path in place.rglob(".*.partial")]
                assert not left, f"left behind: {left}"
        except Exception as problem:
            self.say(f"{where}: {type(problem).__name__}: {problem}")

    def again(self, fault: str, writer: Writer, place: Path) -> None:
        """The next run of the same command."""
        try:
            ended = writer.run(place)
            done = ended.code == 1 and ("exists already" in ended.told or "found none" in ended.told)
            assert ended.code == 0 or done, f"the next run: exit code {ended.code}: {ended.said[-2000:]}"
            writer.intact(place)
            extra = faulting.listing(place) ^ self.clean(writer)[1]
            assert not extra, f"left or missing after the next run: {sorted(extra)[:8]}"
        except Exception as problem:
            self.say(f"{fault}, {writer.name}: {type(problem).__name__}: {problem}")

    def say(self, what: str) -> None:
        """Note what is wrong, at once: a run of hours may be interrupted."""
        self.wrong.append(what)
        print(what, flush=True)

    def struck(self, writer: Writer, number: int) -> None:
        """Killed, or asked to end, at a random moment."""
        seconds = self.clean(writer)[0]
        place = writer.fresh(self.folder / "work")
        running = Running(writer.arguments, place)
        time.sleep(self.chance.uniform(0.0, 1.05) * seconds)
        running.signal(number)
        kill = number == signal.SIGKILL
        fault = "SIGKILL" if kill else "SIGTERM"
        ended = running.wait(faulting.ENDING_S)
        # Before the command has set up its own end, the system's holds.
        self.judge(fault, writer, place, ended, (0, -number) if kill else (0, 1, -number))
        self.again(fault, writer, place)

    def full(self, writer: Writer, disk: Disk | None) -> None:
        """No room for all that it writes: a small file system, or a limit on the size of a file."""
        _, _, biggest, total = self.clean(writer)
        before = sum(path.stat().st_size for path in writer.template.rglob("*") if path.is_file())
        if disk is not None and disk.there and self.chance.random() < 0.5:
            disk.set("size=64m")
            place = writer.fresh(disk.folder / "work")
            room = int(self.chance.uniform(0.0, 1.2) * max(total - before, 20_000))
            disk.set(f"size={(disk.used() + room) // 1024 + 4}k")
            ended = writer.run(place)
            disk.set("size=64m")
        else:
            place = writer.fresh(self.folder / "work")
            ended = writer.run(place, file_bytes=int(self.chance.uniform(0.0, 1.0) * biggest))
        self.judge("full disk", writer, place, ended, (0, 1))
        self.again("full disk", writer, place)

    def read_only(self, writer: Writer, disk: Disk) -> None:
        """Nothing can be written at all."""
        place = writer.fresh(disk.folder / "work")
        disk.set("ro")
        ended = writer.run(place)
        disk.set("rw")
        self.judge("read-only", writer, place, ended, (1,))
        self.again("read-only", writer, place)

    def two(self, writer: Writer) -> None:
        """The same command twice at once."""
        place = writer.fresh(self.folder / "work")
        first = Running(writer.arguments, place)
        time.sleep(self.chance.uniform(0.0, 0.5) * self.clean(writer)[0])
        second = Running(writer.arguments, place)
        ends = [first.wait(), second.wait()]
        for ended in ends:
            self.judge("two at once", writer, place, ended, (0, 1))
        if all(ended.code for ended in ends):
            self.say(f"two at once, {writer.name}: neither ended well: {[e.told for e in ends]}")
        self.again("two at once", writer, place)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


def test_faults_of_every_writer(templates, tmp_path, disk):
    matrix = Matrix(templates, tmp_path)
    try:
        _go_through(matrix, disk)
    finally:  # an interrupted run has tried something, too
        print(f"{len(templates)} writers: {dict(matrix.tried)}, {len(matrix.wrong)} wrong")
    assert not matrix.wrong, "\n".join(matrix.wrong)


def _go_through(matrix: Matrix, disk: Disk) -> None:
    kills, disks = (KILLS, DISKS) if KILLS or DISKS else (3, 3)
    writers = [matrix.writers[name] for name in sorted(matrix.writers)]
    turns = {
        matrix.struck: [signal.SIGKILL] * kills + [signal.SIGTERM] * (kills // 4 or 1),
        matrix.full: [disk] * disks,
    }
    for try_it, faults in turns.items():
        for number, fault in enumerate(faults, SEED):
            writer = writers[number % len(writers)]
            try:
                try_it(writer, fault)
            except AssertionError as problem:  # it hangs
                matrix.say(f"{fault}, {writer.name}: {problem}")
    # Of every writer once: more seeds add kills and full disks.
    for writer in (writers if kills == KILLS else writers[:1]) if SEED == 0 else ():
        matrix.two(writer)
        if disk.there:
            matrix.read_only(writer, disk)
