"""H: its shape is Figure 4's, relative poses mean what they say, and a map's H is checked before it is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import MapError, MapFormatError, MapTensorError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.localizers.copr.network import (
    REGRESSOR_FILE,
    SECTION,
    DescriptorRegressor,
    StoredRegressor,
    regressor_settings,
    regressor_tensors,
    relative_pose,
)
from vloc_ros.localizers.copr.settings import RegressorSettings
from vloc_ros.maps import MapManifest, Scene, write_map
from vloc_ros.types import CameraModel


def poses(seed: int, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return make_transform(so3_exp(rng.normal(0, 1, (count, 3))), rng.normal(0, 20, (count, 3)))


def vectors(T: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(to_vectors(T)).double()


def test_the_default_network_is_figure_4s():
    network = DescriptorRegressor(512)
    shapes = [tuple(layer.weight.shape) for layer in network.hidden]
    assert shapes == [(519, 519)] * 7
    assert tuple(network.output.weight.shape) == (512, 519)
    assert isinstance(network.activation, torch.nn.GELU)


def test_the_default_network_is_its_transcription_in_float64():
    torch.manual_seed(0)
    network = DescriptorRegressor(12).double()
    f, p = torch.randn(4, 12).double(), torch.randn(4, 7).double()
    x = np.concatenate((f, p), axis=1)
    for layer in network.hidden:
        z = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = 0.5 * z * (1.0 + torch.erf(torch.from_numpy(z) / np.sqrt(2.0)).numpy())
    expected = x @ network.output.weight.detach().numpy().T + network.output.bias.detach().numpy()
    np.testing.assert_allclose(network(f, p).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        RegressorSettings(),
        RegressorSettings(layers=2, width=20, octaves=3, skip=True),
        RegressorSettings(layers=3, standardise=True, residual=True, activation="relu"),
    ],
)
def test_gradients_are_those_of_finite_differences(settings):
    torch.manual_seed(1)
    network = DescriptorRegressor(5, settings).double()
    torch.nn.init.normal_(network.output.weight)
    f = torch.randn(3, 5).double().requires_grad_()
    p = torch.randn(3, 7).double().requires_grad_()
    assert network(f, p).shape == (3, 5)
    assert torch.autograd.gradcheck(network, (f, p), atol=1e-4)


def test_a_residual_network_begins_with_the_anchors_descriptor():
    network = DescriptorRegressor(6, RegressorSettings(standardise=True, residual=True))
    data = 3.0 + 2.0 * torch.randn(50, 6)
    network.fit_scale(data)
    torch.testing.assert_close(network(data[:4], torch.randn(4, 7)), data[:4])


def test_scaling_the_descriptors_scales_what_a_standardised_network_makes():
    data, p = torch.randn(50, 6), torch.randn(4, 7)
    made = []
    for scale in (1.0, 100.0):
        torch.manual_seed(2)
        network = DescriptorRegressor(6, RegressorSettings(standardise=True))
        network.fit_scale(scale * data)
        made.append(network(scale * data[:4], p) / scale)
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=1e-4)


@given(st.integers(0, 1000))
def test_relative_poses_in_the_anchors_axes_are_those_of_the_transforms(seed):
    a, b = poses(seed), poses(seed + 5000)
    found = relative_pose(vectors(a), vectors(b)).numpy()
    np.testing.assert_allclose(from_vectors(found), inverse(a) @ b, atol=1e-4)
    assert (found[:, 6] >= 0).all()


@given(st.integers(0, 1000))
def test_body_frame_does_not_depend_on_where_in_the_map_the_two_stand_and_map_frame_on_no_rotation(seed):
    a, b, X = poses(seed), poses(seed + 5000), poses(seed + 9000, 1)
    body = relative_pose(vectors(a), vectors(b))
    torch.testing.assert_close(relative_pose(vectors(X @ a), vectors(X @ b)), body, atol=1e-3, rtol=1e-3)
    world = relative_pose(vectors(a), vectors(b), "map").numpy()
    np.testing.assert_allclose(world[:, :3], b[:, :3, 3] - a[:, :3, 3], atol=1e-4)
    np.testing.assert_allclose(from_vectors(world)[:, :3, :3] @ a[:, :3, :3], b[:, :3, :3], atol=1e-5)


def stored(tmp_path, change=None, **settings):
    torch.manual_seed(0)
    network = DescriptorRegressor(8, RegressorSettings(layers=2, **settings))
    section = regressor_settings(network, "a" * 64, 12.0)
    tensors = regressor_tensors(network)
    if change:
        change(section, tensors)
    manifest = MapManifest(
        "copr", (Scene("map", "map", (0, 0, 0), (1, 1, 1)),), CameraModel(8, 8, 8, 8, 4, 4), settings={SECTION: section}
    )
    return network, write_map(tmp_path / "map", manifest, {REGRESSOR_FILE: tensors})


def test_a_stored_regressor_comes_back(tmp_path):
    network, bundle = stored(tmp_path, octaves=2, residual=True)
    found = StoredRegressor.from_bundle(bundle, torch.device("cpu"))
    assert (found.extractor_id, found.radius_m) == ("a" * 64, 12.0)
    assert found.network.settings == network.settings
    f, p = torch.randn(3, 8), torch.randn(3, 7)
    torch.testing.assert_close(found.network(f, p), network(f, p), atol=2e-3, rtol=2e-3)  # matrices are float16
    again = StoredRegressor.from_bundle(bundle, torch.device("cpu"))
    assert again.identity == found.identity and len(found.identity) == 64


def test_a_regressor_of_other_descriptors_is_refused(tmp_path):
    found = StoredRegressor.from_bundle(stored(tmp_path)[1], torch.device("cpu"))
    found.check("a" * 64, 8, "map")
    with pytest.raises(MapError, match=r"found bbbb"):
        found.check("b" * 64, 8, "map")
    with pytest.raises(MapError, match=r"of length 9; train"):
        found.check("a" * 64, 9, "map")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s, t: s.update(layers=3), MapTensorError),
        (lambda s, t: s.update(dimension=9), MapTensorError),
        (lambda s, t: s.update(dimension=10**9), MapFormatError),
        (lambda s, t: s.update(dimension=True), MapFormatError),
        (lambda s, t: s.update(extractor_id=3), MapFormatError),
        (lambda s, t: s.update(width="wide"), MapFormatError),
        (lambda s, t: s.update(radius_m="far"), MapFormatError),
        (lambda s, t: t.pop("output.bias"), MapTensorError),
        (lambda s, t: s.clear(), MapError),
    ],
)
def test_a_map_that_lies_about_its_regressor_is_refused_by_name(tmp_path, change, error):
    bundle = stored(tmp_path, change)[1]
    with pytest.raises(error):
        StoredRegressor.from_bundle(bundle, torch.device("cpu"))
