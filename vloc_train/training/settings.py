"""Settings that all trainers share, and presets: data that is laid over a class's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from vloc_ros.errors import ConfigError
from vloc_ros.settings import Fixed, current_names, ranged, settings_from_mapping, settings_to_mapping
from vloc_train.training.augment import AugmentSettings

__all__ = ["ImageTrainSettings", "RunSettings", "TrainSettings", "merged"]

Settings = TypeVar("Settings", bound="RunSettings")

#: Mappings that belong to one network: a change replaces them.
_WHOLE = ("backbone_options", "encoder_options")


@dataclass(frozen=True)
class RunSettings:
    """What every run that makes a map has.

    :param seed: of everything random.
    """

    #: By name, the default first: nested mappings of what differs from the class's defaults.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    #: See :func:`vloc_ros.settings.current_names`.
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {}

    seed: int = ranged(0, minimum=0)

    @classmethod
    def preset(
        cls: type[Settings], name: str, changes: Mapping[str, Any] | None = None, where: str = "training settings"
    ) -> Settings:
        """The settings of a preset with some fields changed.

        :param changes: nested mappings of fields, as in a configuration file.
        :param where: where the changes come from, for messages.
        :raises ConfigError: unknown preset or field, or a value out of range.
        """
        if name not in cls.PRESETS:
            raise ConfigError(f"preset: expected one of {', '.join(cls.PRESETS)}, found {name!r}")
        changes = current_names(cls, changes or {}, where)
        base = settings_from_mapping(cls, cls.preset_values(name, changes, where), f"preset {name}")
        return settings_from_mapping(cls, merged(settings_to_mapping(base), changes), where)

    @classmethod
    def preset_values(cls, name: str, changes: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """What a preset sets where these ``changes`` follow; see :meth:`preset`."""
        return cls.PRESETS[name]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as a configuration file or a manifest holds them."""
        return settings_to_mapping(self)


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """What every training run has.

    :param epochs: passes over the training frames, unless ``max_minutes`` ends the run before.
    :param max_minutes: wall-clock limit, over all parts of a resumed run; none for no limit.
    :param learning_rate: of Adam.
    :param schedule: of the learning rate: ``constant``, ``cosine`` (to zero at the end of epochs or minutes) or
        ``poly`` (its base value times (1 - share of the run)^0.9).
    :param weight_average: decay of the exponential moving average of the weights that is validated and exported; 0
        keeps the last weights.
    """

    epochs: int = ranged(100, minimum=1)
    max_minutes: float | None = None
    learning_rate: float = ranged(1e-4, minimum=0.0)
    schedule: Literal["constant", "cosine", "poly"] = "constant"
    weight_average: float = ranged(0.0, minimum=0.0, maximum=0.99999)


@dataclass(frozen=True)
class ImageTrainSettings(TrainSettings):
    """What every training run of a network that reads images has.

    :param augment: image augmentation.
    :param precision: of the training: ``auto`` is bfloat16 mixed precision where the device multiplies it faster.
    :param pretrained: ``False``, ``True`` (public weights of the backbone) or a local file with backbone weights.
    """

    augment: AugmentSettings = field(default_factory=AugmentSettings)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    pretrained: bool | str = False


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, nested mappings within each other."""
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key not in _WHOLE
        out[key] = merged(out[key], value) if nested else value
    return out
