"""Two checkouts of this repository compared on one processor core: seconds of processor time, and errors.

python bench/two_trees.py BEFORE [--now CHECKOUT] [--rounds 5] [--accuracy] [--out FILE]

Each checkout runs its own code by the Python of its .venv (without one, by this), one thread, in turn: every round
measures both, the first one begins with the other each time. A figure is the median of the rounds, with the least and
the largest beside it; the first round, after which bytecode and files are in memory, is not counted. What is compared
is made once, by BEFORE: drives of the synthetic town and a PixLoc map of one of them, which both read.

--accuracy asks both the same frames with the same ten seeds instead (docs/performance.md): ImPosing on three drives
that models/town_demo has not seen, PixLoc with ten priors a frame, up to 1 m and 3 degrees beside the truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.evaluation.comparison import compare_paired
from vloc_ros.localizers.device import device_name, select_device

HERE = Path(__file__).resolve().parents[1]
SIDE = Path(__file__).with_name("one_tree.py")
ONE = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

FIRST_POSE = """
import sys
import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.types import Query
sequence = open_sequence(sys.argv[1])
localizer = vloc_ros.load_localizer(sys.argv[2], device="cpu")
localizer.localize(Query(sequence.image(0), sequence.camera, int(sequence.stamps_ns[0])))
"""


class Tree:
    """A checkout and its Python."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        own = self.root / ".venv" / "bin" / "python"
        self.python = str(own if own.exists() else sys.executable)

    def run(self, *words: str | Path, source: Path | None = None) -> float:
        """Processor seconds of a Python process of this tree, its children's included."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(source or os.devnull, encoding="utf-8") as text:
            done = subprocess.run(
                [self.python, *map(str, words)], cwd=self.root, stdin=text, env={**os.environ, **ONE},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self.root}: {' '.join(map(str, words))}: failed\n{done.stdout[-2000:]}")
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        return now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime

    def told(self, *words: str | Path) -> Any:
        """What one_tree.py says in this tree."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "told.json"
            self.run("-", words[0], out, *words[1:], source=SIDE)
            return json.loads(out.read_text())


def town(tree: Tree, folder: Path, loop_m: int, number: int, *more: str) -> Path:
    """A drive of the town of models/town_demo; drives from the fifth on it has not seen."""
    out = folder / f"traversal_{number}"
    if not out.exists():
        words = ("--seed", 1, "--loop-m", loop_m, "--traversals", 1, "--first", number, *more)
        tree.run("-m", "vloc_ros", "convert", "town", folder, *map(str, words))
    return out


def pixloc_data(tree: Tree, work: Path) -> tuple[Path, Path]:
    """A map of a drive of 120 m at 320x180, and another drive through the same streets."""
    size, made = ("--width", "320", "--height", "180"), work / "pixloc_map"
    drives = [town(tree, work / "pixloc_town", 120, number, *size) for number in (0, 1)]
    if not made.exists():
        words = ("--data", drives[0], "--extractor", "models/pixloc_features", "--out", made, "--no-progress")
        read = ("--set", "image_width=320", "--set", "image_height=180")  # else what the network was trained on
        tree.run("-m", "vloc_ros", "map", "build", "pixloc", *words, *read, "--device", "cpu")
    return made, drives[1]


def of_tree(tree: Tree, work: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """One round: milliseconds of queries (the median of some), seconds of processes."""
    sixty = work / "sixty" / "traversal_5"
    made, drive = pixloc_data(tree, work)
    queries = tree.told("seconds", sixty, made, drive, str(repeats))
    out = {f"{name}, ms": float(np.median(values)) for name, values in queries.items()}
    replay = ("-m", "vloc_ros", "replay", sixty, "--map", "models/town_demo", "--device", "cpu", "--out")
    out["vloc replay of 60 frames with plots, s"] = tree.run(*replay, scratch / f"{len(os.listdir(scratch))}")
    out["the same with --no-plots, s"] = tree.run(*replay, scratch / f"{len(os.listdir(scratch))}", "--no-plots")
    out["vloc --help, s"] = tree.run("-m", "vloc_ros", "--help")
    out["import to the first pose, models/town_demo, s"] = tree.run("-c", FIRST_POSE, sixty, "models/town_demo")
    return out


def seconds(trees: dict[str, Tree], work: Path, rounds: int, repeats: int) -> list[dict[str, Any]]:
    """The table."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds + 1):
            for name in list(trees)[:: 1 if number % 2 else -1]:
                found[name].append(of_tree(trees[name], work, Path(scratch), repeats))
            print(f"round {number} of {rounds}", flush=True)
    rows = []
    for what in found["before"][0]:
        values = {name: [each[what] for each in found[name][1:]] for name in trees}
        row: dict[str, Any] = {"what": what}
        for name, each in values.items():
            row[name] = {"median": round(float(np.median(each)), 3), "least": round(min(each), 3),
                         "most": round(max(each), 3)}  # fmt: skip
        row["times_less"] = round(float(np.median(values["before"]) / np.median(values["now"])), 3)
        rows.append(row)
        print(f"{what}: {row['before']['median']} -> {row['now']['median']} ({row['times_less']} times less)")
    return rows


def accuracy(trees: dict[str, Tree], work: Path, seeds: int) -> list[dict[str, Any]]:
    """Errors in metres, paired by frame and seed."""
    before = trees["before"]
    drives = [town(before, work / "town", 200, number) for number in (5, 6, 7)]
    made, drive = pixloc_data(before, work)
    rows = []
    cases: tuple[tuple[str, float, tuple[str | Path, ...]], ...] = (
        ("ImPosing, models/town_demo", 2.0, ("models/town_demo", "4", str(seeds), *drives)),
        ("PixLoc, a map of the town", 0.05, (made, "4", str(seeds), drive)),
    )
    for what, threshold, words in cases:
        found = {name: [np.array(each) for each in tree.told("errors", *words)] for name, tree in trees.items()}
        parts: list[Any] = ["all drives together", *range(len(found["now"]))] if len(found["now"]) > 1 else [0]
        for part in parts:
            pair = [np.concatenate(each, axis=1) if isinstance(part, str) else each[part]
                    for each in (found["before"], found["now"])]  # fmt: skip
            compared = compare_paired(pair[0], pair[1], threshold)
            name = part if isinstance(part, str) else Path(str(words[3 + part])).name
            shares = {f"share_{n}": round(float((e <= threshold).mean()), 4) for n, e in zip(trees, pair, strict=True)}
            numbers = {k: round(v, 5) for k, v in dataclasses.asdict(compared).items()}
            rows.append({"what": what, "drive": name, "frames": pair[0].shape[1], "seeds": seeds, "recall_m": threshold,
                         **numbers, **shares, "as_accurate": compared.as_accurate})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout to compare with")
    parser.add_argument("--now", type=Path, default=HERE, help="default: this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="queries of a kind in a round")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--work", type=Path, default=HERE / "out" / "two_trees", help="drives and maps; kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trees, work = {"before": Tree(arguments.before), "now": Tree(arguments.now)}, arguments.work.resolve()
    town(trees["before"], work / "sixty", 200, 5, "--frames", "0:60")
    pixloc_data(trees["before"], work)
    told: dict[str, Any] = {"device": device_name(select_device("cpu")), "threads": 1}
    if arguments.accuracy:
        told["rows"] = accuracy(trees, work, arguments.seeds)
    else:
        told |= {"rounds": arguments.rounds, "rows": seconds(trees, work, arguments.rounds, arguments.repeats)}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
