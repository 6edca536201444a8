"""``vloc map build features`` by one worker, by two, and by two of which one is killed half way: wall time and the map.

python bench/cluster.py DRIVE... [--workers 1 2] [--kill] [--set NAME=VALUE] [--out FILE]

The workers are processes of this machine with one thread each, started before the clock is. Every run begins from
nothing. ``path_s`` is the processor time of the command and of the worker that had most: what the run takes at most
where nothing else uses the processors. ``same`` says whether all files of a map but its manifest are those of the first
run, byte for byte, and covariance and validation, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import distributed

from vloc_ros.localizers.device import device_name, select_device
from vloc_ros.maps import read_map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", nargs="+")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="0: no cluster at all")
    parser.add_argument("--kill", action="store_true", help="two workers once more; one is killed half way")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs = [(count, None) for count in arguments.workers]
    rows: list[dict[str, Any]] = []
    first: Any = None
    with tempfile.TemporaryDirectory() as folder:
        for count, kill_at in runs:
            row, made = built(arguments, count, Path(folder) / f"map{len(rows)}", kill_at)
            first = first or made
            rows.append({**row, "same": made == first})
            print(json.dumps(rows[-1]), flush=True)
        if arguments.kill:
            half = 0.5 * min(row["wall_s"] for row in rows)
            row, made = built(arguments, 2, Path(folder) / "killed", half)
            rows.append({**row, "same": made == first})
            print(json.dumps(rows[-1]), flush=True)
    one, two = (next((r for r in rows if r["workers"] == n and not r["killed"]), None) for n in (1, 2))
    told = {
        "device": device_name(select_device("cpu")), "cores": os.cpu_count(), "rows": rows,
        **({f"speedup_{k}": round(one[k] / two[k], 2) for k in ("wall_s", "path_s")} if one and two else {}),
    }  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")
    print({key: value for key, value in told.items() if key.startswith("speedup")})


def built(arguments: argparse.Namespace, count: int, out: Path, kill_at: float | None) -> tuple[dict[str, Any], Any]:
    command = [sys.executable, "-m", "vloc_ros", "map", "build", "features", "--out", str(out), "--all-frames"]
    command += [*(word for drive in arguments.drives for word in ("--data", drive)), "--device", "cpu", "--no-progress"]
    command += [word for setting in arguments.set for word in ("--set", setting)]
    killed: list[int] = []
    cluster, workers = None, [0.0]
    if count:
        cluster = distributed.LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0")
        command += ["--cluster", cluster.scheduler_address]
        client = distributed.Client(cluster)
        before = client.run(time.process_time)

    def kill() -> None:
        assert cluster is not None
        pid = next(iter(cluster.workers.values())).pid
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    timer = threading.Timer(kill_at, kill) if kill_at is not None else None
    try:
        begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if timer is not None:
            timer.start()
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)}: failed")
        wall, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if cluster is not None:
            after = client.run(time.process_time)
            workers = [round(after[address] - before.get(address, 0.0), 1) for address in after]
    finally:
        if timer is not None:
            timer.cancel()
        if cluster is not None:
            cluster.close()
    if kill_at is not None and not killed:
        raise SystemExit(f"expected a worker to be killed after {kill_at:.0f} s, found the map done before")
    bundle = read_map(out)
    files = {entry.name: entry.sha256 for entry in bundle.manifest.files}
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    row = {"workers": count, "killed": len(killed), "wall_s": round(wall, 1), "cpu_of_command_s": round(cpu, 1)}
    row |= {"cpu_of_workers_s": workers, "path_s": round(cpu + max(workers), 1)}
    return row, (files, bundle.manifest.calibration, bundle.manifest.validation)


if __name__ == "__main__":
    main()
