"""The hierarchical search over poses (Section 3.1, steps 2 to 7), as fast as we know how.

What differs from the transcription in ``bench.imposing_transcription``, which computes the same thing literally:

* the signatures of the first candidates never change, so they come with the map;
* one product makes the angles of all Fourier features (:mod:`.signatures`), the MLP works in the precision that the
  processor multiplies fastest, cosines come from dot products and norms without normalised copies;
* poses stand in columns, so that every number of them is one contiguous row;
* the proposals of all steps are turned at once, before the first;
* no host synchronisation: every step runs on the device with tensors only, so that a GPU may record the whole search;
  what is averaged and counted at the end are some hundred poses, which the host does after one transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import markley_mean
from vloc_ros.localizers.imposing.sampling import moved, noise_rows, noise_scale, pick
from vloc_ros.localizers.imposing.settings import SearchSettings
from vloc_ros.localizers.imposing.statistics import search_statistics
from vloc_ros.transfer import read_back

__all__ = ["Draws", "SearchResult", "SearchStep", "draw", "search"]


#: A score of nothing counts this much among others: where no candidate scores, all are equally likely.
_LEAST_WEIGHT = 1e-30


class Encodes(Protocol):
    """What a search asks for signatures: a :class:`~.signatures.FrozenPoseEncoder`."""

    def columns(self, poses: Tensor) -> Tensor:
        """Signatures ``(d, N)``, not normalised, of poses ``(7, N)``."""
        ...


@dataclass(frozen=True)
class Draws:
    """The random numbers of one search: ``normal`` (K, N, 6) and ``uniform`` (K, N) in [0, 1).

    Row 0 serves the first candidates when they are drawn from a prior; row k the proposals for step k.
    """

    normal: Tensor
    uniform: Tensor


def draw(settings: SearchSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Draws:
    """The random numbers that belong to ``seed``: equal seeds on equal devices give equal numbers."""
    generator = torch.Generator(device=device).manual_seed(seed)
    shape = (settings.refinements, settings.candidates)
    return Draws(
        torch.randn(*shape, 6, generator=generator, device=device, dtype=dtype),
        torch.rand(*shape, generator=generator, device=device, dtype=dtype),
    )


@dataclass(frozen=True)
class SearchStep:
    """One evaluated step: ``poses`` (N, 7), ``scores`` (N,), and the indices of the components chosen from it."""

    poses: Tensor
    scores: Tensor
    selected: Tensor


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    :ivar best: of every evaluated step the best poses (B, 7) and their scores (B,), sorted, on the device.
    :ivar steps: every step, where it was asked for.
    """

    best: tuple[tuple[Tensor, Tensor], ...]
    steps: tuple[SearchStep, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[Tensor], steps: tuple[SearchStep, ...] = ()) -> SearchResult:
        """What gave these :attr:`tensors`."""
        return cls(tuple(zip(tensors[::2], tensors[1::2], strict=True)), steps)

    def on_host(self) -> SearchResult:
        """The same on the host."""
        return self.of(read_back(*self.tensors), self.steps)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Poses and scores of every step in turn."""
        return tuple(part for step in self.best for part in step)

    @property
    def pose(self) -> Tensor:
        """(7,) step 7: the weighted mean of the best poses of the last step, on the host."""
        return average(*self.on_host().best[-1])

    @property
    def score(self) -> Tensor:
        """The mean score of what was averaged."""
        return self.on_host().best[-1][1].mean()

    @property
    def statistics(self) -> Tensor:
        """:func:`search_statistics`, on the host."""
        host = self.on_host()
        return search_statistics(list(host.best), average(*host.best[-1]))


def similarity(image_unit: Tensor, columns: Tensor) -> Tensor:
    """Eq. 1 for one unit image vector ``(d,)`` and signatures ``(d, N)``, in the precision of the image vector."""
    columns = columns.to(image_unit.dtype)
    squares = columns.square().sum(dim=0)  # several times faster than a norm along the slow axis
    return torch.relu((image_unit @ columns) * squares.clamp_min(1e-24).rsqrt())


def average(poses: Tensor, weights: Tensor) -> Tensor:
    """Step 7: the weighted mean pose ``(7,)`` of ``(N, 7)`` poses; rotations after Markley et al."""
    weights = weights + torch.finfo(weights.dtype).tiny  # all scores zero: the plain mean
    share = weights / weights.sum()
    position = (poses[:, :3] * share.unsqueeze(-1)).sum(dim=0)
    return torch.cat((position, markley_mean(poses[:, 3:], share)))


def first_step(settings: SearchSettings, prior_std: Tensor | None) -> int:
    """The step to begin with: 0, or with a prior the first one whose proposals are no wider than it needs.

    With a prior of standard deviations ``prior_std`` (6,) the coarse steps only look where the camera cannot be.
    """
    if prior_std is None:
        return 0
    scale = noise_scale(settings)
    need = float((prior_std.double().cpu() / scale.clamp_min(1e-9))[[0, 1, 5]].max()) * settings.prior_sigmas
    k = 0
    while k < settings.refinements - 2 and 0.5 ** (k + 1) >= need:
        k += 1
    return k


@torch.inference_mode()
def search(
    encoder: Encodes,
    image_vector: Tensor,
    initial: Tensor,
    signatures: Tensor | None,
    draws: Draws,
    settings: SearchSettings,
    *,
    start: int = 0,
    keep_steps: bool = False,
) -> SearchResult:
    """Find the camera.

    :param encoder: the scene's.
    :param image_vector: ``(d,)``, not normalised; its type is that of poses and scores.
    :param initial: ``(N, 7)`` first candidates.
    :param signatures: ``(d, N)`` of ``initial``, or None to compute them.
    :param draws: random numbers; ``(K, N, ..)``.
    :param start: first step k (later with a prior); steps ``start .. K - 1`` are evaluated.
    :param keep_steps: return all candidates, for plots.
    """
    image_unit = torch.nn.functional.normalize(image_vector, dim=-1)
    later = slice(start + 1, settings.refinements)
    # Step k moves by v / 2^(k - 1).
    metres, turns = noise_rows(draws.normal[later], _scale(settings, initial.device, initial.dtype)[later])
    poses = initial.T
    steps: list[SearchStep] = []
    best: list[tuple[Tensor, Tensor]] = []
    for k in range(start, settings.refinements):
        if k > start:
            chosen, weights = best[-1]
            poses = moved(chosen[:, pick(weights + _LEAST_WEIGHT, draws.uniform[k])], metres[0], turns[0])
            metres, turns, signatures = metres[1:], turns[1:], None
        if signatures is None:
            signatures = encoder.columns(poses)
        values = similarity(image_unit, signatures)
        count = settings.averaged if k == settings.refinements - 1 else settings.components
        top = values.topk(min(count, len(values)))
        best.append((poses[:, top.indices], top.values))
        if keep_steps:
            steps.append(SearchStep(poses.T, values, top.indices))
    return SearchResult(tuple((chosen.T, weights) for chosen, weights in best), tuple(steps))


@lru_cache(maxsize=32)
def _scale(settings: SearchSettings, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(K, 6): standard deviations of the proposals for each step; the first row is not used."""
    halving = 0.5 ** (torch.arange(settings.refinements, dtype=torch.float64) - 1.0)
    with torch.inference_mode(False):
        return (noise_scale(settings) * halving[:, None]).to(device, dtype)
