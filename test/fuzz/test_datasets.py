"""Damaged files of every data-set layout: the file is named, ``--keep-going`` goes on, and nothing else is raised."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fuzzing import NUMBERS, TEXTS, Edit, assault, damaged
from layouts import WRITERS

from vloc_ros.datasets.formats import Source, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import VlocError
from vloc_ros.types import check_transform

FIELD = re.compile(r"[^\s,;:\[\]\"']+")


def text_edit(text: str, chance: random.Random) -> str:
    """A line, or a field of a line, becomes another."""
    lines = text.split("\n")
    k = chance.randrange(len(lines))
    way = chance.random()
    if way < 0.1:
        del lines[k]
    elif way < 0.2:
        lines.insert(chance.randrange(len(lines) + 1), lines[k])
    elif way < 0.25:
        lines[k] = chance.choice(TEXTS)
    elif way < 0.3:
        other = chance.randrange(len(lines))
        lines[k], lines[other] = lines[other], lines[k]
    elif way < 0.35:
        lines = lines[: k + 1]
    elif way < 0.4:
        return text.replace("\n", chance.choice(["\r\n", "\r", "", "\n\n"]))
    else:
        fields = list(FIELD.finditer(lines[k]))
        if fields:
            field = chance.choice(fields)
            new = str(chance.choice([*NUMBERS, *TEXTS, field[0] + field[0], field[0][:-1], "-" + field[0]]))
            lines[k] = lines[k][: field.start()] + new + lines[k][field.end() :]
    return "\n".join(lines)


def apply(root: Path, edits: list[Edit]) -> None:
    for kind, name, seed in edits:
        file, chance = root / name, random.Random(seed)
        if not file.is_file():
            continue
        if kind == "text":
            text = file.read_bytes().decode("utf-8", "replace")
            file.write_bytes(text_edit(text, chance).encode("utf-8", "replace"))
        elif kind == "bytes":
            file.write_bytes(damaged(file.read_bytes(), chance))
        elif kind == "empty":
            file.write_bytes(b"")
        elif kind == "drop":
            file.unlink()
        elif kind == "folder":
            file.unlink()
            file.mkdir()


def use(source: Source, problems: Problems) -> int:
    """Everything that a converter asks of a drive; returns how many frames there are."""
    frames = 0
    for drive in open_source(source, problems):
        for T in drive.T_map_cam:
            if np.isfinite(T).all():
                check_transform(T)
        frames += len(drive)
        for _ in drive.frames():
            pass
    return frames


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_damaged_files(layout, tmp_path):
    whole = tmp_path / "whole"
    options = WRITERS[layout](whole / "data")
    files = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    texts = [name for name in files if Path(name).suffix not in (".png", ".jpg")]
    copy = tmp_path / "copy"
    source = Source(layout, copy / "data", options)

    def edits(chance: random.Random) -> list[Edit]:
        out = []
        for _ in range(chance.choice([1, 1, 2, 3])):
            kind = chance.choice(["text", "text", "text", "text", "bytes", "bytes", "empty", "drop", "folder"])
            name = chance.choice(texts if kind == "text" or chance.random() < 0.5 else files)
            out.append([kind, name, chance.randrange(2**31)])
        return out

    def attempt(made: list[Edit]) -> str:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy, copy_function=os.link if not made else shutil.copyfile)
        apply(copy, made)
        try:
            use(source, Problems())
            ended = "whole"
        except VlocError as problem:
            assert "\n" not in str(problem)
            assert str(copy) in str(problem), f"no file is named: {problem}"
            ended = "refused"
        try:
            frames = use(source, Problems(keep_going=True))
        except VlocError as problem:
            assert str(copy) in str(problem), f"no file is named: {problem}"
            assert ended == "refused", "what is taken whole is taken with --keep-going"
            return "refused in any case"
        assert frames > 0
        return ended if ended == "whole" else "taken in part"

    assert attempt([]) == "whole"
    outcomes = assault(f"datasets-{layout}", edits, attempt, quick=20)
    assert len(outcomes) > 1
