from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_drive
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.localizers.imposing.network import (
    ImageEncoder,
    ImPosingNetwork,
    PoseEncoder,
    canonical,
    fourier_features,
    scores,
)
from vloc_ros.localizers.imposing.settings import NetworkSettings
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder


def random_poses(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1)
    return torch.cat((50 * torch.randn(count, 3, generator=generator, dtype=torch.float64), q), dim=-1).to(dtype)


@given(
    values=st.lists(st.floats(-math.pi, math.pi), min_size=1, max_size=7),
    terms=st.integers(1, 12),
    kind=st.sampled_from(["octaves", "linear"]),
)
def test_fourier_features_are_the_formula(values, terms, kind):
    found = fourier_features(torch.tensor([values], dtype=torch.float64), terms, kind)[0].tolist()
    rates = [2.0**k if kind == "octaves" else 2.0 * k for k in range(terms)]
    expected = [
        *values,
        *(math.sin(rate * x) for x in values for rate in rates),
        *(math.cos(rate * x) for x in values for rate in rates),
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_papers_linear_terms_at_k_0_are_constants():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    features = fourier_features(x, 11, "linear")
    assert (features[:, 1] == 0).all() and (features[:, 12] == 1).all()


@pytest.mark.parametrize("rotation", ["quaternion", "matrix"])
@pytest.mark.parametrize("frequencies", ["octaves", "linear"])
def test_the_fast_path_gives_the_same_signatures(rotation, frequencies):
    settings = NetworkSettings(rotation_input=rotation, frequencies=frequencies, position_octaves=8, rotation_octaves=5)
    encoder = PoseEncoder(settings).double().eval()
    encoder.set_area(torch.tensor([-90.0, -60.0, 0.0]), torch.tensor([120.0, 80.0, 3.0]))
    poses = random_poses(64)
    assert encoder.features(poses).shape == (64, settings.pose_input_dim)
    with torch.no_grad():
        ours = FrozenPoseEncoder(encoder, torch.float64, torch.float64)
        torch.testing.assert_close(ours.columns(poses.T).T, encoder(poses), rtol=0, atol=1e-12)


def test_pose_encoder_at_the_papers_settings():
    encoder = PoseEncoder(NetworkSettings())
    widths = [(layer.in_features, layer.out_features) for layer in encoder.linears]
    assert widths == [(161, 256), (256, 256), (256, 256), (256, 256)]
    size = sum(p.numel() * p.element_size() for p in encoder.parameters())
    assert 0.9e6 < size < 1e6  # the paper: less than 1 MB
    assert encoder(random_poses(5, dtype=torch.float32)).shape == (5, 256)


def test_pose_encoder_is_the_literal_mlp():
    settings = NetworkSettings(position_octaves=4, rotation_octaves=3, hidden=16, embed_dim=8)
    encoder = PoseEncoder(settings).double().eval()
    encoder.set_area(torch.tensor([-20.0, -10.0, 0.0]), torch.tensor([40.0, 10.0, 2.0]))
    pose = random_poses(1, seed=3)
    values = pose[0].numpy().copy()
    values[3:] *= 1.0 if values[6] >= 0 else -1.0
    values[:3] = (values[:3] - [10.0, 0.0, 1.0]) * np.pi / 33.0  # half of 60 m, and a tenth more
    parts = []
    for block, terms in ((values[:3], 4), (values[3:], 3)):
        angle = (block[:, None] * 2.0 ** np.arange(terms)).ravel()
        parts += [block, np.sin(angle), np.cos(angle)]
    x = np.concatenate(parts)
    for i, layer in enumerate(encoder.linears):
        x = layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if i < 3 else x
    np.testing.assert_allclose(encoder(pose)[0].detach().numpy(), x, atol=1e-6)  # the area is kept in float32


@given(st.integers(0, 10_000))
def test_canonical_keeps_the_rotation_and_turns_w_positive(seed):
    poses = random_poses(8, seed)
    found = canonical(poses)
    assert (found[:, 6] >= 0).all()
    torch.testing.assert_close(found, canonical(torch.cat((poses[:, :3], -poses[:, 3:]), dim=-1)))
    np.testing.assert_allclose(
        quaternion_to_matrix(found[:, 3:].numpy()), quaternion_to_matrix(poses[:, 3:].numpy()), atol=1e-12
    )


@pytest.mark.parametrize("rotation", ["quaternion", "matrix"])
def test_both_signs_of_a_quaternion_have_one_signature(rotation):
    encoder = PoseEncoder(NetworkSettings(rotation_input=rotation)).eval()
    poses = random_poses(32, dtype=torch.float32)
    flipped = torch.cat((poses[:, :3], -poses[:, 3:]), dim=-1)
    torch.testing.assert_close(encoder(poses), encoder(flipped))


def test_the_quaternion_is_cut_at_one_heading_and_the_matrix_is_not():
    heading = torch.linspace(-1.05 * math.pi, 1.05 * math.pi, 4001, dtype=torch.float64)
    poses = torch.zeros(len(heading), 7, dtype=torch.float64)
    poses[:, 5], poses[:, 6] = (heading / 2).sin(), (heading / 2).cos()
    jumps = {}
    for kind in ("quaternion", "matrix"):
        encoder = PoseEncoder(NetworkSettings(rotation_input=kind, rotation_octaves=1)).double()
        features = encoder.features(poses)
        jumps[kind] = torch.linalg.vector_norm(features.diff(dim=0), dim=-1)
    assert jumps["matrix"].max() < 1.5 * jumps["matrix"].median()
    assert jumps["quaternion"].max() > 100 * jumps["quaternion"].median()
    assert abs(abs(float(heading[jumps["quaternion"].argmax()])) - math.pi) < 0.01


def test_nine_entries_are_the_rotation_matrix():
    encoder = PoseEncoder(NetworkSettings(rotation_input="matrix", rotation_octaves=2)).double()
    poses = random_poses(16)
    start = 3 * (1 + 2 * encoder.settings.position_octaves)
    found = encoder.features(poses)[:, start : start + 9].reshape(-1, 3, 3)
    np.testing.assert_allclose(found.numpy(), quaternion_to_matrix(poses[:, 3:].numpy()), atol=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_scores_are_equation_1(seed, d):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(d, generator=generator, dtype=torch.float64)
    signatures = torch.randn(6, d, generator=generator, dtype=torch.float64)
    expected = []
    for m in signatures.numpy():
        dot = sum(float(a) * float(b) for a, b in zip(image.numpy(), m, strict=True))
        expected.append(dot / (math.sqrt((image**2).sum()) * math.sqrt((m**2).sum())) * (dot > 0))
    found = scores(image, signatures)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    torch.testing.assert_close(scores(5.0 * image, 0.1 * signatures), found)


def test_scores_of_a_batch_and_their_leaky_slope():
    images, signatures = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 5, 8, dtype=torch.float64)
    found = scores(images, signatures)
    assert found.shape == (4, 5)
    torch.testing.assert_close(found[2], scores(images[2], signatures[2]))
    leaky = scores(images, signatures, 0.1)
    cosine = torch.nn.functional.cosine_similarity(images[:, None], signatures, dim=-1)
    torch.testing.assert_close(leaky, torch.where(cosine > 0, cosine, 0.1 * cosine))


def test_scores_of_zero_vectors_are_zero():
    assert scores(torch.zeros(8), torch.randn(5, 8)).tolist() == [0.0] * 5
    assert scores(torch.randn(8), torch.zeros(5, 8)).tolist() == [0.0] * 5


def test_image_encoder_pools_and_has_a_head_for_each_scene():
    made = tiny_drive.settings()
    encoder = ImageEncoder(made.network, scenes=2).eval()
    images = torch.randn(3, 3, tiny_drive.HEIGHT, tiny_drive.WIDTH)
    pooled = encoder.pooled(images)
    maps = encoder.backbone(images)
    assert pooled.shape == (3, maps.shape[1] * 2)
    left = maps[..., : -(-maps.shape[-1] // 2)].mean(dim=(-2, -1))
    torch.testing.assert_close(pooled.unflatten(1, (-1, 2))[..., 0], left)
    assert encoder(images, 1).shape == (3, 32)
    assert not torch.equal(encoder(images, 0), encoder(images, 1))


def test_global_average_pooling_is_the_papers():
    encoder = ImageEncoder(tiny_drive.settings(network={"pooling": "gap"}).network).eval()
    images = torch.randn(2, 3, tiny_drive.HEIGHT, tiny_drive.WIDTH)
    torch.testing.assert_close(encoder.pooled(images), encoder.backbone(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("options", [{"backbone": "no_such_network"}, {"backbone_options": {"no_such_option": 1}}])
def test_an_unknown_backbone_is_a_named_error(options):
    with pytest.raises(ConfigError, match=r"imposing\.backbone"):
        ImPosingNetwork(NetworkSettings(**{"backbone": "resnet10t", **options}))


def test_the_area_is_centred_and_never_vanishes():
    encoder = PoseEncoder(NetworkSettings())
    point = torch.tensor([3.0, 4.0, 5.0])
    encoder.set_area(point, point)
    assert encoder.centre.tolist() == [3.0, 4.0, 5.0] and float(encoder.half_extent) == pytest.approx(1.1)
    encoder.set_area(torch.tensor([-100.0, 0.0, 0.0]), torch.tensor([100.0, 10.0, 1.0]))
    corner = torch.tensor([[100.0, 10.0, 1.0, 0, 0, 0, 1.0]])
    assert float(encoder.features(corner)[0, 0]) == pytest.approx(math.pi / 1.1, rel=1e-5)
