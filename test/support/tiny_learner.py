"""ImPosing's module on tiny drives, and the gradient that one of several processes computes."""

from __future__ import annotations

import dataclasses

import tiny_drive
import torch

from vloc_train.imposing.data import Batch, KeyedFrames
from vloc_train.imposing.module import ImPosingModule
from vloc_train.training.sampling import KeyedSampler


def learner(count: int = 20, scenes: int = 1, **changes) -> tuple[ImPosingModule, KeyedFrames]:
    made = tiny_drive.settings(**changes)
    frames = [tiny_drive.frames(count, f"scene{i}", paint=i) for i in range(scenes)]
    torch.manual_seed(0)
    return ImPosingModule(made, frames, frames, tiny_drive.preprocess()), KeyedFrames(frames, made)


def doubled(batch: Batch) -> Batch:
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(
        **{k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in values.items()}
    )


def gradient(rank: int, world: int, scenes: int) -> torch.Tensor:
    """The gradient that process ``rank`` computes in the second step of epoch 3: batch norm fixed, float64."""
    module, data = learner(scenes=scenes)
    module = module.double().eval()
    sampler = KeyedSampler([len(s) for s in data.scenes], 8, data.settings.seed, rank, world)
    sampler.set_epoch(3)
    items = list(sampler)[1]
    loss, _ = module.loss(doubled(data.collate([data[item] for item in items])))
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.network.parameters() if p.grad is not None])
