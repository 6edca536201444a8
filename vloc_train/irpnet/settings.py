"""Settings of the IRPNet trainer, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.irpnet.settings import InferenceSettings, NetworkSettings
from vloc_ros.settings import Fixed, ranged
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.settings import TrainSettings as BaseSettings

__all__ = ["TrainSettings"]

#: Section IV-B, indoor localization.
_INDOOR = {"epochs": 300, "learning_rate": 1e-2, "orientation_weights": (0.0, 1.0)}
#: For descriptors of some hundred numbers, two CPU cores and a minute or two.
_SMALL = {
    "network": {
        "shared": 512,
        "widths": (512, 256, 128),
        "inputs": "standardised",
        "positions": "scaled",
        "rotation": "matrix",
    },
    "epochs": 300,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "orientation_weights": (0.0, 1.0),
}


@dataclass(frozen=True)
class TrainSettings(BaseSettings):
    """Everything that decides what a training run produces, the extractor apart.

    :param network: shape of the regressors.
    :param inference: the localizer's settings, stored in the map.
    :param augment: changes of light and colour under which images are described; its rotations and steps are not used:
        the paper does not resize or crop.
    :param copies: m, descriptors stored for each image, each under other changes (paper: 10).
    :param position_weights: (s_x, s_q) of equation 1 in the pass for the position branch.
    :param orientation_weights: the same in the pass for the orientation branch (paper: (1, 250) outdoors, (0, 1)
        indoors). The MLP learns its weights instead.
    :param max_minutes: wall-clock limit of the training, over all scenes, passes and parts of a resumed run, in equal
        shares; describing images is not counted. None for none.
    :param batch_size: descriptors in one step (paper: 8).
    :param learning_rate: of Adam (paper: 1e-3 outdoors, 1e-2 indoors).
    :param weight_decay: of Adam, as a share of the learning rate (paper: 0.01).
    :param densified: a map with a densified descriptor database (``vloc map densify``) of the same extractor: its
        regressed descriptors are trained on, too. None: images alone.
    :param densified_share: of each batch.
    :param keep: weights that are exported: those of the ``best`` validation or the ``last``.
    :param validate_every: validations in each pass.
    :param references: most descriptors that the map stores of each scene, to know the familiar by.
    """

    #: ``paper``: outdoors; ``indoor``: the paper's other column.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "indoor": _INDOOR, "small": _SMALL}
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"adam_epsilon": Fixed(1e-10)}

    network: NetworkSettings = field(default_factory=NetworkSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))
    )
    copies: int = ranged(10, minimum=1, maximum=1000)
    position_weights: tuple[float, float] = ranged((1.0, 0.0), minimum=0.0)
    orientation_weights: tuple[float, float] = ranged((1.0, 250.0), minimum=0.0)
    epochs: int = ranged(1000, minimum=1)
    batch_size: int = ranged(8, minimum=1)
    learning_rate: float = ranged(1e-3, minimum=0.0)
    weight_decay: float = ranged(0.01, minimum=0.0)
    densified: str | None = None
    densified_share: float = ranged(0.5, minimum=0.0, maximum=1.0)
    keep: Literal["best", "last"] = "best"
    validate_every: int = ranged(10, minimum=1)
    references: int = ranged(4096, minimum=1, maximum=1 << 20)

    def __post_init__(self) -> None:
        if not self.position_weights[0]:
            raise ConfigError(
                "irpnet.position_weights: expected a positive s_x, found 0: the branch would learn nothing"
            )
        if not self.orientation_weights[1]:
            raise ConfigError(
                "irpnet.orientation_weights: expected a positive s_q, found 0: the branch would learn nothing"
            )
