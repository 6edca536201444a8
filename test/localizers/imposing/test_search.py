from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_drive
import torch

from bench.imposing_transcription import transcribed_search
from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.imposing.network import PoseEncoder, scores
from vloc_ros.localizers.imposing.sampling import noise_scale, perturb
from vloc_ros.localizers.imposing.search import average, draw, first_step, search, similarity
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder
from vloc_ros.localizers.imposing.statistics import STATISTICS

CPU = torch.device("cpu")
SMALL = SearchSettings(candidates=256, refinements=5, components=40, averaged=64)


def random_encoder(seed: int, dtype: torch.dtype, **changes) -> PoseEncoder:
    torch.manual_seed(seed)
    options = {"hidden": 32, "embed_dim": 16, "position_octaves": 6, "rotation_octaves": 3, **changes}
    encoder = PoseEncoder(NetworkSettings(**options)).to(dtype).eval().requires_grad_(False)
    encoder.set_area(torch.tensor([-12.0, -12.0, 1.0]), torch.tensor([12.0, 12.0, 2.0]))
    return encoder


def frozen(encoder: PoseEncoder, compute: torch.dtype = torch.float32) -> FrozenPoseEncoder:
    return FrozenPoseEncoder(encoder, torch.float32, compute)


def first_poses(settings: SearchSettings, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(to_vectors(tiny_drive.circle(settings.candidates))).to(dtype)


class PaintedScore:
    """An encoder whose score with the image vector (1, 0) falls with the distance from a known pose."""

    def __init__(self, truth: torch.Tensor, width_m: float = 6.0, width_deg: float = 20.0) -> None:
        self.truth, self.width_m, self.width_deg = truth, width_m, width_deg
        self.evaluated = 0

    def columns(self, poses: torch.Tensor) -> torch.Tensor:
        self.evaluated += 1
        poses = poses.T
        distance = torch.linalg.vector_norm(poses[:, :3] - self.truth[:3], dim=-1)
        angle = rotation_angle_quaternion(poses[:, 3:], self.truth[3:]) * 180 / math.pi
        score = torch.exp(-distance / self.width_m - angle / self.width_deg)
        return torch.stack((score, (1 - score**2).clamp_min(0).sqrt()))


IMAGE = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("changes", [{}, {"rotation_input": "matrix"}, {"frequencies": "linear"}])
def test_search_is_the_transcription_in_float64(seed, changes):
    encoder = random_encoder(seed, torch.float64, **changes)
    initial = first_poses(SMALL, torch.float64)
    vector = encoder(initial)[17 * seed] + 0.1 * torch.randn(16, dtype=torch.float64)
    draws = draw(SMALL, seed, CPU, torch.float64)
    expected, poses, values = transcribed_search(encoder, vector, initial, draws, SMALL)
    ours = FrozenPoseEncoder(encoder, torch.float64, torch.float64)
    found = search(ours, vector, initial, encoder(initial).T, draws, SMALL, keep_steps=True)
    assert float((found.pose - expected).abs().max()) < 1e-8
    assert len(found.steps) == len(poses) == SMALL.refinements
    for step, p, v in zip(found.steps, poses, values, strict=True):
        torch.testing.assert_close(step.poses, p, rtol=0, atol=1e-8)
        torch.testing.assert_close(step.scores, v, rtol=0, atol=1e-10)
    without_stored = search(ours, vector, initial, None, draws, SMALL)
    torch.testing.assert_close(without_stored.pose, found.pose, rtol=0, atol=1e-9)


def test_float32_scores_of_identical_candidates_agree():
    encoder = random_encoder(0, torch.float32, embed_dim=64, hidden=64, position_octaves=11, rotation_octaves=11)
    poses = first_poses(SearchSettings(), torch.float32)
    vector = torch.randn(64)
    found = similarity(torch.nn.functional.normalize(vector, dim=-1), frozen(encoder).columns(poses.T))
    assert float((found - scores(vector, encoder(poses))).abs().max()) < 1e-4


def test_similarity_is_equation_1():
    generator = torch.Generator().manual_seed(0)
    vector, signatures = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((8,), (50, 8)))
    unit = vector / vector.norm()
    torch.testing.assert_close(similarity(unit, signatures.T), scores(vector, signatures))
    assert similarity(unit, torch.zeros(8, 3, dtype=torch.float64)).tolist() == [0.0] * 3


def test_bfloat16_scores_stay_close():
    encoder = random_encoder(1, torch.float32)
    initial = first_poses(SMALL, torch.float32)
    vector = encoder(initial)[5]
    exact, rounded = (
        similarity(torch.nn.functional.normalize(vector, dim=-1), frozen(encoder, compute).columns(initial.T))
        for compute in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).abs().max()) < 0.05


def test_each_step_keeps_its_shape_and_its_best():
    encoder = random_encoder(2, torch.float32)
    initial = first_poses(SMALL, torch.float32)
    draws = draw(SMALL, 0, CPU, torch.float32)
    result = search(frozen(encoder), encoder(initial)[3], initial, None, draws, SMALL, keep_steps=True)
    assert [len(s.selected) for s in result.steps] == [40] * 4 + [64]
    for step in result.steps:
        assert step.poses.shape == (256, 7) and step.scores.shape == (256,)
        best = step.scores[step.selected]
        assert (best.diff() <= 0).all() and float(best[-1]) >= float(step.scores.sort().values[-len(best)])
    torch.testing.assert_close(result.score, result.steps[-1].scores[result.steps[-1].selected].mean())
    assert search(frozen(encoder), encoder(initial)[3], initial, None, draws, SMALL).steps == ()


def test_proposals_narrow_by_half_in_every_step():
    settings = SearchSettings(candidates=4000, refinements=4, components=1, averaged=1)
    truth = torch.tensor([1.0, 2.0, 3.0, 0, 0, 0, 1.0])
    initial = truth.expand(4000, 7).clone()
    # One component, whose score no proposal exceeds: the spread is the noise alone. The best is the truth or near it.
    draws = draw(settings, 0, CPU, torch.float32)
    result = search(PaintedScore(truth), IMAGE, initial, None, draws, settings, keep_steps=True)
    for k in (1, 2, 3):
        deviations = result.steps[k].poses[:, :3].std(dim=0)
        np.testing.assert_allclose(deviations, np.array([8.0, 8.0, 0.2]) / 2 ** (k - 1), rtol=0.06)


def test_equal_seeds_give_equal_numbers():
    a, b, c = (draw(SMALL, seed, CPU, torch.float32) for seed in (5, 5, 6))
    assert torch.equal(a.normal, b.normal) and torch.equal(a.uniform, b.uniform)
    assert not torch.equal(a.normal, c.normal)
    assert a.normal.shape == (5, 256, 6) and a.uniform.shape == (5, 256)
    assert (a.uniform >= 0).all() and (a.uniform < 1).all()


def test_the_whole_map_is_searched_down_to_the_camera():
    settings = SearchSettings(candidates=1024)
    initial = first_poses(settings, torch.float32)
    truth = perturb(initial[333], torch.tensor([1.5, -0.8, 0.1, 0.01, -0.01, 0.05]))
    for seed in range(3):
        encoder = PaintedScore(truth)
        draws = draw(settings, seed, CPU, torch.float32)
        result = search(encoder, IMAGE, initial, None, draws, settings)
        assert encoder.evaluated == 6
        assert float(torch.linalg.vector_norm(result.pose[:3] - truth[:3])) < 0.25
        assert float(rotation_angle_quaternion(result.pose[3:], truth[3:])) < math.radians(1.0)
        assert bool(torch.isfinite(result.statistics).all())


def test_a_prior_saves_steps_and_finds_the_same_place():
    settings = SearchSettings(candidates=512)
    initial = first_poses(settings, torch.float32)
    truth = perturb(initial[100], torch.tensor([0.7, 0.5, 0.05, 0.0, 0.0, 0.02]))
    draws = draw(settings, 1, CPU, torch.float32)
    whole = search(PaintedScore(truth), IMAGE, initial, None, draws, settings)
    std = torch.tensor([0.5, 0.5, 0.1, 0.005, 0.005, 0.01])
    start = first_step(settings, std)
    assert start >= 2
    near = perturb(truth, torch.tensor([0.4, -0.4, 0.0, 0.0, 0.0, 0.01])).expand(512, 7)
    encoder = PaintedScore(truth)
    around = perturb(near, draws.normal[0] * std * settings.prior_sigmas)
    result = search(encoder, IMAGE, around, None, draws, settings, start=start)
    assert encoder.evaluated == settings.refinements - start
    assert float(torch.linalg.vector_norm(result.pose[:3] - whole.pose[:3])) < 0.2
    assert result.statistics.shape == (len(STATISTICS),) and bool(torch.isfinite(result.statistics).all())


def test_the_first_step_follows_the_width_of_the_prior():
    settings = SearchSettings()
    scale = noise_scale(settings).float()
    starts = [first_step(settings, scale * share) for share in (10.0, 0.5, 0.25, 0.1, 0.01, 0.0)]
    assert starts[0] == 0 and starts == sorted(starts)
    assert starts[-1] == settings.refinements - 2  # two steps always remain: one to look, one to refine
    for share, k in zip((0.25, 0.1), starts[2:4], strict=True):
        assert 0.5**k >= share * settings.prior_sigmas > 0.5 ** (k + 1)
    assert first_step(settings, None) == 0
    assert first_step(SearchSettings(refinements=1), scale * 0.01) == 0
    # A prior that is sharp in position and blind in heading saves nothing.
    blind = scale * 0.01
    blind[5] = math.pi
    assert first_step(settings, blind) == 0


def test_the_average_is_weighted_and_survives_scores_of_zero():
    poses = torch.zeros(4, 7)
    poses[:, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    half = torch.tensor([0.0, 0.1, 0.2, 0.3]) / 2
    poses[:, 5], poses[:, 6] = half.sin(), half.cos()
    poses[1:3, 3:] *= -1  # the other sign of the same rotation
    found = average(poses, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert float(found[0]) == pytest.approx(0.5) and 2 * math.atan2(found[5], found[6]) == pytest.approx(0.05, abs=1e-6)
    plain = average(poses, torch.zeros(4))
    assert float(plain[0]) == pytest.approx(1.5) and 2 * math.atan2(plain[5], plain[6]) == pytest.approx(0.15, abs=1e-6)


def test_without_any_score_all_components_are_equally_likely():
    class Nothing(PaintedScore):
        def columns(self, poses):
            return torch.zeros(2, poses.shape[1])

    settings = SearchSettings(candidates=4000, refinements=2, components=8, averaged=8, noise_translation_m=(0.0,) * 3)
    initial = torch.zeros(4000, 7)
    initial[:, 0], initial[:, 6] = torch.arange(4000.0), 1.0
    draws = draw(settings, 3, CPU, torch.float32)
    result = search(Nothing(initial[0]), IMAGE, initial, None, draws, settings, keep_steps=True)
    first, second = result.steps
    taken = (second.poses[:, :1] == first.poses[first.selected, 0]).double().mean(dim=0)
    np.testing.assert_allclose(taken, 1 / 8, atol=0.02)


def test_a_map_that_scores_nothing_still_gives_finite_numbers():
    class Opposite(PaintedScore):
        def columns(self, poses):
            return -super().columns(poses)

    initial = first_poses(SMALL, torch.float32)
    draws = draw(SMALL, 0, CPU, torch.float32)
    for start in (0, 3):
        result = search(Opposite(initial[0]), IMAGE, initial, None, draws, SMALL, start=start)
        assert float(result.score) == 0.0
        assert bool(torch.isfinite(result.pose).all()) and bool(torch.isfinite(result.statistics).all())
        assert float(result.pose[3:].norm()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("changes", [{"components": 300}, {"averaged": 300}])
def test_more_components_than_candidates_are_refused(changes):
    from vloc_ros.errors import ConfigError

    with pytest.raises(ConfigError, match="candidates"):
        SearchSettings(candidates=256, **changes)
