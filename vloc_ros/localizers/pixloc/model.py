"""What a PixLoc map has learned: the network, and the damping of its optimiser."""

from __future__ import annotations

from torch import nn

from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.pixloc.damping import LearnedDamping
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.pixloc.store import NETWORK_FILE
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping

__all__ = ["NETWORK_SECTION", "OPTIMIZER_SECTION", "PixLocModel", "network_settings", "read_model"]

#: The part of a manifest's settings with :class:`~.settings.NetworkSettings`.
NETWORK_SECTION = "network"
#: The part with :class:`~.optimizer.OptimizerSettings`.
OPTIMIZER_SECTION = "optimizer"


class PixLocModel(nn.Module):
    """Network and damping, as they lie in :data:`~.store.NETWORK_FILE`.

    :param damping: of as many levels as the network has; default: untrained.
    """

    def __init__(self, network: FeatureNet, damping: LearnedDamping | None = None) -> None:
        super().__init__()
        self.network = network
        self.damping = damping or LearnedDamping(network.settings.levels)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Channels of the levels, coarse to fine."""
        return tuple(reversed(self.network.settings.dimensions))


def network_settings(bundle: MapBundle) -> NetworkSettings:
    """The shape of a map's network. :raises ConfigError: a setting is unknown or out of range."""
    where = f"{bundle.path}: settings"
    stored = section(bundle.manifest.settings, NETWORK_SECTION, where)
    return settings_from_mapping(NetworkSettings, stored, f"{where}.{NETWORK_SECTION}")


def read_model(bundle: MapBundle) -> PixLocModel:
    """The trained network and damping of a map, in float32 on the CPU.

    :raises MapError: the file is missing or does not fit the settings. :raises ConfigError: no such encoder.
    """
    settings = network_settings(bundle)
    where = f"{bundle.path}: settings"
    stored = section(bundle.manifest.settings, OPTIMIZER_SECTION, where)
    optimizer = settings_from_mapping(OptimizerSettings, stored, f"{where}.{OPTIMIZER_SECTION}")
    tensors = bundle.tensors(NETWORK_FILE)

    def make() -> PixLocModel:
        return PixLocModel(FeatureNet(settings), LearnedDamping(settings.levels, optimizer.damping_log10))

    return load_module(make, tensors, f"{bundle.path}/{NETWORK_FILE}")
