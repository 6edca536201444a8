"""What the checkout in the working directory takes and how well it does, of its own code: the half of two_trees.py
that runs once in each of them. It reaches them through standard input, so it uses what both have.

python - seconds OUT.json IMPOSING_DRIVE PIXLOC_MAP PIXLOC_DRIVE REPEATS < bench/one_tree.py
python - errors OUT.json MAP EVERY SEEDS DRIVE... < bench/one_tree.py
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.pixloc import _model, _Setup, town_scene
from vloc_ros.datasets import open_sequence
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.device import compute_dtype
from vloc_ros.types import PosePrior, Query

_CPU = torch.device("cpu")
_COVARIANCE = np.diag([0.25] * 3 + [1e-3] * 3)


def _taken(work: Callable[[int], object], repeats: int) -> list[float]:
    """Milliseconds of processor time of each call but the first three."""
    out = []
    for number in range(repeats + 3):
        begin = time.process_time()
        work(number)
        out.append(1e3 * (time.process_time() - begin))
    return out[3:]


def _queries(map_dir: str, drive: str, prior: bool) -> Callable[[int], object]:
    """A frame of a drive through the whole localizer; the prior lies half a metre beside the truth."""
    localizer, sequence = load_localizer(map_dir, "cpu"), open_sequence(drive)
    queries = []
    for i in np.linspace(0, len(sequence) - 1, 12).astype(int):
        T = sequence.T_map_cam[i].copy()
        T[:3, 3] += (0.3, -0.4, 0.0)
        guess = PosePrior(T, _COVARIANCE) if prior else None
        queries.append(Query(sequence.image(int(i)), sequence.camera, int(sequence.stamps_ns[i]), prior=guess))
    return lambda number: localizer.localize(queries[number % len(queries)])


def seconds(imposing_drive: str, pixloc_map: str, pixloc_drive: str, repeats: str) -> dict[str, list[float]]:
    count = int(repeats)
    model, optimizer, scales, _ = _model(Path("models/pixloc_features"), None, 0)
    scene = town_scene(640, 384, 1000)
    setup = _Setup(model, optimizer, scales or (1.0,), scene, _CPU, 1000)
    aligner, store = setup.aligner(compute_dtype("auto", _CPU)), setup.store("float16")
    batch, start = store.load(setup.all, setup.chosen), scene.prior[None]
    if hasattr(setup, "eye"):
        eye = setup.eye(batch, aligner.encode([scene.query])[0])
        encode, align = (lambda _: aligner.encode([scene.query])), (lambda _: aligner.align([eye], start))
    else:  # one image a query
        old: Any = aligner
        pyramid = old.encode(scene.query)
        encode, align = (
            lambda _: old.encode(scene.query),
            lambda _: old.align(pyramid, scene.camera, batch, start),
        )
    rows: dict[str, Callable[[int], object]] = {
        "PixLoc, network of models/pixloc_features, 640x384, 1,000 points: a query": (
            lambda _: setup.query(aligner, store)
        ),
        "its alignment alone": align,
        "its features of the image alone": encode,
        "PixLoc, a map of the town with that network at 320x180: a query": _queries(pixloc_map, pixloc_drive, True),
        "ImPosing, models/town_demo: a query": _queries("models/town_demo", imposing_drive, False),
    }
    return {name: _taken(work, count) for name, work in rows.items()}


def errors(map_dir: str, every: str, seeds: str, *drives: str) -> list[list[list[float]]]:
    """Metres, one list of seeds a drive, each of its frames; infinite where no pose was published."""
    localizer = load_localizer(map_dir, "cpu")
    kind: Any = type(localizer)
    own, offset = kind.seed, [0]
    kind.seed = lambda self, stamp_ns: own(self, stamp_ns) + 1000003 * offset[0]
    out = []
    for drive in drives:
        sequence = open_sequence(drive)
        rows: list[list[float]] = [[] for _ in range(int(seeds))]
        for i in range(0, len(sequence), int(every)):
            image, truth = sequence.image(i), sequence.T_map_cam[i]
            for seed, row in enumerate(rows):
                offset[0], prior = seed, None
                if localizer.needs_prior:  # its randomness: up to 1 m and 3 degrees beside the truth
                    random, T = np.random.default_rng([seed, i]), truth.copy()
                    T[:3, 3] += random.uniform(-1, 1) * _unit(random)
                    T[:3, :3] = so3_exp(np.radians(random.uniform(-3, 3)) * _unit(random)) @ T[:3, :3]
                    prior = PosePrior(T, _COVARIANCE)
                found = localizer.localize(Query(image, sequence.camera, int(sequence.stamps_ns[i]), prior=prior))
                lost = found.state.name == "LOST"
                row.append(np.inf if lost else float(np.linalg.norm(found.T_map_cam[:3, 3] - truth[:3, 3])))
        out.append(rows)
    return out


def _unit(random: np.random.Generator) -> Any:
    vector = random.normal(size=3)
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = seconds(*sys.argv[3:]) if sys.argv[1] == "seconds" else errors(*sys.argv[3:])
    Path(sys.argv[2]).write_text(json.dumps(told))
