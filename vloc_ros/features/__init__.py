"""Local features behind one interface: detect, describe, match, and what a pose is worth by them."""

from __future__ import annotations

import torch

from vloc_ros.features.base import FeatureExtractor, FeatureSettings

__all__ = ["make_extractor"]


def make_extractor(settings: FeatureSettings | None = None, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The extractor that the settings name, on ``device`` where it has a network.

    :raises ConfigError: a package is missing, or of a version that is not known.
    """
    from vloc_ros.features.sift import SiftExtractor

    settings = settings or FeatureSettings()
    if settings.kind == "sift":
        return SiftExtractor(settings)
    from vloc_ros.features.learned import make_learned

    extractor: FeatureExtractor = make_learned(settings, torch.device(device))
    return extractor
