"""What all trainers' modules share: progress, validations, best and averaged weights."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vloc_train.training.module import ScheduledModule, Validate, average_weights, cosine, time_limit
from vloc_train.training.run import RunOptions, TimeLimit, fit


class Line(ScheduledModule):
    """Fits a line; its validation error is what the test says."""

    def __init__(self, errors=()):
        super().__init__()
        self.network, self.errors, self.rates = nn.Linear(1, 1), list(errors), []

    @property
    def exported(self):
        return self.network

    def validation(self):
        error = self.errors.pop(0) if self.errors else math.nan
        return {"validation_m": error}, error

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, batch_idx):
        self.set_learning_rate(0.01 * cosine(self.progress()))
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (self.network(batch) - 2.0).square().mean()


def run(module, work, epochs=5, times=5, **more):
    options = RunOptions(device="cpu", progress=False)
    data = torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=1)
    return fit(module, data, options, work, epochs=epochs, callbacks=[Validate(times)], **more)


def test_validations_are_spread_over_the_run_and_the_best_weights_kept(tmp_path):
    seen = []
    module = Line([3.0, 1.0, 2.0, 4.0, 5.0, 0.0])
    remember = module.remember_best
    module.remember_best = lambda error: (seen.append((module.global_step, error)), remember(error))
    run(module, tmp_path)
    assert seen == [(4, 3.0), (8, 1.0), (12, 2.0), (16, 4.0), (20, 5.0)]
    assert module.best_error == 1.0
    assert not torch.equal(module.best().weight, module.network.weight)
    assert module.rates[0] == pytest.approx(0.01) and module.rates[-1] < 1e-3


def test_a_run_that_the_clock_ends_is_validated_once_at_its_end(tmp_path):
    module = Line([3.0, 2.0, 1.0])
    first, seconds = run(module, tmp_path, epochs=10_000, times=1, max_minutes=1e-3)
    assert first and seconds >= 0.06
    assert module.errors == [2.0, 1.0]
    assert module.best_error == 3.0


def test_nothing_to_validate_on_leaves_the_last_weights(tmp_path):
    module = Line()
    run(module, tmp_path)
    assert math.isinf(module.best_error) and torch.equal(module.best().weight, module.network.weight)


def test_progress_is_the_larger_of_steps_and_minutes():
    module, limit = Line(), TimeLimit(minutes=10.0)
    module.trainer = SimpleNamespace(estimated_stepping_batches=100, global_step=25, callbacks=[limit])
    limit.load_state_dict({"seconds": 60.0})
    assert time_limit(module.trainer) is limit
    assert module.progress() == pytest.approx(0.25)
    limit.load_state_dict({"seconds": 300.0})
    assert module.progress() == pytest.approx(0.5, abs=1e-3)
    limit.load_state_dict({"seconds": 3000.0})
    assert module.progress() == 1.0
    module.trainer.estimated_stepping_batches, module.trainer.callbacks = math.inf, []
    assert module.progress() == 0.0


def test_the_best_weights_survive_a_checkpoint():
    module, other, checkpoint = Line(), Line(), {}
    module.remember_best(2.0)
    kept = module.network.weight.clone()
    with torch.no_grad():
        module.network.weight.add_(1.0)
    module.remember_best(3.0)
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other.best_error == 2.0 and torch.equal(other.best().weight, kept)


def test_an_average_moves_fast_at_first_and_counts_what_is_no_number():
    network, averaged = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.num_batches_tracked.fill_(7)
    average_weights(averaged, network, 1, 0.99)
    torch.testing.assert_close(averaged.weight, torch.full((2,), 1.0 + 1.0 - 2.0 / 11.0))
    assert averaged.num_batches_tracked == 7
    average_weights(averaged, network, 10**9, 0.5)
    torch.testing.assert_close(averaged.weight, torch.full((2,), 2.0 - 1.0 / 11.0))
