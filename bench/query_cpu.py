"""Processor seconds of a query, one thread, by a map that ``vloc evaluate`` made: a few queries of a split.

OMP_NUM_THREADS=1 python bench/query_cpu.py MAP PROTOCOL SPLIT --root DATA [--set NAME=VALUE] [--count 8]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import load_localizer
from vloc_ros.settings import assigned
from vloc_ros.types import Query
from vloc_train.benchmark.drives import Drives
from vloc_train.benchmark.protocol import load
from vloc_train.benchmark.splits import folds_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map")
    parser.add_argument("protocol")
    parser.add_argument("split")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    protocol = load(arguments.protocol)
    with (
        tempfile.TemporaryDirectory() as folder,
        load_localizer(arguments.map, "cpu", settings=assigned(arguments.set, "--set") or None) as localizer,
    ):
        drives = Drives(protocol.data, arguments.root, Path(folder))
        parts = [p for fold in folds_of(arguments.split, protocol.splits[arguments.split], drives) for p in fold.query]
        frames = [(part.sequence, int(row)) for part in parts for row in part.rows]
        chosen = np.unique(np.linspace(0, len(frames) - 1, arguments.count + 1).astype(np.int64))
        seconds = []
        for sequence, row in (frames[i] for i in chosen):
            image, camera = sequence.image(row), sequence.camera
            if not localizer.takes_distorted:
                image, camera = Rectifier(camera).rectify(image)
            begin = time.process_time()
            localizer.localize(Query(image, camera, int(sequence.stamps_ns[row])))
            seconds.append(time.process_time() - begin)
    used = seconds[1:]  # the first one makes what is kept
    print(f"{np.median(used):.3f} s (median of {len(used)}; {min(used):.3f} to {max(used):.3f})")


if __name__ == "__main__":
    main()
