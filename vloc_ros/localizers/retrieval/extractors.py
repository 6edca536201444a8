"""Descriptor extractors behind one interface: an image in, one vector out that is near for near views.

==========  =====================================================================================
``gap``     the mean of a backbone's local features (CoPR's encoder: ResNet34, 512-D)
``gem``     their generalised mean with a learned power
``netvlad`` NetVLAD on VGG16 or any other backbone, optionally with PCA whitening
``hub``     a whole model of torch.hub (``gmberton/eigenplaces``, ``gmberton/cosplace``, ...)
==========  =====================================================================================

All may end in a learned linear layer (``dimension``), a whitening fitted from data (``whiten``) and unit length
(``normalise``), in this order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.localizers.retrieval.backbone import LocalFeatures
from vloc_ros.localizers.retrieval.hub import load_hub_model
from vloc_ros.localizers.retrieval.netvlad import NetVLAD
from vloc_ros.localizers.retrieval.pooling import AveragePooling, GeneralisedMean
from vloc_ros.localizers.retrieval.settings import ExtractorSettings

__all__ = ["Extractor", "HubExtractor", "PooledExtractor", "trainable"]


class Extractor(nn.Module, ABC):
    """Images to descriptors. See the module for the kinds.

    :ivar settings: what it was built from; :meth:`set_whitening` may lower ``whiten``.
    """

    settings: ExtractorSettings

    def _finish(self, settings: ExtractorSettings, width: int) -> None:
        """The layers after pooling, for pooled vectors of ``width``."""
        self.settings = settings
        self.head: nn.Module = nn.Identity()
        if settings.dimension is not None:
            self.head, width = nn.Linear(width, settings.dimension), settings.dimension
        self.whitening: nn.Module = nn.Identity()
        if settings.whiten is not None:
            self.whitening, width = _unfitted_whitening(width, settings.whiten), settings.whiten
        self._dimension, self._whitening_fitted = width, False

    @property
    def dimension(self) -> int:
        """D, the length of a descriptor."""
        return self._dimension

    @property
    def metric(self) -> Literal["cosine", "l2"]:
        """How descriptors are compared: ``cosine`` for unit vectors, ``l2`` for raw ones."""
        return self.settings.metric

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, h, w)``, normalised by :class:`~vloc_ros.images.preprocess.Preprocess`, to float32 vectors
        before ``head`` and ``whitening``."""

    @abstractmethod
    def local_features(self, images: Tensor) -> Tensor:
        """What is pooled: ``(B, 3, h, w)`` to ``(B, C, h', w')``.

        :raises ConfigError: a hub model, which shows none.
        """

    def finish(self, pooled: Tensor) -> Tensor:
        """Head, whitening and length: pooled vectors to descriptors ``(B, D)``."""
        x = cast(Tensor, self.whitening(self.head(pooled)))
        return functional.normalize(x, dim=-1) if self.settings.normalise else x * self.settings.scale

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors ``(B, D)``; of unit length where ``settings.normalise``."""
        x = self.pooled(images)
        with torch.autocast(x.device.type, enabled=False):
            return self.finish(x)

    def before_whitening(self, images: Tensor) -> Tensor:
        """What :func:`~vloc_ros.localizers.retrieval.whitening.fit_whitening` is fitted on."""
        x = self.pooled(images)
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.head(x))

    def set_whitening(self, weight: Tensor, bias: Tensor) -> None:
        """Put in a fitted whitening; ``settings.whiten`` and ``dimension`` become its number of rows.

        :raises VlocError: it is not for vectors of this extractor.
        """
        known = self.whitening
        width = known.in_features if isinstance(known, nn.Linear) else self._dimension
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise VlocError(
                f"whitening: expected a weight (any, {width}) and as many biases, "
                f"found {tuple(weight.shape)} and {tuple(bias.shape)}"
            )
        layer = nn.Linear(width, len(weight))
        layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        self.whitening = layer.to(weight.device).requires_grad_(False)
        self.settings = replace(self.settings, whiten=len(weight))
        self._dimension, self._whitening_fitted = len(weight), True

    @property
    def needs_clusters(self) -> bool:
        """Whether NetVLAD's clusters are still random: to be initialised from data, unless weights are loaded."""
        return any(isinstance(m, NetVLAD) and not m.initialised for m in self.modules())

    @property
    def needs_whitening(self) -> bool:
        """Whether a whitening is asked for that is not fitted yet."""
        return self.settings.whiten is not None and not self._whitening_fitted

    def mark_loaded(self) -> None:
        """Everything now holds weights of a map: nothing is left to be initialised or fitted."""
        self._whitening_fitted = True
        for module in self.modules():
            if isinstance(module, NetVLAD):
                module.initialised = True


def _unfitted_whitening(width: int, dimension: int) -> nn.Linear:
    """Cuts off after ``dimension`` components until it is fitted; never learned."""
    layer = nn.Linear(width, dimension)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer.requires_grad_(False)


class PooledExtractor(Extractor):
    """A timm backbone and a pooling: ``gap``, ``gem``, ``netvlad``."""

    def __init__(self, settings: ExtractorSettings, pretrained: bool | str | Path = False) -> None:
        super().__init__()
        self.backbone = LocalFeatures(settings.backbone, settings.backbone_options, pretrained)
        width = self.backbone.channels
        self.pooling: nn.Module
        if settings.kind == "netvlad":
            self.pooling, width = NetVLAD(width, settings.clusters), width * settings.clusters
        else:
            self.pooling = AveragePooling() if settings.kind == "gap" else GeneralisedMean(settings.gem_power)
        self._finish(settings, width)

    def local_features(self, images: Tensor) -> Tensor:
        """See :class:`Extractor`; in the type that the backbone computes in."""
        return cast(Tensor, self.backbone(images))

    def pool(self, features: Tensor) -> Tensor:
        """Local features ``(B, C, h', w')`` to pooled vectors, in float32 at least: sums over many places."""
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, self.pooling(features if features.dtype == torch.float64 else features.float()))

    def pooled(self, images: Tensor) -> Tensor:
        """See :class:`Extractor`."""
        return self.pool(self.local_features(images))


class HubExtractor(Extractor):
    """A model of torch.hub that turns images into vectors.

    :raises ConfigError: it cannot be had, is not trusted, or gives something else than one vector an image.
    """

    def __init__(self, settings: ExtractorSettings, *, trust_hub: bool = False) -> None:
        super().__init__()
        self.backbone = load_hub_model(settings, trust_hub)
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                probe = self.backbone(torch.zeros(1, 3, settings.image_height, settings.image_width))
        except (RuntimeError, TypeError, ValueError) as problem:
            raise ConfigError(
                f"extractor: {settings.hub_repo} {settings.hub_model} cannot read an image of "
                f"{settings.image_width}x{settings.image_height}: {str(problem).splitlines()[0]}"
            ) from problem
        self.backbone.train(was_training)
        if not isinstance(probe, Tensor) or probe.ndim != 2 or len(probe) != 1:
            found = tuple(probe.shape) if isinstance(probe, Tensor) else type(probe).__name__
            raise ConfigError(
                f"extractor: expected {settings.hub_repo} {settings.hub_model} to give one vector an image, "
                f"(1, D), found {found}; name an entry point of a place-recognition model"
            )
        self._finish(settings, probe.shape[1])

    def local_features(self, images: Tensor) -> Tensor:
        """Not to be had.

        :raises ConfigError: always.
        """
        raise ConfigError(
            "extractor: a model of torch.hub gives descriptors, no local features; use kind gap, gem or netvlad"
        )

    def pooled(self, images: Tensor) -> Tensor:
        """See :class:`Extractor`."""
        x = cast(Tensor, self.backbone(images))
        return x if x.dtype == torch.float64 else x.float()


def trainable(extractor: Extractor) -> list[nn.Parameter]:
    """What an optimiser may change: everything but a whitening."""
    return [p for name, p in cast(Any, extractor).named_parameters() if not name.startswith("whitening.")]
