"""Coarse to fine (Section 3.4): image retrieval, coarse pose, nearest database pose, precise pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.localizers.camnet.network import CamNetNetwork, Features
from vloc_ros.localizers.camnet.references import References
from vloc_ros.localizers.camnet.relative import absolute_poses, nearest_poses
from vloc_ros.localizers.camnet.settings import InferenceSettings

__all__ = ["Refinement", "refine", "retrieve"]


@dataclass(frozen=True)
class Refinement:
    """What the stages found for a query; the best reference first.

    ``rows`` (k,) of the database, ``distances`` (k,) of their features, ``similarities`` (k,) cosines; ``retrieved``,
    ``coarse`` (k, 7) and ``precise`` (k + s, 7) poses, s of them by earlier frames; ``nearest`` (k, 7) poses of the
    references that the precise ones start from.
    """

    rows: Tensor
    distances: Tensor
    similarities: Tensor
    retrieved: Tensor
    coarse: Tensor
    nearest: Tensor
    precise: Tensor


def waits(references: References, settings: InferenceSettings) -> bool:
    """Whether :func:`retrieve` looks at numbers of the device: which rows lead to other images."""
    return settings.retrieval_features == "icr" and references.densified


def retrieve(
    network: CamNetNetwork, references: References, query: Features, settings: InferenceSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(k,)`` of the nearest references, the distances and the cosines of their features; k at most ``top``.

    In a densified database rows of one image count once, by the nearest of them: the others lead to the same pairs.
    """
    by_row = settings.retrieval_features == "icr"
    if by_row:
        vector, database = network.retrieval_vectors(query.icr)[0], references.descriptors
    else:  # only images have such features
        vector, database = query.pfr[0], references.pfr
    distances = torch.linalg.vector_norm(database - vector, dim=-1)
    wanted = min(settings.top, len(references.pfr))
    if by_row and references.densified:
        order = distances.argsort(stable=True)
        first: dict[int, int] = {}
        for row, image in zip(order.tolist(), references.image[order].tolist(), strict=True):
            first.setdefault(image, row)
            if len(first) == wanted:
                break
        found = torch.tensor(list(first.values()), device=order.device)
    else:
        found = distances.topk(wanted, largest=False, sorted=True).indices
    cosines = torch.nn.functional.cosine_similarity(database[found], vector[None], dim=-1)
    return found if by_row else references.image_rows[found], distances[found], cosines


@torch.inference_mode()
def refine(
    network: CamNetNetwork,
    references: References,
    query: Features,
    settings: InferenceSettings,
    poses: Sequence[Tensor] = (),
    seen: Sequence[Tensor] = (),
) -> Refinement:
    """All stages for one query, whose features are ``(1, F)`` float32.

    :param poses: ``(7,)`` of earlier frames. :param seen: their PRP features ``(F,)``.
    """
    frame = network.settings.relative_frame
    rows, distances, cosines = retrieve(network, references, query, settings)
    images = references.image[rows]
    count = len(images)
    coarse = absolute_poses(
        references.image_poses[images], network.coarse(query.pfr.expand(count, -1), references.pfr[images]), frame
    )
    closest = nearest_poses(coarse, references.image_poses, settings.rotation_weight_m)
    nearest, features = references.image_poses[closest], references.prp[closest]
    bases = torch.cat([nearest, *(pose[None] for pose in poses)])
    features = torch.cat([features, *(feature[None] for feature in seen)])
    precise = absolute_poses(bases, network.precise(query.prp.expand(len(features), -1), features), frame)
    return Refinement(rows, distances, cosines, references.poses[rows], coarse, nearest, precise)
