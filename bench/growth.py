"""Time and memory of a query against the size of the map, the search, the database and the rig, on one CPU thread.

OMP_NUM_THREADS=1 python -m bench.growth [--most 1.0] [--out FILE] [--plot FILE]

* **length**: a map of ``features`` of 1 to 1000 km: copies of the shipped town map (200 m each) behind one another.
  What the nearest images, their points and the points' descriptors cost; loading; memory. Tiles are read from a cache,
  as on a drive.
* **descriptors**: 10^4 to 10^7 of 128 numbers, every one compared (``torch``), and by lists (``faiss_ivf``) up to 10^6.
* **candidates** of ImPosing's search, paper's network. **points** of PixLoc's alignment, paper's network, 640x384.
  **cameras** of a rig in one query of ``features``.

What is larger than ``--most`` times the sizes above is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.pixloc import _Setup, town_scene
from bench.setup import BenchSetup
from bench.timing import MemoryGrowth
from vloc_ros.evaluation.figure import new_figure, plain_ticks, save
from vloc_ros.features.base import Described
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.device import device_name
from vloc_ros.localizers.features.store import POINTS_FILE, REFERENCES_FILE, PointStore
from vloc_ros.localizers.imposing.initial import initial_candidates
from vloc_ros.localizers.imposing.search import draw, search
from vloc_ros.localizers.pixloc.levels import OptimizerSettings
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.retrieval.database import Database
from vloc_ros.localizers.retrieval.index import build_index
from vloc_ros.maps import read_map
from vloc_ros.town.renderer import Renderer, default_camera
from vloc_ros.town.town import Town
from vloc_ros.town.traversal import Traversal
from vloc_ros.types import Query, View

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
TOWN = ROOT / "models" / "town_demo_features"
#: Metres of the town's loop.
LOOP_M = 200.0


def ms(function: Callable[[], object], repeats: int = 9) -> float:
    """Median milliseconds of the processor for a call; what else the machine does is not in it."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - begin))
    return round(float(np.median(times)), 4)


def lengths(most: float) -> Iterator[dict[str, Any]]:
    """Rows of maps of so many km."""
    bundle = read_map(TOWN)
    scene = bundle.manifest.scenes[0].name
    points, references = bundle.tensors(POINTS_FILE), bundle.tensors(REFERENCES_FILE)
    for km in (1, 10, 100, 1000):
        if km > 1000 * most:
            return
        copies = round(1000 * km / LOOP_M)
        with MemoryGrowth(CPU) as growth:
            begin = time.process_time()
            store = PointStore(_copied(bundle, scene, points, references, copies), scene, CPU, 128, False, 512.0)  # type: ignore[arg-type]
            load_s = time.process_time() - begin
        pose = store.T_map_cam[len(store) // 2]
        near = store.near(pose, 10)
        ids, _ = store.observed(near)
        yield {
            "km": km, "images": len(store), "points": len(store.points), "load_s": round(load_s, 2),
            "memory_mb": None if growth.bytes is None else round(growth.bytes / 1e6, 1),
            "nearest_images_ms": ms(lambda s=store, p=pose: s.near(p, 10)),
            "their_points_ms": ms(lambda s=store, n=near: s.observed(n)),
            "descriptors_ms": ms(lambda s=store, i=ids: s.load(i[:3000])),
        }  # fmt: skip
        del store


def _copied(bundle: Any, scene: str, points: Any, references: Any, copies: int) -> Any:
    """What a map of copies of the town, side by side, would hold; all of them share the town's tiles."""
    shift = torch.arange(copies, dtype=torch.float32) * LOOP_M
    count, rows = len(points[f"{scene}.points"]), len(references[f"{scene}.poses"])
    seen = references[f"{scene}.offsets"]
    where = points[f"{scene}.points"].repeat(copies, 1)
    where[:, 0] += shift.repeat_interleave(count)
    poses = references[f"{scene}.poses"].repeat(copies, 1)
    poses[:, 0] += shift.repeat_interleave(rows)
    steps = torch.arange(copies)
    tensors = {
        POINTS_FILE: {
            f"{scene}.points": where,
            f"{scene}.roots": points[f"{scene}.roots"].repeat(copies, 1),
            f"{scene}.track_length": points[f"{scene}.track_length"].repeat(copies),
            f"{scene}.tile_ends": (points[f"{scene}.tile_ends"][None] + steps[:, None] * count).flatten(),
        },
        REFERENCES_FILE: {
            f"{scene}.poses": poses,
            f"{scene}.stamps": references[f"{scene}.stamps"].repeat(copies),
            f"{scene}.offsets": torch.cat([seen[:1], (seen[None, 1:] + steps[:, None] * seen[-1]).flatten()]),
            f"{scene}.point_ids": (references[f"{scene}.point_ids"][None] + steps[:, None] * count).flatten().int(),
            f"{scene}.depth": references[f"{scene}.depth"],
        },
    }
    tiles = len(points[f"{scene}.tile_ends"])

    def of(name: str) -> str:
        head, _, number = name.removesuffix(".safetensors").rpartition("-")
        return f"{head}-{int(number) % tiles}.safetensors"

    return SimpleNamespace(
        path=f"{copies} towns",
        tensors=lambda name: tensors[name] if name in tensors else bundle.tensors(of(name)),
        entry=lambda name: bundle.entry(of(name)),
    )


def descriptors(most: float) -> Iterator[dict[str, Any]]:
    """Rows of databases of so many descriptors."""
    generator = torch.Generator().manual_seed(0)
    for exponent in (4.0, 5.0, 6.0, 7.0):
        count = round(10**exponent)
        if count > 1e7 * most:
            return
        vectors = torch.empty(count, 128, dtype=torch.float16)
        for part in vectors.split(1 << 18):
            part.copy_(torch.nn.functional.normalize(torch.randn(len(part), 128, generator=generator), dim=1))
        poses = torch.zeros(count, 7)
        poses[:, 6] = 1.0
        database = Database.of_images(vectors, poses, torch.zeros(count, dtype=torch.int64), "cosine", "made up")
        query = vectors[:1].float()
        for kind in ("torch", "faiss_ivf"):
            if kind == "faiss_ivf" and count > 1_000_000:
                continue
            begin = time.process_time()
            index = build_index(database, CPU, kind)  # type: ignore[arg-type]
            build_s = time.process_time() - begin
            yield {
                "descriptors": count, "index": kind, "search_ms": ms(lambda i=index, q=query: i.search(q, 20)),
                "build_s": round(build_s, 2), "memory_mb": round(index.memory_bytes / 1e6, 1),
            }  # fmt: skip
            del index


def candidates(most: float) -> Iterator[dict[str, Any]]:
    """Rows of ImPosing's search."""
    setup = BenchSetup.of_paper(CPU)
    poses = setup.initial.numpy()
    vector = torch.randn(setup.columns.shape[0], generator=torch.Generator().manual_seed(0))
    for count in (1024, 2048, 4096, 8192, 16384, 32768):
        if count > 32768 * most:
            return
        settings = dataclasses.replace(setup.settings, candidates=count)
        initial = initial_candidates(settings, poses, 0)
        with torch.inference_mode():
            columns = setup.encoder(initial).T.contiguous()
        draws = draw(settings, 0, CPU, torch.float32)

        def run(initial: Any = initial, columns: Any = columns, draws: Any = draws, settings: Any = settings) -> None:
            search(setup.encoder_default, vector, initial, columns, draws, settings)

        yield {"candidates": count, "search_ms": ms(run, 5), "signatures_mb": round(columns.nbytes / 1e6, 2)}


def points(most: float) -> Iterator[dict[str, Any]]:
    """Rows of PixLoc's alignment."""
    torch.manual_seed(0)
    model = PixLocModel(FeatureNet(NetworkSettings()))
    optimizer = OptimizerSettings(damping="constant", damping_constant=1e-2)
    for count in (250, 500, 1000, 2000, 4000):
        if count > 4000 * most:
            return
        setup = _Setup(model, optimizer, (1.0,), town_scene(640, 384, count), CPU, count)
        aligner, store = setup.aligner(torch.float32), setup.store("float16")
        eye = setup.eye(store.load(setup.all, setup.chosen), aligner.encode([setup.scene.query])[0])
        start = setup.scene.prior[None]
        yield {
            "points": len(setup.chosen),
            "features_of_points_ms": ms(lambda s=setup, t=store: t.load(s.all, s.chosen), 5),
            "alignment_ms": ms(lambda a=aligner, e=eye, t=start: a.align([e], t), 5),
        }


def cameras(most: float) -> Iterator[dict[str, Any]]:
    """Rows of one query of several cameras that see the same."""
    town = Town(1, LOOP_M)
    renderer = Renderer(town, default_camera())
    image = renderer.render(Traversal(town, 5), 40).rgb
    with load_localizer(TOWN, "cpu") as localizer:
        for count in (1, 2, 4, 6):
            if count > 6 * most:
                return
            others = tuple(View(image, renderer.camera, np.eye(4), f"camera_{n}") for n in range(1, count))
            query = Query(image, renderer.camera, 10**9, others=others)
            assert isinstance(localizer.describe(query), Described)  # type: ignore[attr-defined]
            yield {"cameras": count, "query_ms": ms(lambda q=query: localizer.localize(q), 5)}


PARTS: dict[str, Callable[[float], Iterator[dict[str, Any]]]] = {
    "length": lengths, "descriptors": descriptors, "candidates": candidates, "points": points, "cameras": cameras,
}  # fmt: skip


def plot(told: dict[str, Any], file: Path) -> None:
    """One panel a part: milliseconds, both axes logarithmic."""
    figure = new_figure(10.5, 6.4)
    panels = figure.subplots(2, 3).ravel()
    for panel in panels[len(told["parts"]) :]:
        panel.set_visible(False)
    for panel, (name, rows) in zip(panels, told["parts"].items(), strict=False):
        size = next(iter(rows[0]))
        for index in dict.fromkeys(row.get("index") for row in rows):
            mine = [row for row in rows if row.get("index") == index]
            for key in (k for k in mine[0] if k.endswith("_ms")):
                label = key.removesuffix("_ms").replace("_", " ") if index is None else index
                panel.plot([r[size] for r in mine], [r[key] for r in mine], marker="o", label=label)
        panel.set(xscale="log", yscale="log", xlabel=size, ylabel="ms", title=name)
        plain_ticks(panel.yaxis)
        if rows[-1][size] <= 100_000:
            plain_ticks(panel.xaxis)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=1.0)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"device": device_name(CPU), "parts": {}}
    for name in arguments.parts:
        told["parts"][name] = []
        for row in PARTS[name](arguments.most):
            told["parts"][name].append(row)
            print(name, json.dumps(row), flush=True)
    told["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")
    if arguments.plot is not None:
        plot(told, arguments.plot)


if __name__ == "__main__":
    main()
