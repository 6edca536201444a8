"""A trainer's module on tiny drives, and its gradient in one of several processes (spawned ones must import it)."""

from __future__ import annotations

import dataclasses

import tiny_drive
import torch
import torch.distributed

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


def gradient_in_process(rank: int, world: int, scenes: int, port: int, path: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    mine = gradient(rank, world, scenes)
    torch.distributed.all_reduce(mine)
    if rank == 0:
        torch.save(mine / world, path)
    torch.distributed.destroy_process_group()
