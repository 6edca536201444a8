from __future__ import annotations

import csv

import numpy as np
import pytest
import tiny_drive
import torch
from tiny_learner import gradient, learner

from vloc_train.training.augment import AugmentSettings
from vloc_train.training.sampling import KeyedSampler


@pytest.mark.parametrize("scenes", [1, 2])
def test_the_shares_of_two_processes_average_to_the_gradient_of_one(scenes):
    expected, *shares = gradient(0, 1, scenes), gradient(0, 2, scenes), gradient(1, 2, scenes)
    found = sum(shares) / 2
    assert found.shape == expected.shape and float(expected.abs().max()) > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # The agreement is far better than what was asked for, and no accident: each half alone is another gradient.
    assert float((shares[0] - expected).abs().max()) > 100 * float((found - expected).abs().max())


def test_the_loss_falls_below_that_of_saying_nothing():
    augment = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))
    module, data = learner(
        width_m=8.0, width_deg=40.0, augment=augment, search={"noise_translation_m": (3.0, 3.0, 0.2)}
    )
    module.train()
    optimiser = torch.optim.Adam(module.network.parameters(), lr=3e-3)
    sampler, losses = KeyedSampler([20], 20, seed=0), []
    for epoch in range(60):
        sampler.set_epoch(epoch)
        for items in sampler:
            batch = data.collate([data[item] for item in items])
            loss, predicted = module.loss(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    with torch.no_grad():
        from vloc_train.imposing.proposals import score_steps

        vectors = torch.zeros(20, 32)
        _, targets = score_steps(module.network.pose_encoder(), vectors, batch, data.settings, 1.0)
    silent = sum(float(t.mean()) for t in targets)
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert np.mean(losses[-5:]) < 0.75 * silent
    assert float((predicted[0] > 0).float().mean()) < 0.6 < float((predicted[-1] > 0).float().mean())


def test_scores_of_other_scenes_are_pressed_down():
    module, data = learner(scenes=2)
    with torch.no_grad():  # a network that finds every image everywhere
        for part in (*module.network.image_encoder.heads, *(e.linears[-1] for e in module.network.pose_encoders)):
            part.weight.zero_()
            part.bias.fill_(1.0)
    batch = data.collate([data[(0, 0, 1, f)] for f in range(4)])
    assert batch.rival == 0
    both, _ = module.loss(batch)
    batch.rival_poses = None
    alone, _ = module.loss(batch)
    assert float(both.detach() - alone.detach()) == pytest.approx(1.0, abs=1e-4)


def test_learning_rate_and_narrowing_follow_the_progress():
    module, _ = learner(schedule="cosine", learning_rate=1e-2, narrowing=0.2, narrow_after=0.5)
    module.trainer = type("Trainer", (), {"global_step": 1000})()  # type: ignore[assignment]
    rates = [module.learning_rate(p) for p in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(rates, [1e-2, 5e-3, 0.0], atol=1e-12)
    narrowing = [module._narrowing(p) for p in (0.0, 0.5, 0.6, 0.75, 1.0)]
    assert narrowing[:2] == [1.0, 1.0] and 0.2 < narrowing[2] < 1.0
    np.testing.assert_allclose(narrowing[3:], [0.2, 0.2])
    assert learner(learning_rate=3e-4)[0].learning_rate(0.7) == 3e-4


def test_validation_leaves_the_mode_alone_and_covers_all_scenes():
    module, _ = learner(scenes=2)
    for training in (True, False):
        module.network.train(training)
        distance, angle = module.validate_frames()
        assert module.network.training is training
        assert len(distance) == len(angle) == 8 and np.isfinite(distance).all() and (angle <= 180).all()
    again, _ = module.validate_frames()
    np.testing.assert_array_equal(distance, again)


def test_the_log_of_a_run():
    with (tiny_drive.trained_map().parent / "map.work" / "log" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for step in range(3):
        shares = [float(row[f"positive_share/step_{step}"]) for row in rows if row[f"positive_share/step_{step}"]]
        assert len(shares) >= 4 and all(0.0 <= s <= 1.0 for s in shares)
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses[-1] < losses[0]
    validations = [float(row["validation_m"]) for row in rows if row["validation_m"]]
    assert len(validations) == 2
