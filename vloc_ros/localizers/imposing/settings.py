"""The settings of ImPosing. The defaults are the paper's; ``README.md`` lists each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.view import ViewSettings
from vloc_ros.settings import ranged

__all__ = ["NetworkSettings", "SearchSettings"]


@dataclass(frozen=True)
class NetworkSettings:
    """What fixes the shape of the two encoders; stored in the map and never changed at run time.

    :param backbone: any ``timm`` encoder (paper: ResNet34).
    :param backbone_options: passed to ``timm.create_model`` (for instance narrower channels).
    :param pooling: ``gap`` (paper) or ``grid``: average over ``pool_grid`` cells and concatenate, which keeps
        where in the image a feature was seen.
    :param pool_grid: (rows, columns) of ``grid`` pooling.
    :param embed_dim: d, the length of image vectors and map signatures.
    :param hidden: width of the pose encoder's hidden layers.
    :param layers: linear layers of the pose encoder.
    :param frequencies: ``octaves`` gives sin(2^k x); ``linear`` gives sin(2 k x) as the paper prints it.
    :param position_octaves: number of terms k = 0.. for the position components (paper: 11).
    :param rotation_octaves: the same for the rotation components.
    :param rotation_input: ``quaternion`` (paper; w >= 0) or ``matrix`` (nine entries, continuous everywhere).
    """

    backbone: str = "resnet34"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    pooling: Literal["gap", "grid"] = "gap"
    pool_grid: tuple[int, int] = ranged((2, 4), minimum=1, maximum=32)
    embed_dim: int = ranged(256, minimum=1, maximum=4096)
    hidden: int = ranged(256, minimum=1, maximum=4096)
    layers: int = ranged(4, minimum=1, maximum=16)
    frequencies: Literal["octaves", "linear"] = "octaves"
    position_octaves: int = ranged(11, minimum=1, maximum=24)
    rotation_octaves: int = ranged(11, minimum=1, maximum=24)
    rotation_input: Literal["quaternion", "matrix"] = "quaternion"

    @property
    def pose_input_dim(self) -> int:
        """Length of the encoded pose: 161 at the paper's settings (7 components, 1 + 2 x 11 terms each)."""
        rotation = 4 if self.rotation_input == "quaternion" else 9
        return 3 * (1 + 2 * self.position_octaves) + rotation * (1 + 2 * self.rotation_octaves)


@dataclass(frozen=True)
class SearchSettings(ViewSettings):
    """The hierarchical search (Section 3.1, steps 2 to 7). All of it may change at run time.

    Axes are the map's (z up); the paper prints the same numbers with y up.

    :param candidates: N, poses evaluated in each step.
    :param refinements: K, evaluations of the pose encoder: k = 0 .. K - 1.
    :param components: B, best candidates that become mixture components.
    :param averaged: best candidates of the last step in the final weighted mean.
    :param noise_translation_m: standard deviations of the proposals at k = 0, halved every step; x, y, z.
    :param noise_rotation_deg: the same about the map's X, Y and Z axes.
    :param initial: first candidates: ``training`` poses or a ``grid`` over the mapped area.
    :param precision: ``auto`` takes bfloat16 where the processor multiplies it faster, ``float32`` never.
    :param prior_sigmas: how many standard deviations of the prior the search covers.
    """

    candidates: int = ranged(4096, minimum=1, maximum=1 << 20)
    refinements: int = ranged(6, minimum=1, maximum=32)
    components: int = ranged(100, minimum=1)
    averaged: int = ranged(256, minimum=1)
    noise_translation_m: tuple[float, float, float] = ranged((8.0, 8.0, 0.2), minimum=0.0)
    noise_rotation_deg: tuple[float, float, float] = ranged((1.0, 1.0, 5.0), minimum=0.0, maximum=90.0)
    initial: Literal["training", "grid"] = "training"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    prior_sigmas: float = ranged(2.0, minimum=0.1, maximum=10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components > self.candidates or self.averaged > self.candidates:
            raise ConfigError(
                f"imposing: expected components ({self.components}) and averaged ({self.averaged}) "
                f"not to exceed candidates ({self.candidates})"
            )
