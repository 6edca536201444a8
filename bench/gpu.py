"""All benchmarks worth running on a GPU, one after another, in one JSON; what does not fit into the time is left out.

python -m bench.gpu [--device cuda] [--repeats 50] [--minutes 10] [--out bench/results/gpu.json]

Beside the benchmarks of ``vloc bench``: three figures with targets (milliseconds), ``imposing`` from the image on the
device to the pose on the host, a ``pixloc`` query at 640x384 with 1,000 points, and ``retrieval`` among 100,000
descriptors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.imposing import bench_imposing
from bench.irpnet import bench_irpnet
from bench.pixloc import bench_pixloc
from bench.queries import MEASURED, bench_queries, default_map, query_counts
from bench.retrieval import bench_retrieval
from vloc_ros.localizers.device import device_name, select_device
from vloc_ros.staging import write_text

#: What the three figures are to be at most, milliseconds.
TARGETS = {"imposing": 1.0, "pixloc": 10.0, "retrieval": 1.0}


def benches(device: torch.device, repeats: int, rows: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name, the most telling first."""
    return {
        "imposing": lambda: bench_imposing(None, device, repeats),
        "pixloc": lambda: bench_pixloc(None, device, repeats),
        "retrieval": lambda: bench_retrieval(None, None, device, (rows,), repeats),
        **{name: (lambda n=name: bench_queries(n, None, None, device, repeats)) for name in MEASURED},
        "irpnet": lambda: bench_irpnet(device, repeats),
    }


def headline(name: str, result: dict[str, Any]) -> float:
    """Milliseconds of the figure that has a target."""
    wanted = {"imposing": "frame, default path", "pixloc": "query, default path"}
    if name == "retrieval":
        return min(float(row["ms_p50"]) for row in result["rows"] if row["index"] == "torch")
    return next(float(row["ms_p50"]) for row in result["rows"] if row["name"] == wanted[name])


def run(device: torch.device, repeats: int, minutes: float = 10.0, rows: int = 100_000) -> dict[str, Any]:
    """The JSON of all of them."""
    begin = time.perf_counter()
    told: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__, "results": {}, "left_out": []}
    for name, bench in benches(device, repeats, rows).items():
        if time.perf_counter() - begin > 60.0 * minutes * 0.8:
            told["left_out"].append(name)
            continue
        result = bench()
        if "launches" not in result:
            result.update(query_counts(default_map(name)))
        told["results"][name] = result
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    told["figures"] = [
        {"name": name, "ms": headline(name, told["results"][name]), "target_ms": target}
        for name, target in TARGETS.items()
        if name in told["results"]
    ]
    return {**told, "seconds": round(time.perf_counter() - begin, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu.json"))
    arguments = parser.parse_args()
    told = run(select_device(arguments.device), arguments.repeats, arguments.minutes)
    write_text(arguments.out, json.dumps(told, indent=1) + "\n")
    for figure in told["figures"]:
        print(f"{figure['name']}: {figure['ms']:.2f} ms (wanted: {figure['target_ms']:g}) on {told['device']}")


if __name__ == "__main__":
    main()
