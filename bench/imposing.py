"""ImPosing: the search as shipped against a literal transcription of the paper's loop, with the same weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bench.imposing_transcription import transcribed_search
from bench.setup import BenchSetup
from bench.timing import figures, measure
from vloc_ros.localizers.imposing.search import Draws, draw, search, similarity
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder

__all__ = ["bench_imposing"]

#: Image vectors over which differences are collected.
FRAMES = 20


def bench_imposing(
    map_dir: Path | None, device: torch.device, repeats: int, seed: int = 0, accuracy_bag: Path | None = None
) -> dict[str, Any]:
    """Measure one map (default: the paper's settings with random weights).

    :param accuracy_bag: a drive with reference poses: also compare the accuracy of both paths on it (needs a map).
    :returns: the benchmark's JSON. ``speedup_vs_naive`` compares whole frames, image encoder included: the default
        path against the float32 transcription. ``max_abs_difference`` is the largest difference in float32 of the
        scores of identical candidates; ``pose_difference_float64`` that of the pose in float64. ``floor_ms`` is the
        bare image encoder and the bare matrix products of the pose encoder, in the precision of the default path.
    """
    setup = BenchSetup.of_map(map_dir, device) if map_dir else BenchSetup.of_paper(device, seed)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, *setup.image_size, generator=generator).to(device)
    # Image vectors as a trained encoder gives them: near the signature of the place, so that scores are positive.
    signatures = setup.columns.T
    vectors = signatures[:: max(1, len(signatures) // FRAMES)][:FRAMES].clone()
    noise = torch.randn(vectors.shape, generator=generator).to(device)
    vectors += 0.5 * vectors.std(dim=-1, keepdim=True) * noise
    vector = vectors[0]

    def draws() -> Draws:
        return draw(setup.settings, seed, device, torch.float32)

    fixed, full = draws(), FrozenPoseEncoder(setup.encoder, torch.float32, torch.float32)

    def frame_default() -> None:
        setup.search_default(setup.encode_default(image), draws()).cpu()

    def frame_full() -> None:
        found = search(full, setup.encode_full(image), setup.initial, setup.columns, draws(), setup.settings)
        found.pose.cpu()

    def frame_transcribed() -> None:
        setup.search_transcribed(setup.encode_full(image), draws()).cpu()

    stages: list[tuple[str, Callable[[], object]]] = [
        ("frame, default path", frame_default),
        ("frame, transcription in float32", frame_transcribed),
        ("image encoder, default path", lambda: setup.encode_default(image)),
        ("image encoder, float32", lambda: setup.encode_full(image)),
        ("frame, as shipped in float32", frame_full),
        ("search, default path", lambda: setup.search_default(vector, fixed)),
        ("search, transcription in float32", lambda: setup.search_transcribed(vector, fixed)),
        ("random numbers", draws),
        ("matrix products of the pose encoder", _products(setup)),
    ]
    rows = [measure(name, stage, device, repeats) for name, stage in stages]
    by_name = {row.name: row.ms_p50 for row in rows}
    result = figures(
        "imposing",
        map_dir.name if map_dir else "paper settings, random weights",
        device,
        rows,
        ours=by_name["frame, default path"],
        naive=by_name["frame, transcription in float32"],
        floor=by_name["image encoder, default path"] + by_name["matrix products of the pose encoder"],
        difference=_score_difference(setup, vector, fixed),
        speedup_like_for_like=round(
            by_name["frame, transcription in float32"] / by_name["frame, as shipped in float32"], 3
        ),
        precision=str(setup.dtype).removeprefix("torch."),
        settings=dataclasses.asdict(setup.settings),
        pose_difference_float64=_float64_difference(setup, vectors, seed),
        pose_difference_default_m=_pose_differences(setup, vectors, seed),
    )
    if accuracy_bag is not None and map_dir is not None:
        from bench.accuracy import compare_accuracy

        result["accuracy"] = compare_accuracy(setup, map_dir, accuracy_bag)
    return result


def _products(setup: BenchSetup) -> Callable[[], None]:
    """The pose encoder's products alone, for the steps that cannot come from the map."""
    layers = [cast(torch.nn.Linear, layer) for layer in copy.deepcopy(setup.encoder).linears.to(setup.dtype)]
    count = setup.settings.candidates
    inputs = [torch.randn(layer.in_features, count, device=setup.device).to(setup.dtype) for layer in layers]

    def run() -> None:
        with torch.inference_mode():
            for _ in range(setup.settings.refinements - 1):
                for x, layer in zip(inputs, layers, strict=True):
                    torch.mm(layer.weight, x)

    return run


@torch.inference_mode()
def _score_difference(setup: BenchSetup, vector: Tensor, draws: Draws) -> float:
    """Largest difference of float32 scores of the same candidates, over all steps of one search."""
    _, poses, expected = transcribed_search(setup.encoder, vector, setup.initial, draws, setup.settings)
    unit = torch.nn.functional.normalize(vector, dim=-1)
    ours = FrozenPoseEncoder(setup.encoder, torch.float32, torch.float32)
    found = [similarity(unit, ours.columns(p.T)) for p in poses]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@torch.inference_mode()
def _float64_difference(setup: BenchSetup, vectors: Tensor, seed: int) -> float:
    """Largest difference of the pose in float64 between search and transcription, on the CPU, over all vectors."""
    encoder, initial = copy.deepcopy(setup.encoder).cpu().double(), setup.initial.cpu().double()
    ours = FrozenPoseEncoder(encoder, torch.float64, torch.float64)
    columns = encoder(initial).T.contiguous()
    worst = 0.0
    for frame, x in enumerate(vectors.cpu().double()):
        draws = draw(setup.settings, seed + frame, torch.device("cpu"), torch.float64)
        expected, _, _ = transcribed_search(encoder, x, initial, draws, setup.settings)
        found = search(ours, x, initial, columns, draws, setup.settings).pose
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def _pose_differences(setup: BenchSetup, vectors: Tensor, seed: int) -> dict[str, float]:
    """Distance (m) between the positions of the default path and the transcription for the same random numbers.

    Top-k and sampling are discontinuous: one swapped candidate changes all that follow, and two searches of the
    same image differ as two seeds do. The distribution over the vectors is what can be compared; ``seeds_p50`` is the
    distance between two transcriptions with different seeds.
    """
    ours, seeds = [], []
    for x in vectors:
        draws = [draw(setup.settings, s, setup.device, torch.float32) for s in (seed, seed + 1)]
        expected, other = (setup.search_transcribed(x, d) for d in draws)
        ours.append(float(torch.linalg.vector_norm(setup.search_default(x, draws[0])[:3] - expected[:3])))
        seeds.append(float(torch.linalg.vector_norm(other[:3] - expected[:3])))
    quantiles = np.quantile(ours, (0.5, 0.95, 1.0))
    out = {name: round(float(q), 4) for name, q in zip(("p50", "p95", "max"), quantiles, strict=True)}
    return {**out, "seeds_p50": round(float(np.median(seeds)), 4)}
