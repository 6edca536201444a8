from __future__ import annotations

import numpy as np
import tiny_drive
import torch

from vloc_ros.localizers.imposing.network import PoseEncoder
from vloc_train.imposing.data import KeyedFrames
from vloc_train.imposing.objective import target_scores
from vloc_train.imposing.proposals import _propose, _trained_score, cosines, score_steps

#: Widths that a random proposal reaches often.
WIDE = {"width_m": 8.0, "width_deg": 40.0, "search": {"noise_translation_m": (4.0, 4.0, 0.2)}}


def prepared(**changes):
    made = tiny_drive.settings(**changes)
    frames = tiny_drive.frames(20)
    data = KeyedFrames([frames], made)
    batch = data.collate([data[(0, 0, 0, f)] for f in range(4)])
    return made, tiny_drive.network(made, [frames]).pose_encoder(), batch


def test_every_step_has_scores_and_targets():
    made, encoder, batch = prepared()
    predicted, targets = score_steps(encoder, torch.randn(4, 32), batch, made, 1.0)
    assert [p.shape for p in predicted] == [(4, 32), (4, 16), (4, 16)] == [t.shape for t in targets]
    assert all(((t >= 0) & (t <= 1)).all() for t in targets)
    assert all(p.requires_grad for p in predicted) and not any(t.requires_grad for t in targets)


def test_the_truth_leads_the_proposals_even_with_a_blind_network():
    made, encoder, batch = prepared(train_candidates=256, train_initial=256, **WIDE)
    for p in encoder.parameters():
        torch.nn.init.zeros_(p)
    _, targets = score_steps(encoder, torch.zeros(4, 32), batch, made, 1.0)
    shares = [float((t > 0).float().mean()) for t in targets]
    assert shares[2] > shares[1] + 0.2 > shares[0] + 0.4 > 0.4


def test_half_of_the_components_are_the_best_targets():
    poses = torch.zeros(1, 10, 7)
    poses[..., 0], poses[..., 6] = torch.arange(10.0), 1.0
    cosine = torch.zeros(1, 10)
    cosine[0, :2] = 0.5
    target = torch.zeros(1, 10)
    target[0, 8:] = 0.5
    uniform = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0))
    found = _propose(poses, cosine, target, 4, torch.zeros(1, 4000, 6), uniform)[0, :, 0]
    shares = torch.bincount(found.long(), minlength=10) / 4000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0, 0, 0, 0, 0, 0, 0.25, 0.25], atol=0.03)
    shared = _propose(poses[0], cosine, target, 4, torch.zeros(1, 4000, 6), uniform)[0, :, 0]
    assert torch.equal(shared, found)


def test_the_first_candidates_are_moved_by_uniform_noise():
    made, encoder, batch = prepared(uniform_noise=0.0)
    still = score_steps(encoder, torch.randn(4, 32), batch, made, 1.0)[1][0]
    torch.testing.assert_close(still, target_scores(batch.initial.unsqueeze(0), batch.truth, 5.0, 10.0))
    made, encoder, batch = prepared(uniform_noise=1.0)
    moved = score_steps(encoder, torch.randn(4, 32), batch, made, 1.0)[1][0]
    assert not torch.equal(moved, still)


def test_narrowing_reaches_its_factor_at_the_last_step():
    made, encoder, batch = prepared(train_candidates=256, train_initial=256, **WIDE)
    vectors = torch.randn(4, 32)
    wide, narrow = (score_steps(encoder, vectors, batch, made, factor)[1] for factor in (1.0, 0.25))
    torch.testing.assert_close(wide[0], narrow[0])
    assert float(narrow[1].mean()) < float(wide[1].mean()) and float(narrow[2].mean()) < float(wide[2].mean())


def test_gradients_stay_alive_where_the_target_is_positive():
    cosine = torch.tensor([-0.5, -0.5, 0.3, 0.3], requires_grad=True)
    target = torch.tensor([0.4, 0.0, 0.4, 0.0])
    kept = _trained_score(cosine, target, True)
    assert kept.tolist() == torch.tensor([-0.5, 0.0, 0.3, 0.3]).tolist()
    kept.sum().backward()
    assert cosine.grad.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert _trained_score(cosine, target, False).tolist() == torch.tensor([0.0, 0.0, 0.3, 0.3]).tolist()


def test_cosines_of_shared_and_of_own_signatures():
    image = torch.nn.functional.normalize(torch.randn(3, 8, dtype=torch.float64), dim=-1)
    shared, own = torch.randn(5, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    similarity = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosines(image, shared), similarity(image[:, None], shared[None], dim=-1))
    torch.testing.assert_close(cosines(image, own), similarity(image[:, None], own, dim=-1))


def test_no_gradient_flows_through_the_proposals():
    made, _, batch = prepared()
    encoder = PoseEncoder(made.network)
    vectors = torch.randn(4, 32, requires_grad=True)
    predicted, _ = score_steps(encoder, vectors, batch, made, 1.0)
    predicted[-1].sum().backward()
    assert bool(torch.isfinite(vectors.grad).all()) and float(vectors.grad.abs().max()) > 0
