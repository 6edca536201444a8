"""The shape of PixLoc's network. The defaults are the paper's; ``README.md`` lists each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.settings import ranged

__all__ = ["NetworkSettings"]


@dataclass(frozen=True)
class NetworkSettings:
    """What fixes the shape of the network; stored in the map and never changed at run time.

    :param encoder: ``vgg19`` (paper) or another VGG of timm, ``plain`` (a narrow stack of convolutions whose widths
        ``encoder_options`` gives), or any timm network that gives feature maps.
    :param encoder_options: passed to ``timm.create_model``; of ``plain``: ``channels`` of its stages,
        ``convolutions`` in each stage behind the first, and ``first_stride`` (1 or 2).
    :param strides: of the levels, pixels, fine to coarse; powers of two (paper: 1, 4, 16).
    :param dimensions: D_l, channels of a level's features, fine to coarse (paper: 32, 128, 128).
    :param decoder: channels of the decoder's blocks from the coarsest stride down to the finest, one for each halving
        of the stride.
    :param normalise: L2-normalise the features along their channels (paper, Section 3.1).
    """

    encoder: str = "vgg19"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    strides: tuple[int, ...] = ranged((1, 4, 16), minimum=1, maximum=64)
    dimensions: tuple[int, ...] = ranged((32, 128, 128), minimum=1, maximum=1024)
    decoder: tuple[int, ...] = ranged((64, 64, 64, 32), minimum=1, maximum=2048)
    normalise: bool = True

    def __post_init__(self) -> None:
        strides = self.strides
        powers = all(s > 0 and s & (s - 1) == 0 for s in strides)
        if not strides or not powers or list(strides) != sorted(set(strides)):
            raise ConfigError(f"pixloc.strides: expected powers of two that increase, found {list(strides)}")
        if len(self.dimensions) != len(strides):
            raise ConfigError(
                f"pixloc.dimensions: expected {len(strides)} numbers, as there are strides, found "
                f"{list(self.dimensions)}"
            )
        steps = (strides[-1] // strides[0]).bit_length() - 1
        if len(self.decoder) != steps:
            raise ConfigError(
                f"pixloc.decoder: expected {steps} blocks, one for each halving from stride {strides[-1]} to "
                f"{strides[0]}, found {list(self.decoder)}"
            )

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return len(self.strides)
