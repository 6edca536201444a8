"""From trained weights and drives to the files of a map: weights as stored, and the database encoded with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.camnet.localizer import WEIGHTS_FILE, settings_mapping
from vloc_ros.localizers.camnet.network import CamNetNetwork, Features
from vloc_ros.localizers.camnet.references import DATABASE_FILE, FEATURES_FILE, database_tensors, feature_tensors
from vloc_ros.localizers.camnet.settings import InferenceSettings
from vloc_ros.localizers.weights import stored_weights
from vloc_train.training.frames import FrameSet
from vloc_train.training.recipe import Contents

__all__ = ["encode_frames", "extractor_id", "map_contents"]


@torch.inference_mode()
def encode_frames(network: CamNetNetwork, preprocess: Preprocess, frames: FrameSet, batch: int = 64) -> Features:
    """Features ``(N, F)`` float32 of all frames, on the CPU."""
    device = next(network.parameters()).device
    parts: list[Features] = []
    for start in range(0, len(frames), batch):
        images = torch.from_numpy(np.array(frames.images[start : start + batch])).permute(0, 3, 1, 2).to(device)
        normal = preprocess.normalize(images).to(memory_format=torch.channels_last)
        parts.append(Features(*(f.float().cpu() for f in network.encode(normal))))
    return Features(*(torch.cat(list(rows)) for rows in zip(*parts, strict=True)))


def extractor_id(weights: dict[str, Tensor]) -> str:
    """What tells one set of ICR descriptors from another: a digest of the stored weights that they are made with."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith(("trunk.", "icr.")):
            digest.update(name.encode())
            digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def map_contents(
    network: CamNetNetwork,
    scenes: Sequence[FrameSet],
    inference: InferenceSettings,
    preprocess: Preprocess,
    keyframe_every: int = 1,
) -> Contents:
    """What the map holds whose database are ``scenes``.

    Features are computed with the weights *as stored*, so that what rounding does to the weights is in them too.

    :param keyframe_every: every n-th frame goes into the database.
    """
    network.eval()
    weights = stored_weights(network.state_dict())
    reference = network.state_dict()
    network.load_state_dict({k: v.to(reference[k].dtype) for k, v in weights.items()})
    database: dict[str, Tensor] = {}
    features: dict[str, Tensor] = {}
    for frames in scenes:
        kept = frames.select(np.arange(0, len(frames), keyframe_every)) if keyframe_every > 1 else frames
        encoded = encode_frames(network, preprocess, kept)
        vectors = network.retrieval_vectors(encoded.icr)
        poses = torch.from_numpy(to_vectors(kept.T_map_cam))
        database |= database_tensors(kept.scene, vectors, poses, torch.from_numpy(kept.stamps_ns))
        features |= feature_tensors(kept.scene, encoded.pfr, encoded.prp)
    metric = "cosine" if network.settings.normalise else "l2"
    return Contents(
        {WEIGHTS_FILE: weights, DATABASE_FILE: database, FEATURES_FILE: features},
        {
            **settings_mapping(network.settings, inference),
            "database": {"metric": metric, "extractor_id": extractor_id(weights)},
        },
    )
