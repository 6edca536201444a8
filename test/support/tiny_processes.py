"""Short runs of every trainer's module in one of several processes (spawned ones must import it)."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_aligned
import tiny_camnet
import tiny_drive
import tiny_extractor
import tiny_learner
import torch

from vloc_ros.images.preprocess import Preprocess
from vloc_train.camnet.data import KeyedGroups, Place
from vloc_train.camnet.mining import mine
from vloc_train.camnet.module import CamNetModule
from vloc_train.mapping.frame_points import depth_points
from vloc_train.pixloc.data import KeyedPairs
from vloc_train.pixloc.data import Place as PixLocPlace
from vloc_train.pixloc.module import PixLocModule
from vloc_train.pixloc.pairs import mine_pairs
from vloc_train.retrieval.module import ExtractorModule
from vloc_train.retrieval.sampling import KeyedImages
from vloc_train.training.fitting import fit
from vloc_train.training.frames import cache_frames
from vloc_train.training.module import TrainingModule
from vloc_train.training.run import RunOptions
from vloc_train.training.sampling import KeyedDataset, TrainingData

Made = tuple[TrainingModule, KeyedDataset]


def imposing(scenes: int) -> Callable[[Path], Made]:
    return lambda _: tiny_learner.learner(16, scenes, weight_average=0.9)


def retrieval(kind: str) -> Callable[[Path], Made]:
    def made(_: Path) -> Made:
        settings = tiny_extractor.settings(kind)
        extractor = tiny_extractor.extractor(normalise=kind == "triplet")
        drives = [tiny_drive.frames(24, name, paint=i) for i, name in enumerate(("a", "b"))]
        images = KeyedImages(drives, settings.sampling, settings.augment, settings.seed)
        return ExtractorModule(extractor, settings, tiny_extractor.preprocess()), images

    return made


def camnet(folder: Path) -> Made:
    settings = tiny_camnet.train_settings()
    frames = tiny_drive.frames(24)
    pairs = mine(frames, settings.mining, settings.seed, folder)
    groups = KeyedGroups([Place(frames, np.repeat([0, 1], 12), pairs)], settings)
    torch.manual_seed(0)
    return CamNetModule(settings, groups, tiny_drive.preprocess()), groups


def pixloc(folder: Path) -> Made:
    settings = tiny_aligned.settings()
    drives = [tiny_aligned.drive(12)]
    frames = cache_frames(drives, Preprocess(64, 36), folder)
    points = depth_points(drives, frames, 128, 80.0, 0, folder)
    place = PixLocPlace(frames, points, mine_pairs(frames, points, np.zeros(12, np.int64), settings.pairs, 0))
    pairs = KeyedPairs([place], settings)
    torch.manual_seed(0)
    return PixLocModule(settings, pairs, Preprocess(64, 36)), pairs


#: What is trained, by name.
RUNS: dict[str, Callable[[Path], Made]] = {
    "imposing": imposing(1),
    "imposing of three scenes": imposing(3),
    "retrieval by distances": retrieval("distance"),
    "retrieval by triplets": retrieval("triplet"),
    "retrieval by relative poses": retrieval("relative"),
    "camnet": camnet,
    "pixloc": pixloc,
}


def run_all(rank: int, world: int, port: int, out: Path) -> None:
    """Train everything for an epoch in process ``rank``; ``out/NAME-RANK.pt`` holds what came of it."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    for name, make in RUNS.items():
        found: dict[str, object]
        try:
            module, data = make(out / f"{name}-{rank}")
            before = torch.cat([p.detach().flatten().clone() for p in module.trained()])
            options = RunOptions(device="cpu", devices=world, progress=False)
            first, _ = fit(module, TrainingData(data), options, out / name, epochs=1)
            after = torch.cat([p.detach().flatten() for p in module.trained()])
            average = torch.cat([p.flatten() for p in module.exported.parameters()])
            found = {
                "first": first, "steps": module.global_step, "before": before, "after": after, "average": average,
            }  # fmt: skip
        except Exception:
            found = {"error": traceback.format_exc()}
        torch.save(found, out / f"{name}-{rank}.pt")
