"""From trained weights to the files of a map: storage types, first candidates, signatures, references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.imposing.initial import initial_candidates
from vloc_ros.localizers.imposing.localizer import CANDIDATES_FILE, REFERENCES_FILE, WEIGHTS_FILE, settings_mapping
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.maps.tensors import dequantise_tensors, quantise_tensors
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.recipe import Contents

__all__ = ["map_contents"]

#: Most training frames whose vectors and poses a map keeps: it must not grow with the data.
MAX_REFERENCES = 4096


def _stored(network: ImPosingNetwork, kind: str) -> dict[str, Tensor]:
    """The weights as the map stores them. Vectors and scalars (biases, statistics, scales) stay float32."""
    state = {k: v.detach().cpu() for k, v in network.state_dict().items()}
    if kind == "int8":
        return quantise_tensors(state)
    return {k: v.half() if v.ndim >= 2 and v.is_floating_point() else v for k, v in state.items()}


@torch.inference_mode()
def _image_vectors(network: ImPosingNetwork, preprocess: Preprocess, frames: FrameSet, scene: int) -> Tensor:
    device = next(network.parameters()).device
    rows = []
    for start in range(0, len(frames), 64):
        images = torch.from_numpy(np.array(frames.images[start : start + 64])).permute(0, 3, 1, 2).to(device)
        rows.append(network.image_encoder(preprocess.normalize(images), scene))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1).half().cpu()


def map_contents(
    network: ImPosingNetwork, scenes: Sequence[FrameSet], settings: TrainSettings, preprocess: Preprocess
) -> Contents:
    """What the map holds.

    Signatures and image vectors are computed with the weights *as stored*, so that what rounding does to the weights
    is in them too.
    """
    network.eval()
    weights = _stored(network, settings.weights)
    plain = dequantise_tensors(weights, WEIGHTS_FILE)
    reference = network.state_dict()
    network.load_state_dict({k: v.to(reference[k].dtype) for k, v in plain.items()})
    device = next(network.parameters()).device
    candidates: dict[str, Tensor] = {}
    references: dict[str, Tensor] = {}
    for index, frames in enumerate(scenes):
        poses = to_vectors(frames.T_map_cam)
        initial = initial_candidates(settings.search, poses, settings.seed)
        with torch.inference_mode():
            signatures = network.pose_encoder(index)(initial.to(device))
        candidates[f"{frames.scene}.poses"] = initial
        candidates[f"{frames.scene}.signatures"] = torch.nn.functional.normalize(signatures, dim=-1).half().cpu()
        if settings.reference_vectors:
            kept = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_REFERENCES)).round().astype(np.int64))
            references[f"{frames.scene}.poses"] = torch.from_numpy(poses[kept])
            references[f"{frames.scene}.vectors"] = _image_vectors(network, preprocess, frames.select(kept), index)
    tensors = {WEIGHTS_FILE: weights, CANDIDATES_FILE: candidates}
    if references:
        tensors[REFERENCES_FILE] = references
    return Contents(tensors, settings_mapping(settings.network, settings.search))
