"""The candidates of one training step (Section 3.2): as in the search, guided by the truth."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.localizers.imposing.network import PoseEncoder
from vloc_ros.localizers.imposing.sampling import noise_scale, perturb, pick
from vloc_train.imposing.data import Batch
from vloc_train.imposing.objective import target_scores
from vloc_train.imposing.settings import TrainSettings

__all__ = ["cosines", "score_steps"]


def cosines(image_unit: Tensor, signatures: Tensor) -> Tensor:
    """Cosines of unit image vectors ``(B, d)`` with raw signatures ``(N, d)`` or ``(B, N, d)``: ``(B, N)``."""
    # Dividing the products instead of the signatures leaves the largest tensor of the step alone.
    signatures = signatures.to(image_unit.dtype)
    norms: Tensor = torch.linalg.vector_norm(signatures, dim=-1).clamp_min(1e-12)
    if signatures.dim() == 2:
        return (image_unit @ signatures.T) / norms
    return (signatures @ image_unit.unsqueeze(-1)).squeeze(-1) / norms


def _trained_score(cosine: Tensor, target: Tensor, keep_gradient: bool) -> Tensor:
    """Eq. 1, with the bare cosine where the target is positive (see ``TrainSettings.keep_gradient``)."""
    if not keep_gradient:
        return torch.relu(cosine)
    return torch.where((cosine > 0) | (target > 0), cosine, torch.zeros_like(cosine))


def _propose(poses: Tensor, cosine: Tensor, target: Tensor, count: int, normal: Tensor, uniform: Tensor) -> Tensor:
    """New candidates ``(B, N, 7)`` around the best predicted and the best target scores, half of each.

    :param poses: ``(M, 7)`` shared or ``(B, M, 7)``.
    :param normal: ``(B, N, 6)`` noise in metres and radians.
    """
    half = min(max(1, count // 2), cosine.shape[1])
    by_score, by_target = torch.relu(cosine).topk(half, dim=1), target.topk(half, dim=1)
    chosen = torch.cat((by_score.indices, by_target.indices), dim=1)
    # A floor under the weights: where no target is positive yet, the nearest poses still lead the way.
    weights = torch.cat((by_score.values, by_target.values + 1e-3), dim=1)
    index = chosen.gather(1, pick(weights, uniform))
    base = poses[index] if poses.dim() == 2 else poses.gather(1, index.unsqueeze(-1).expand(-1, -1, 7))
    return perturb(base, normal)


def score_steps(
    encoder: PoseEncoder,
    image_vectors: Tensor,
    batch: Batch,
    settings: TrainSettings,
    narrowing: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Predicted and target scores of every step k = 0 .. K - 1, each ``(B, N_k)``.

    :param image_vectors: ``(B, d)``, not normalised.
    :param narrowing: the widths of the last step relative to the first.
    """
    steps = settings.search.refinements
    scale = noise_scale(settings.search).to(batch.truth)
    image_unit = functional.normalize(image_vectors.to(batch.truth.dtype), dim=-1)
    poses = perturb(batch.initial, batch.initial_noise * scale * settings.uniform_noise)
    cosine = cosines(image_unit, encoder(poses))
    predicted: list[Tensor] = []
    targets: list[Tensor] = []
    for k in range(steps):
        width = narrowing ** (k / max(1, steps - 1))
        shaped = poses if poses.dim() == 3 else poses.unsqueeze(0)
        target = target_scores(shaped, batch.truth, settings.width_m * width, settings.width_deg * width)
        predicted.append(_trained_score(cosine, target, settings.keep_gradient))
        targets.append(target)
        if k == steps - 1:
            break
        with torch.no_grad():
            noise = batch.normal[:, k] * (scale * 0.5**k)
            count = settings.search.components
            poses = _propose(poses, cosine.detach(), target, count, noise, batch.uniform[:, k])
        signatures = encoder(poses.flatten(0, 1))
        cosine = cosines(image_unit, signatures.unflatten(0, poses.shape[:2]))
    return predicted, targets
