"""A literal transcription of the paper's localization process, Section 3.1, steps 2 to 7.

Slow on purpose: everything is computed as the text says it, every step, in one precision. It is the reference that
:mod:`.search` is tested and measured against, given the same random numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vloc_ros.localizers.imposing.network import PoseEncoder, canonical, scores
from vloc_ros.localizers.imposing.sampling import noise_scale, perturb, pick
from vloc_ros.localizers.imposing.search import Draws
from vloc_ros.localizers.imposing.settings import SearchSettings

__all__ = ["transcribed_search"]


@torch.no_grad()
def transcribed_search(
    encoder: PoseEncoder, image_vector: Tensor, initial: Tensor, draws: Draws, settings: SearchSettings
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The pose ``(7,)``, and poses and scores of every step.

    :param image_vector: ``(d,)``.
    :param initial: ``(N, 7)`` first candidates.
    """
    v = noise_scale(settings).to(initial)
    poses = initial
    all_poses, all_scores = [], []
    for k in range(settings.refinements):
        # Steps 3 and 4: signatures of all candidates, cosine with the image vector, ReLU (eq. 1).
        s = scores(image_vector, encoder(poses))
        all_poses.append(poses)
        all_scores.append(s)
        if k == settings.refinements - 1:
            break
        # Step 5: the best B poses are the components of a mixture, weighted by their scores (eq. 2).
        best = torch.topk(s, settings.components)
        weights = best.values / best.values.sum()
        component = pick(weights, draws.uniform[k + 1])
        # Step 6: the noise is halved after every iteration.
        poses = perturb(poses[best.indices[component]], draws.normal[k + 1] * (v / 2**k))
    # Step 7: weighted average of the best candidates; rotations after Markley et al. (2007), eq. 12 and 13.
    best = torch.topk(s, settings.averaged)
    weights = best.values / best.values.sum()
    position = (weights.unsqueeze(-1) * poses[best.indices, :3]).sum(dim=0)
    q = poses[best.indices, 3:]
    accumulated = torch.einsum("n,ni,nj->ij", weights.double(), q.double(), q.double())
    rotation = torch.linalg.eigh(accumulated).eigenvectors[:, -1].to(position)
    return canonical(torch.cat((position, rotation))), all_poses, all_scores
