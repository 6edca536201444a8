"""The settings of CamNet. The defaults are the paper's; ``README.md`` lists each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.localizers.view import ViewSettings
from vloc_ros.settings import Fixed, ranged

__all__ = ["SEQUENCE_GAP_S", "InferenceSettings", "NetworkSettings"]


@dataclass(frozen=True)
class NetworkSettings:
    """What fixes the shape of the network; stored in the map and never changed at run time.

    :param backbone: any ``timm`` network with the stages of a ResNet (paper: ResNet34).
    :param backbone_options: passed to ``timm.create_model`` (for instance narrower channels).
    :param pooling: ``gap`` (paper) or ``grid``: average over ``pool_grid`` cells, concatenate and project, which keeps
        where in the image a feature was seen.
    :param pool_grid: (rows, columns) of ``grid`` pooling.
    :param feature_dim: length of a branch's feature; None takes the channels of the last stage (512 for ResNet34).
    :param hidden: width of the first layer of every pair regressor.
    :param normalise: compare ICR features by their direction alone.
    :param relative_frame: axes of the regressed translation: ``body`` (the first camera's, which means the same in
        every place) or ``world`` (the paper's t2 - t1).
    """

    backbone: str = "resnet34"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    pooling: Literal["gap", "grid"] = "gap"
    pool_grid: tuple[int, int] = ranged((3, 5), minimum=1, maximum=32)
    feature_dim: int | None = ranged(None, minimum=1, maximum=8192)
    hidden: int = ranged(512, minimum=1, maximum=8192)
    normalise: bool = True
    relative_frame: Literal["body", "world"] = "body"


#: A pause longer than this (some frames of a 10 Hz camera), or a step back in time, ends a drive: the localizer forgets
#: earlier frames.
SEQUENCE_GAP_S = 0.5


@dataclass(frozen=True)
class InferenceSettings(ViewSettings):
    """How a query is localized (Section 3.4). All of it may change at run time.

    :param top: K, references that image retrieval proposes.
    :param retrieval_features: compare images by the features of ``icr``, or by those of ``pfr`` (the ablation Br).
    :param stages: what the pose is taken from: ``retrieval`` (best reference), ``pfr`` (its coarse relative pose),
        ``prp`` (its precise one), ``full`` (mean of the inliers of all); Table 2.
    :param rotation_weight_m: in the search for the nearest reference pose, metres that half a turn counts as
        (Algorithm 1: 1).
    :param sequence: earlier frames of a drive that the query is compared with: 2 for the paper's sequences. Then the
        localizer remembers the frames it saw last; 0 keeps every frame by itself.
    :param inlier_m: estimates that close to each other agree, metres.
    :param inlier_deg: estimates that close in rotation agree, degrees.
    :param precision: of the encoder: ``auto`` takes bfloat16 where the processor multiplies it faster.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"sequence_gap_s": Fixed(SEQUENCE_GAP_S)}

    top: int = ranged(3, minimum=1, maximum=1024)
    retrieval_features: Literal["icr", "pfr"] = "icr"
    stages: Literal["retrieval", "pfr", "prp", "full"] = "full"
    rotation_weight_m: float = ranged(1.0, minimum=0.0)
    sequence: int = ranged(0, minimum=0, maximum=16)
    inlier_m: float = ranged(1.0, minimum=0.0)
    inlier_deg: float = ranged(5.0, minimum=0.0, maximum=180.0)
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
