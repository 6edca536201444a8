"""What all trainers' modules share: rates, progress, validations, best and averaged weights."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vloc_train.training.fitting import TimeLimit, fit
from vloc_train.training.module import TrainingModule, Validate, average_weights, time_limit
from vloc_train.training.run import RunOptions
from vloc_train.training.settings import TrainSettings


class Line(TrainingModule):
    """Fits a line; its validation error is what the test says."""

    def __init__(self, errors=(), **changes):
        super().__init__(TrainSettings(**{"learning_rate": 0.01, "schedule": "cosine", **changes}), nn.Linear(1, 1))
        self.errors, self.rates = list(errors), []

    def validation(self):
        error = self.errors.pop(0) if self.errors else math.nan
        return {"validation_m": error}, error

    def step(self, batch):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        loss = (self.network(batch) - 2.0).square().mean()
        return loss, {"twice": 2.0 * loss}


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


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [3.0, 3.0, 3.0]), ("poly", [3.0, 3.0 * 0.5**0.9, 0.0]), ("cosine", [3.0, 1.5, 0.0])],
)
def test_the_learning_rate_follows_the_progress(schedule, rates, monkeypatch):
    module = Line(schedule=schedule, learning_rate=3.0)
    assert [module.learning_rate(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(rates)
    module.warm_up = 4
    monkeypatch.setattr(Line, "global_step", 1)
    assert module.learning_rate(0.0) == pytest.approx(1.5 if schedule == "cosine" else 3.0)


def test_averaged_weights_are_what_is_validated_and_exported(tmp_path):
    module = Line([1.0], weight_average=0.5, schedule="constant")
    run(module, tmp_path, epochs=1, times=1)
    assert module.exported is module.averaged and not any(p.requires_grad for p in module.averaged.parameters())
    assert torch.equal(module.best().weight, module.averaged.weight)
    assert not torch.equal(module.averaged.weight, module.network.weight)
    with module.evaluated() as network:
        assert network is module.averaged and not network.training and not torch.is_grad_enabled()


def test_evaluation_leaves_the_mode_alone():
    module = Line()
    for training in (True, False):
        module.network.train(training)
        with module.evaluated() as network:
            assert not network.training
        assert module.network.training is training


def test_a_runs_log_has_loss_rate_and_figures(tmp_path):
    run(Line(), tmp_path)
    header, *rows = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"loss", "learning_rate", "twice"} <= set(header.split(",")) and rows


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
