from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError, ImageError, MapError, MapFormatError, MapTensorError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.descriptor import (
    EXTRACTOR_FILE,
    SECTION,
    Descriptor,
    build_extractor,
    extractor_identity,
    load_extractor,
    preprocess_for,
)
from vloc_ros.localizers.retrieval.hub import TRUST_VARIABLE
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.localizers.retrieval.whitening import fit_whitening
from vloc_ros.maps import MapBundle, MapManifest, Scene, write_map
from vloc_ros.types import CameraModel

CPU = torch.device("cpu")


def tiny(**changes: Any) -> ExtractorSettings:
    defaults: dict[str, Any] = {
        "backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 24, 32]}, "image_width": 64,
        "image_height": 36, "clusters": 4, "precision": "float32",
    }  # fmt: skip
    return ExtractorSettings(**{**defaults, **changes})


def descriptor(seed: int = 0, **changes: Any) -> Descriptor:
    torch.manual_seed(seed)
    settings = tiny(**changes)
    extractor = build_extractor(settings)
    if settings.whiten is not None:
        width = extractor.whitening.in_features
        extractor.set_whitening(*fit_whitening(torch.randn(40, int(width)), settings.whiten))
    return Descriptor(extractor, preprocess_for(settings), CPU)


def write(path: Path, found: Descriptor, **changes: Any) -> MapBundle:
    parts: dict[str, Any] = {
        "settings": {SECTION: found.settings_mapping()},
        "preprocessing": found.preprocess.settings(),
        "tensors": found.tensors(),
        **changes,
    }
    manifest = MapManifest(
        backend="retrieval",
        scenes=(Scene("place", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),),
        camera=CameraModel(64, 36, 42.0, 42.0, 31.5, 17.5),
        preprocessing=parts["preprocessing"],
        settings=parts["settings"],
    )
    return write_map(path / "map", manifest, {EXTRACTOR_FILE: parts["tensors"]}, overwrite=True)


def photos(count: int = 3, seed: int = 0, width: int = 64, height: int = 36) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


KINDS = [
    {"kind": "gap", "normalise": False},
    {"kind": "gem", "gem_power": 4, "whiten": 8},
    {"kind": "netvlad", "whiten": 20},
    {"kind": "gap", "dimension": 5, "backbone_options": {"channels": (8, 16, 24, 32)}},
]


@pytest.mark.parametrize("changes", KINDS)
def test_a_map_gives_the_same_descriptors_and_identity(tmp_path: Path, changes):
    before = descriptor(**changes)
    bundle = write(tmp_path, before)
    after = Descriptor.from_bundle(bundle, CPU)
    images = photos()
    assert torch.equal(after.describe_images(images), before.describe_images(images))
    assert after.identity == before.identity == bundle.manifest.settings[SECTION]["id"]
    assert (after.metric, after.dimension) == (before.metric, before.dimension)
    assert after.extractor.needs_clusters is False and after.extractor.needs_whitening is False
    again = write(tmp_path / "again", after)
    assert again.entry(EXTRACTOR_FILE).sha256 == bundle.entry(EXTRACTOR_FILE).sha256


def test_matrices_are_stored_in_half_precision_and_vectors_are_not():
    for name, tensor in descriptor(kind="gem", whiten=8).tensors().items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim >= 2 else torch.float32), name


def test_the_given_extractor_keeps_its_weights_and_may_go_on_learning():
    extractor = build_extractor(tiny()).train()
    before = {k: v.clone() for k, v in extractor.state_dict().items()}
    Descriptor(extractor, preprocess_for(extractor.settings), CPU)
    assert all(torch.equal(v, before[k]) for k, v in extractor.state_dict().items())
    assert extractor.training and all(p.requires_grad for p in extractor.parameters())


def test_a_trainable_copy_has_the_stored_weights():
    found = descriptor(kind="netvlad", whiten=6)
    extractor = found.trainable_copy()
    again = Descriptor(extractor, found.preprocess, CPU)
    assert again.identity == found.identity
    loss = extractor(torch.randn(2, 3, 36, 64)).square().sum()
    loss.backward()
    assert all(p.grad is not None for n, p in extractor.named_parameters() if not n.startswith("whitening."))


def test_describe_fits_images_of_any_size_and_metric_is_kept():
    found, raw = descriptor(), descriptor(normalise=False)
    image = photos(1, width=200, height=120)[0]
    fitted = found.preprocess.apply_uint8(image)
    torch.testing.assert_close(found.describe(image), found.describe_images(fitted[None])[0])
    assert float(found.describe(image).norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(torch.nn.functional.normalize(raw.describe(image), dim=0), found.describe(image))
    assert (found.metric, raw.metric) == ("cosine", "l2") and found.identity != raw.identity


@given(seed=st.integers(0, 1000), count=st.integers(1, 5))
def test_the_batch_does_not_matter(seed, count):
    found, images = _SHARED, photos(count, seed)
    together = found.describe_images(images)
    alone = torch.stack([found.describe(image) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


_SHARED = descriptor()


def test_descriptors_can_be_learned_from_and_none_of_no_images():
    found = descriptor()
    x = found.describe_images(torch.from_numpy(photos(4)))
    layer = torch.nn.Linear(found.dimension, 2)
    layer(x).sum().backward()  # a tensor of inference mode would refuse
    assert layer.weight.grad is not None
    assert found.describe_images(photos(0)).shape == (0, found.dimension)


def test_half_precision_backbone_is_close():
    exact, half = descriptor(), descriptor(precision="bfloat16")
    assert half.precision == torch.bfloat16 and half.identity == exact.identity
    found = half.describe_images(photos())
    assert found.dtype == torch.float32
    assert ((found * exact.describe_images(photos())).sum(dim=-1) > 0.99).all()


@pytest.mark.parametrize(
    "images", [photos(1, width=32), photos(1).astype(np.float32), photos(1)[0], photos(1)[..., :1]]
)
def test_images_that_are_not_fitted_are_refused(images):
    with pytest.raises(ImageError, match=r"expected \(B, 36, 64, 3\) uint8"):
        descriptor().describe_images(images)


def test_preprocessing_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="expected images of 64x36, found preprocessing to 32x36"):
        Descriptor(build_extractor(tiny()), Preprocess(32, 36), CPU)


def test_identity_is_of_what_changes_a_descriptor():
    found = descriptor()
    settings, preprocess, tensors = found.settings, found.preprocess, found.tensors()
    same = extractor_identity(replace(settings, precision="auto"), replace(preprocess, fov_tolerance=0.5), tensors)
    assert same == found.identity
    touched = {k: v.clone() for k, v in tensors.items()}
    next(iter(touched.values())).view(-1)[0] += 1
    for other in (
        extractor_identity(replace(settings, normalise=False), preprocess, tensors),
        extractor_identity(settings, replace(preprocess, fit="crop"), tensors),
        extractor_identity(settings, preprocess, touched),
        descriptor(seed=1).identity,
    ):
        assert other != found.identity


# -- maps that lie -------------------------------------------------------------------------------


def settings_with(found: Descriptor, **changes: Any) -> dict[str, Any]:
    return {SECTION: {**found.settings_mapping(), **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet9000"}, "timm cannot create"),
        ({"backbone": "local-dir:weights"}, "name and shape of a timm network"),
        ({"backbone": "vgg19", "backbone_options": {}}, "expected tensor"),
        ({"backbone_options": {"channels": [8, 16, 24, 33]}}, "expected shape"),
        ({"backbone_options": {"channels": "x"}}, "timm cannot create"),
        ({"backbone_options": {"checkpoint_path": "weights.pth"}}, "name and shape of a timm network"),
        ({"kind": "gem"}, r"expected tensor 'pooling\.power'"),
        ({"kind": "sum"}, "expected one of"),
        ({"dimension": 12}, r"expected tensor 'head\.weight'"),
        ({"dimension": -1}, "expected a number in"),
        ({"whiten": 60000, "kind": "netvlad", "clusters": 4096}, "expected tensor"),
        ({"normalise": False}, "expected id"),
        ({"image_width": 65}, "expected id"),
        ({"id": "0" * 64}, "expected id"),
        ({"id": None}, "expected id"),
        ({"colour": 3}, "unknown field"),
    ],
)
def test_settings_that_do_not_fit_the_weights(tmp_path: Path, changes, message):
    found = descriptor()
    bundle = write(tmp_path, found, settings=settings_with(found, **changes))
    with pytest.raises(MapError, match=message):
        Descriptor.from_bundle(bundle, CPU)


def test_maps_without_an_extractor(tmp_path: Path):
    with pytest.raises(MapFormatError, match="expected the settings of an extractor"):
        Descriptor.from_bundle(write(tmp_path, descriptor(), settings={}), CPU)
    with pytest.raises(MapFormatError, match="expected a mapping"):
        Descriptor.from_bundle(write(tmp_path, descriptor(), settings={SECTION: 5}), CPU)
    with pytest.raises(MapFormatError, match="preprocessing"):
        Descriptor.from_bundle(write(tmp_path, descriptor(), preprocessing={"width": "wide", "height": 3}), CPU)


def test_weights_that_overflow_are_refused(tmp_path: Path):
    found = descriptor(normalise=False)
    name = next(k for k in found.tensors() if k.endswith("running_var"))
    broken = {**found.tensors(), name: torch.full_like(found.tensors()[name], -1.0)}
    mapping = {**found.settings_mapping(), "id": extractor_identity(found.settings, found.preprocess, broken)}
    with pytest.raises(MapTensorError, match="finite descriptors"):
        Descriptor.from_bundle(write(tmp_path, found, settings={SECTION: mapping}, tensors=broken), CPU)


def test_a_network_that_does_not_read_the_maps_images(tmp_path: Path):
    settings = tiny(backbone="test_vit", backbone_options={"img_size": [32, 32]})
    found = Descriptor(build_extractor(settings), preprocess_for(settings), CPU)
    with pytest.raises(MapFormatError, match="reads images of 64x36"):
        Descriptor.from_bundle(write(tmp_path, found), CPU)


def test_load_extractor_names_an_unknown_tensor():
    found = descriptor()
    with pytest.raises(MapTensorError, match="unknown tensor 'extra'"):
        load_extractor(found.settings, {**found.tensors(), "extra": torch.zeros(1)}, "x")


def test_a_map_never_runs_the_code_of_a_repository_by_itself(tmp_path: Path, monkeypatch):
    (tmp_path / "hubconf.py").write_text(
        "import torch\n"
        "class Mean(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(3, 4)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.mean(dim=(-2, -1)))\n"
        "def mean():\n"
        "    return Mean()\n"
    )
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    settings = tiny(kind="hub", hub_repo=str(tmp_path), hub_source="local", hub_model="mean")
    before = Descriptor(build_extractor(settings, trust_hub=True), preprocess_for(settings), CPU)
    bundle = write(tmp_path, before)
    with pytest.raises(ConfigError, match="not trusted"):
        Descriptor.from_bundle(bundle, CPU)
    after = Descriptor.from_bundle(bundle, CPU, trust_hub=True)
    assert torch.equal(after.describe_images(photos()), before.describe_images(photos()))
