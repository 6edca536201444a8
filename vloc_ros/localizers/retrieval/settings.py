"""The settings of a descriptor extractor. ``EXTRACTORS.md`` lists each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.settings import ranged

__all__ = ["ExtractorSettings"]


@dataclass(frozen=True)
class ExtractorSettings:
    """What fixes the shape of an extractor; stored in the map and never changed at run time.

    The defaults are CoPR's encoder (ResNet34, average pooling, 512-D). NetVLAD of the paper is ``kind="netvlad",
    backbone="vgg16", whiten=4096``.

    :param kind: how local features become one vector: ``gap`` (average), ``gem`` (generalised mean), ``netvlad``,
        or ``hub`` (a whole model of torch.hub).
    :param backbone: any ``timm`` encoder (NetVLAD's paper: ``vgg16``, cut after conv5_3, before its ReLU).
    :param backbone_options: passed to ``timm.create_model`` (for instance narrower channels).
    :param dimension: length after a learned linear layer; none means the pooled vector as it is.
    :param normalise: unit length and cosine similarity; otherwise raw vectors and L2 distance (CoPR's distance-based
        loss, whose distances are metres).
    :param scale: raw descriptors are multiplied by it (paper: 1, with pretrained weights). Those of a network from
        scratch are a few tenths apart, and its weights would have to grow a hundredfold before distances are metres.
    :param gem_power: the first power p of generalised-mean pooling; it is learned.
    :param clusters: K of NetVLAD.
    :param whiten: length after PCA whitening, a linear layer fitted from data (NetVLAD: 4096); none for no whitening.
    :param image_width: of the image the network reads, pixels.
    :param image_height: the same.
    :param hub_repo: of torch.hub: ``owner/name`` with an optional ``:tag``, or a folder where ``hub_source`` is
        ``local``.
    :param hub_source: ``github`` or ``local``.
    :param hub_model: the entry point in the repository's ``hubconf.py``.
    :param hub_options: keyword arguments of that entry point.
    :param precision: of the backbone: ``auto`` takes bfloat16 where the processor multiplies it faster; pooling is
        always in float32.
    """

    kind: Literal["gap", "gem", "netvlad", "hub"] = "gap"
    backbone: str = "resnet34"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    dimension: int | None = ranged(None, minimum=1, maximum=1 << 16)
    normalise: bool = True
    scale: float = ranged(1.0, minimum=1e-6, maximum=1e6)
    gem_power: float = ranged(3.0, minimum=0.1, maximum=100.0)
    clusters: int = ranged(64, minimum=1, maximum=4096)
    whiten: int | None = ranged(None, minimum=1, maximum=1 << 16)
    image_width: int = ranged(240, minimum=8, maximum=8192)
    image_height: int = ranged(135, minimum=8, maximum=8192)
    hub_repo: str = ""
    hub_source: Literal["github", "local"] = "github"
    hub_model: str = ""
    hub_options: dict[str, Any] = field(default_factory=dict)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if self.kind == "hub" and not (self.hub_repo and self.hub_model):
            raise ConfigError(
                "extractor: expected hub_repo and hub_model with kind hub (for example hub_repo: gmberton/eigenplaces, "
                f"hub_model: get_trained_model), found {self.hub_repo!r} and {self.hub_model!r}"
            )

    @property
    def metric(self) -> Literal["cosine", "l2"]:
        """How descriptors are compared: ``cosine`` for unit vectors, ``l2`` for raw ones."""
        return "cosine" if self.normalise else "l2"
