"""What is fitted on training images rather than learned: NetVLAD's clusters before, a PCA whitening after training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.descriptor import build_extractor
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_ros.localizers.retrieval.netvlad import NetVLAD, k_means
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.localizers.retrieval.whitening import fit_whitening
from vloc_train.training.frames import FrameSet, keyed_rng

__all__ = ["fit_extractor_whitening", "initialise_clusters", "untrained_extractor"]

_log = logging.getLogger(__name__)

#: Local features taken of each image; NetVLAD's appendix A uses 50000 in all.
FEATURES_AN_IMAGE = 100
_BATCH = 16


def untrained_extractor(settings: ExtractorSettings, pretrained: bool | str) -> Extractor:
    """A new extractor of the user's own settings, which may name a repository of torch.hub to run code of."""
    return build_extractor(settings, pretrained, trust_hub=settings.kind == "hub")


def _sampled(
    drives: Sequence[FrameSet], preprocess: Preprocess, most: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Batches of normalised images of at most ``most`` frames, spread at random over all drives."""
    rows = [(drive, frame) for drive, frames in enumerate(drives) for frame in range(len(frames))]
    rng = keyed_rng(seed, 4)
    chosen = sorted(rng.choice(len(rows), min(most, len(rows)), replace=False).tolist())
    for start in range(0, len(chosen), _BATCH):
        images = [np.array(drives[d].images[f]) for d, f in (rows[i] for i in chosen[start : start + _BATCH])]
        yield preprocess.normalize(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device))


@torch.no_grad()
def initialise_clusters(
    extractor: Extractor,
    drives: Sequence[FrameSet],
    preprocess: Preprocess,
    images: int,
    seed: int,
    device: torch.device,
) -> bool:
    """Put NetVLAD's centres where the local features of training images cluster (its appendix A).

    :param images: most images to look at.
    :return: whether that was to be done: other extractors, and clusters that came with weights, stay as they are.
    :raises VlocError: fewer local features than clusters.
    """
    pooling = getattr(extractor, "pooling", None)
    if not isinstance(pooling, NetVLAD) or not extractor.needs_clusters:
        return False
    was_training, home = extractor.training, next(extractor.parameters()).device
    extractor.eval().to(device)
    rng = keyed_rng(seed, 5)
    found = []
    for batch in _sampled(drives, preprocess, images, seed, device):
        features = functional.normalize(extractor.local_features(batch).float(), dim=1).flatten(2).transpose(1, 2)
        count = min(FEATURES_AN_IMAGE, features.shape[1])
        for row in features:
            found.append(row[torch.from_numpy(rng.choice(features.shape[1], count, replace=False)).to(device)])
    points = torch.cat(found)
    alpha = pooling.initialise(points, k_means(points, len(pooling.centres), seed=seed))
    _log.info("NetVLAD: %d clusters of %d local features, alpha %.1f", len(pooling.centres), len(points), alpha)
    extractor.train(was_training).to(home)
    return True


@torch.no_grad()
def fit_extractor_whitening(
    extractor: Extractor,
    dimension: int,
    drives: Sequence[FrameSet],
    preprocess: Preprocess,
    images: int,
    seed: int,
    device: torch.device,
) -> None:
    """Fit a PCA whitening of ``dimension`` components on training images and put it into the extractor.

    :param images: most images to look at; with fewer of them than components the whitening has fewer.
    :raises VlocError: images that are all alike.
    """
    home = next(extractor.parameters()).device
    extractor.eval().to(device)
    batches = _sampled(drives, preprocess, images, seed, device)
    samples = torch.cat([extractor.before_whitening(batch).float() for batch in batches])
    extractor.set_whitening(*fit_whitening(samples, dimension))
    extractor.to(home)
