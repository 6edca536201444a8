"""The training step of H: what it reads, and the blur of its anchors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vloc_ros.geometry.se3 import make_transform
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.copr.network import relative_pose
from vloc_train.copr.data import Described
from vloc_train.copr.module import RegressorModule
from vloc_train.copr.settings import TrainSettings


def described(count: int = 30) -> Described:
    torch.manual_seed(0)
    x = np.linspace(0, 20, count)
    T = make_transform(np.tile(np.eye(3), (count, 1, 1)), np.stack([x, 0 * x, 0 * x], axis=1))
    zeros = np.zeros(count, dtype=np.int64)
    return Described(5.0 + 3.0 * torch.randn(count, 6), torch.from_numpy(to_vectors(T)), zeros, zeros)


@pytest.fixture
def module(monkeypatch):
    """Makes a module in some step of a run, without a trainer."""

    def make(step: int = 0, **changes) -> RegressorModule:
        settings = TrainSettings.preset("paper", {"regressor": {"layers": 2}, **changes}, "test")
        torch.manual_seed(1)
        made = RegressorModule(described(), described(), settings)
        made._trainer = SimpleNamespace(log_every_n_steps=10**9, global_step=step)
        return made

    monkeypatch.setattr(RegressorModule, "global_step", property(lambda self: self._trainer.global_step))
    return make


ROWS = torch.tensor([[0, 3], [4, 2], [9, 11]])


def test_the_papers_loss_is_of_the_descriptors_as_they_are(module):
    made = module()
    data = described()
    found = made.network(data.descriptors[ROWS[:, 0]], relative_pose(data.poses[ROWS[:, 0]], data.poses[ROWS[:, 1]]))
    spread = float((data.descriptors - data.descriptors.mean(dim=0)).square().mean().sqrt())
    expected = ((found - data.descriptors[ROWS[:, 1]]) / spread).square().mean()
    torch.testing.assert_close(made.step(ROWS)[0], expected)
    assert TrainSettings().pairs.noise == 0.0 and made._noise(ROWS) is None


def test_blur_is_as_large_as_asked_and_the_same_for_the_same_seed_and_step(module):
    many = torch.zeros(4000, 2, dtype=torch.int64)
    blur = module(pairs={"noise": 0.3})._noise(many)
    data = described().descriptors
    spread = float((data - data.mean(dim=0)).square().mean().sqrt())
    assert float(blur.std()) == pytest.approx(0.3 * spread, rel=0.03)
    again, later = module(pairs={"noise": 0.3})._noise(many), module(1, pairs={"noise": 0.3})._noise(many)
    other = module(pairs={"noise": 0.3}, seed=1)._noise(many)
    assert torch.equal(blur, again) and not torch.equal(blur, later) and not torch.equal(blur, other)


def test_validation_sees_no_blur(module):
    plain, blurred = module(), module(pairs={"noise": 5.0})
    assert plain.validation_error() == pytest.approx(blurred.validation_error())
