"""An extractor with what it needs to describe camera images, and its place in a map bundle."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError, ImageError, MapError, MapFormatError, MapTensorError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.device import compute_dtype
from vloc_ros.localizers.folding import without_batch_norms
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.localizers.retrieval.database import Database
from vloc_ros.localizers.retrieval.extractors import Extractor, HubExtractor, PooledExtractor
from vloc_ros.localizers.retrieval.public_weights import apply_public_weights, weights_form
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.localizers.weights import load_module, read_weight_file, stored_weights
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import RgbImage

__all__ = [
    "EXTRACTOR_FILE",
    "SECTION",
    "Descriptor",
    "build_extractor",
    "extractor_identity",
    "load_extractor",
    "preprocess_for",
]

EXTRACTOR_FILE = "extractor.safetensors"
#: The part of a manifest's settings that describes the extractor.
SECTION = "extractor"


def preprocess_for(settings: ExtractorSettings, base: Preprocess | None = None) -> Preprocess:
    """How images become what an extractor reads: ``base`` (default: as its backbone's public weights want them) at the
    extractor's size."""
    width, height = settings.image_width, settings.image_height
    return (
        preprocess_of(settings.backbone, width, height) if base is None else replace(base, width=width, height=height)
    )


def extractor_identity(settings: ExtractorSettings, preprocess: Preprocess, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a descriptor depends on: settings, preprocessing, and the weights as stored.

    Two maps have comparable descriptors if and only if this is the same. ``precision`` and the camera tolerances are
    left out: they change what is computed, or for whom, no more than the computer does.
    """
    # Through the reader, so that 3 and 3.0 are the same before and after a manifest.
    settings = settings_from_mapping(ExtractorSettings, settings_to_mapping(settings), "extractor")
    plain = {k: v for k, v in settings_to_mapping(settings).items() if k != "precision"}
    view = {k: v for k, v in preprocess.settings().items() if not k.endswith("_tolerance")}
    digest = hashlib.sha256(json.dumps([plain, view], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Descriptor:
    """Describes images with one extractor on one device.

    It works with the weights *as a map stores them* (matrices in float16), so that descriptors computed before a map is
    written are the same as those computed from the map.

    :param extractor: copied, so that it can go on learning.
    :param preprocess: its width and height must be the extractor's.
    :ivar identity: see :func:`extractor_identity`.
    :raises ConfigError: sizes that differ.
    """

    def __init__(self, extractor: Extractor, preprocess: Preprocess, device: torch.device) -> None:
        stored = stored_weights(extractor.state_dict())
        clone = copy.deepcopy(extractor).cpu()
        reference = clone.state_dict()
        clone.load_state_dict({k: v.to(reference[k].dtype) for k, v in stored.items()})
        self._set(clone, preprocess, device, stored)

    def _set(
        self, extractor: Extractor, preprocess: Preprocess, device: torch.device, stored: dict[str, Tensor]
    ) -> None:
        settings = extractor.settings
        if (preprocess.width, preprocess.height) != (settings.image_width, settings.image_height):
            raise ConfigError(
                f"extractor: expected images of {settings.image_width}x{settings.image_height}, found preprocessing "
                f"to {preprocess.width}x{preprocess.height}"
            )
        self._stored, self._preprocess, self._device = stored, preprocess, device
        self.identity = extractor_identity(settings, preprocess, stored)
        self._dtype = compute_dtype(settings.precision, device)
        extractor.eval().requires_grad_(False)
        extractor.add_module("backbone", without_batch_norms(extractor.get_submodule("backbone")))
        extractor.to(device)
        extractor.get_submodule("backbone").to(self._dtype)  # pooling and what follows stay in float32
        self._extractor = extractor.to(memory_format=torch.channels_last)
        self._read = ImageNetwork(lambda x: (extractor(x).float(),), preprocess, self._dtype, Recorder(device))

    @classmethod
    def from_bundle(cls, bundle: MapBundle, device: torch.device, *, trust_hub: bool = False) -> Descriptor:
        """The extractor of a map, its weights checked against its settings before memory is taken.

        :param trust_hub: see :func:`build_extractor`.
        :raises MapError: the map has no extractor, or settings, weights and identity do not agree.
        :raises ConfigError: a model of torch.hub that is not trusted or cannot be had.
        """
        where = f"{bundle.path}: settings.{SECTION}"
        stored_settings = dict(section(bundle.manifest.settings, SECTION, f"{bundle.path}: settings"))
        if not stored_settings:
            raise MapFormatError(f"{where}: expected the settings of an extractor, found none; make the map again")
        identity = stored_settings.pop("id", None)
        settings = settings_from_mapping(ExtractorSettings, stored_settings, where, error=MapFormatError)
        try:
            preprocess = preprocess_for(settings, Preprocess.from_settings(bundle.manifest.preprocessing))
        except ConfigError as problem:
            raise MapFormatError(f"{bundle.path}: {problem}") from problem
        tensors = bundle.tensors(EXTRACTOR_FILE)
        extractor = load_extractor(settings, tensors, f"{bundle.path}/{EXTRACTOR_FILE}", trust_hub=trust_hub)
        descriptor = cls.__new__(cls)
        descriptor._set(extractor, preprocess, device, tensors)
        if identity != descriptor.identity:
            raise MapFormatError(
                f"{where}: expected id {descriptor.identity[:16]}... of the weights in {EXTRACTOR_FILE}, found "
                f"{str(identity)[:16]!r}...; settings or weights were exchanged: make the map again"
            )
        descriptor._probe(str(bundle.path))
        return descriptor

    def _probe(self, where: str) -> None:
        """Describe a grey image: settings of a map can name a network that does not read images of the map's size."""
        width, height = self._preprocess.width, self._preprocess.height
        try:
            found = self.describe_images(torch.full((1, height, width, 3), 127, dtype=torch.uint8))
        except Exception as problem:  # every network fails in its own way
            first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise MapFormatError(
                f"{where}: expected an extractor that reads images of {width}x{height}, found: {first}"
            ) from problem
        if tuple(found.shape) != (1, self.dimension) or not bool(torch.isfinite(found).all()):
            raise MapTensorError(
                f"{where}/{EXTRACTOR_FILE}: expected finite descriptors (1, {self.dimension}), found "
                f"{tuple(found.shape)}, {int(torch.isfinite(found).sum())} values of them finite; make the map again"
            )

    @property
    def extractor(self) -> Extractor:
        """The network; its backbone computes in :attr:`precision`."""
        return self._extractor

    @property
    def settings(self) -> ExtractorSettings:
        """Of the extractor."""
        return self._extractor.settings

    @property
    def preprocess(self) -> Preprocess:
        """From camera images to what the extractor reads."""
        return self._preprocess

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def precision(self) -> torch.dtype:
        """What the backbone computes in."""
        return self._dtype

    @property
    def metric(self) -> Literal["cosine", "l2"]:
        """How descriptors are compared."""
        return self._extractor.metric

    @property
    def dimension(self) -> int:
        """D, the length of a descriptor."""
        return self._extractor.dimension

    def check_database(self, database: Database, where: str) -> None:
        """Refuse references that this extractor cannot be compared with.

        :raises MapError: descriptors of another extractor. :raises MapTensorError: of another length, or none at all.
        """
        if (database.extractor_id, database.metric) != (self.identity, self.metric):
            raise MapError(
                f"{where}: expected descriptors of extractor {self.identity[:16]}... compared by {self.metric}, found "
                f"{database.extractor_id[:16]}... by {database.metric}; describe the images with the map's extractor"
            )
        if database.dimension != self.dimension:
            raise MapTensorError(
                f"{where}: expected descriptors of length {self.dimension}, found {database.dimension}"
            )
        if not len(database):
            raise MapTensorError(f"{where}: expected at least one reference, found an empty database; add images to it")

    def tensors(self) -> dict[str, Tensor]:
        """The weights, for ``write_map`` under :data:`EXTRACTOR_FILE`."""
        return dict(self._stored)

    def settings_mapping(self) -> dict[str, Any]:
        """What a manifest holds under ``settings["extractor"]``."""
        return {**settings_to_mapping(self.settings), "id": self.identity}

    def trainable_copy(self) -> Extractor:
        """The same weights in float32 on the CPU, to go on learning from."""
        return load_extractor(self.settings, self._stored, "extractor", trust_hub=True)

    def describe(self, image_rgb: RgbImage) -> Tensor:
        """An RGB image (H, W, 3) uint8 of any size to its descriptor ``(D,)`` float32 on the device.

        :raises ImageError: not such an image.
        """
        return self._read(image_rgb)[0][0].clone()  # outside of inference mode, as those of many images

    def describe_images(self, images: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Images that are fitted already, ``(B, h, w, 3)`` uint8, to descriptors ``(B, D)`` float32 on the device.

        :raises ImageError: of another type or size.
        """
        batch = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))  # memory-mapped: a copy
        expected = (self._preprocess.height, self._preprocess.width, 3)
        if batch.dtype != torch.uint8 or batch.ndim != 4 or tuple(batch.shape[1:]) != expected:
            raise ImageError(
                f"extractor: expected (B, {', '.join(map(str, expected))}) uint8, found {batch.dtype} "
                f"{tuple(batch.shape)}; fit images with the extractor's preprocessing"
            )
        if not len(batch):
            return torch.empty(0, self.dimension, device=self._device)
        (found,) = self._read.batch(batch.to(self._device, non_blocking=True))
        return found.clone()  # outside of inference mode: a tensor that trainers may learn from


def build_extractor(
    settings: ExtractorSettings, pretrained: bool | str | Path = False, *, trust_hub: bool = False
) -> Extractor:
    """A new extractor.

    :param pretrained: a local weight file, of the backbone or of a whole NetVLAD
        (:mod:`~vloc_ros.localizers.retrieval.public_weights`), ``True`` for timm's hub, ``False`` for random weights. A
        hub model brings its own weights.
    :param trust_hub: run the code of the ``hub_repo`` in the settings; without it the repository must be named in the
        environment variable ``VLOC_TRUST_HUB``.
    :raises ConfigError: no such network, no such weights, or a repository that is not trusted.
    """
    if settings.kind == "hub":
        if isinstance(pretrained, (str, Path)):
            raise ConfigError(f"extractor: a hub model brings its own weights, found the file {str(pretrained)!r}")
        return HubExtractor(settings, trust_hub=trust_hub)
    if settings.kind == "netvlad" and isinstance(pretrained, (str, Path)):
        tensors = read_weight_file(pretrained)
        if weights_form(tensors) is not None:
            extractor = PooledExtractor(settings)
            apply_public_weights(extractor, tensors, pretrained)
            return extractor
    return PooledExtractor(settings, pretrained)


def load_extractor(
    settings: ExtractorSettings, tensors: Mapping[str, Tensor], where: str, *, trust_hub: bool = False
) -> Extractor:
    """An extractor with stored weights; every name and shape is checked first.

    :raises MapTensorError: weights and settings do not agree. :raises MapFormatError: no such network.
    :raises ConfigError: a model of torch.hub that is not trusted or cannot be had.
    """
    if settings.kind == "hub":
        model = build_extractor(settings, trust_hub=trust_hub)
        extractor = load_module(lambda: model, dict(tensors), where)
    else:
        try:
            extractor = load_module(lambda: build_extractor(settings), dict(tensors), where)
        except ConfigError as problem:
            raise MapFormatError(f"{where}: {problem}") from problem
    extractor.mark_loaded()
    return extractor
