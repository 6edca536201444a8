"""A step of every trainer on a device that is elsewhere: nothing mixes, gradients arrive there, waits are counted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_aligned
import tiny_camnet
import tiny_copr
import tiny_drive
import tiny_extractor
import tiny_irpnet
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data._utils.pin_memory import pin_memory

from bench.simulated_device import simulated_device
from vloc_train.camnet.train import TRAINER as CAMNET
from vloc_train.copr.train import TRAINER as COPR
from vloc_train.imposing.train import TRAINER as IMPOSING
from vloc_train.irpnet.train import TRAINER as IRPNET
from vloc_train.pixloc.train import TRAINER as PIXLOC
from vloc_train.retrieval.train import TRAINER as RETRIEVAL
from vloc_train.training import fitting
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


class Enough(Exception):
    """The first training of a run was about to start."""


def lap() -> dict[str, Any]:
    return {"map": [tiny_drive.drive(20), tiny_drive.drive(16, name="second", phase=0.1)]}


def started(monkeypatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    """Module and data of the first training of a run."""
    found: list[tuple[Any, Any]] = []

    def caught(module: Any, data: Any, *_: Any, **__: Any) -> Any:
        found.append((module, data))
        raise Enough

    monkeypatch.setattr(fitting, "fit", caught)
    with pytest.raises(Enough):
        run()
    return found[0]


RUNS: dict[str, Callable[[Any], Any]] = {
    "imposing": lambda out: IMPOSING.run(lap(), out / "m", tiny_drive.settings(), OPTIONS, hold_out="every:4"),
    "retrieval": lambda out: RETRIEVAL.run(lap(), out / "m", tiny_extractor.settings("distance"), OPTIONS),
    "camnet": lambda out: CAMNET.run(lap(), out / "m", tiny_camnet.train_settings(keyframe_every=2), OPTIONS),
    "irpnet": lambda out: IRPNET.run(
        lap(), out / "m", tiny_irpnet.settings(), OPTIONS, extractor=tiny_irpnet.extractor_map()
    ),
    "copr": lambda out: COPR.run(
        {"map": [tiny_drive.drive(40)]}, out / "m", tiny_copr.settings(), OPTIONS,
        extractor=tiny_copr.retrieval_map(out).path,
    ),
    "pixloc": lambda out: PIXLOC.run(
        {"box": [tiny_aligned.drive(16)]}, out / "m", tiny_aligned.settings(train_iterations=2), OPTIONS,
        hold_out="every:4",
    ),
}  # fmt: skip
#: Launches, waits and uploads of a step, forward and backward. CamNet asks which images Algorithm 1 wants; PixLoc
#: uploads the numbers of its cameras.
BUDGETS = {
    "imposing": (600, 0, 1), "retrieval": (210, 0, 0), "camnet": (1300, 1, 5), "irpnet": (55, 0, 0),
    "copr": (50, 0, 3), "pixloc": (2200, 0, 10),
}  # fmt: skip


def test_a_step_of_every_training_keeps_to_its_budget():
    """In a process of its own: torch counts devices at the first backward pass, and the simulated one comes later."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-o",
        "python_functions=step_*",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and f"{len(RUNS)} passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


def assert_pinned(batch: Any, monkeypatch) -> None:
    """Every tensor of a batch is pinned where a loader pins."""
    parts = vars(batch) if dataclasses.is_dataclass(batch) else batch
    tensors = [part for part in tree_leaves(parts) if isinstance(part, torch.Tensor)]
    seen: list[torch.Tensor] = []
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "pin_memory", lambda self, *_: (seen.append(self), self)[1])
        pin_memory(batch)
    assert {id(t) for t in tensors} == {id(t) for t in seen}


@pytest.mark.parametrize("name", RUNS)
def step_keeps_to_its_budget(name, tmp_path, monkeypatch):
    module, data = started(monkeypatch, lambda: RUNS[name](tmp_path))
    module.trainer = SimpleNamespace(global_step=0, world_size=1, estimated_stepping_batches=100)
    loader = data.train_dataloader() if hasattr(data, "train_dataloader") else data
    batch = next(iter(loader))
    assert_pinned(batch, monkeypatch)
    with simulated_device() as (device, counted):
        module.train().to(device)
        batch = module.transfer_batch_to_device(batch, device, 0)
        for _ in range(2):  # what is made once is there the second time
            module.zero_grad()
            counted()
            loss, _ = module.step(batch)
            loss.backward()
            counts = counted()
    gradients = [p.grad for p in module.trained() if p.grad is not None]
    assert gradients and all(g.device.type == "simulated" for g in gradients)
    launches, waits, uploads = BUDGETS[name]
    assert counts.launches <= launches, counts.places("launch", 25)
    assert counts.waits <= waits, counts.places("wait")
    assert counts.uploads <= uploads, counts.places("upload")
