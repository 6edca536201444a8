"""ImPosing: the search as shipped against a literal transcription of the paper's loop, with the same weights."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vloc_ros.bench.timing import device_name, measure, peak_memory_bytes
from vloc_ros.localizers.imposing.initial import initial_candidates
from vloc_ros.localizers.imposing.localizer import WEIGHTS_FILE, load_weights
from vloc_ros.localizers.imposing.network import ImPosingNetwork, PoseEncoder
from vloc_ros.localizers.imposing.precision import compute_dtype
from vloc_ros.localizers.imposing.search import draw, search, similarity
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.transcription import transcribed_search
from vloc_ros.maps import read_map
from vloc_ros.settings import settings_from_mapping

__all__ = ["bench_imposing"]

#: Image vectors over which differences are collected.
FRAMES = 20


def _from_map(map_dir: Path) -> tuple[ImPosingNetwork, SearchSettings, Tensor, tuple[int, int]]:
    bundle = read_map(map_dir)
    stored = bundle.manifest.settings
    network = ImPosingNetwork(settings_from_mapping(NetworkSettings, stored["network"], str(map_dir)))
    load_weights(network, bundle.tensors(WEIGHTS_FILE), str(map_dir))
    initial = bundle.tensors("candidates.safetensors")[f"{bundle.manifest.scenes[0].name}.poses"]
    size = (int(bundle.manifest.preprocessing["height"]), int(bundle.manifest.preprocessing["width"]))
    return network, settings_from_mapping(SearchSettings, stored["search"], str(map_dir)), initial, size


def _random(seed: int) -> tuple[ImPosingNetwork, SearchSettings, Tensor, tuple[int, int]]:
    """The paper's settings with random weights, and a circular drive of 1 km."""
    torch.manual_seed(seed)
    network, settings = ImPosingNetwork(NetworkSettings()), SearchSettings()
    angle = np.linspace(0, 2 * np.pi, settings.candidates, endpoint=False)
    poses = np.zeros((len(angle), 7), dtype=np.float32)
    poses[:, 0], poses[:, 1] = 160 * np.cos(angle), 160 * np.sin(angle)
    poses[:, 5], poses[:, 6] = np.sin(angle / 2), np.cos(angle / 2)
    low, high = torch.from_numpy(poses[:, :3].min(0)), torch.from_numpy(poses[:, :3].max(0))
    network.pose_encoder().set_area(low, high)
    return network, settings, initial_candidates(settings, poses, seed), (135, 240)


def bench_imposing(map_dir: Path | None, device: torch.device, repeats: int, seed: int = 0) -> dict[str, Any]:
    """Measure one map (default: the paper's settings with random weights).

    :returns: the benchmark's JSON. ``speedup_vs_naive`` compares whole frames, image encoder included: the default
        path against the float32 transcription. ``max_abs_difference`` is the largest difference in float32 of the
        scores of identical candidates; ``pose_difference_float64`` that of the pose in float64. ``floor_ms`` is
        the bare image encoder and the bare matrix products of the pose encoder, in the precision of the default path.
    """
    network, settings, initial, (height, width) = _from_map(map_dir) if map_dir else _random(seed)
    network = network.eval().requires_grad_(False).to(device)
    dtype = compute_dtype("auto", device)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, height, width, generator=generator).to(device)
    full = network.pose_encoder()
    initial = initial.to(device)
    fast = copy.deepcopy(full)
    fast.linears.to(dtype)
    encode_full = network.image_encoder
    encode_fast = copy.deepcopy(encode_full).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image_fast = image.to(dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        signatures = full(initial)
    columns = signatures.T.contiguous()

    def vector(encoder: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.as_tensor(encoder(x)[0]).float()

    def frame_naive() -> None:
        draws = draw(settings, seed, device, torch.float32)
        transcribed_search(full, vector(encode_full, image), initial, draws, settings)

    def search_fast(x: Tensor) -> Tensor:
        draws = draw(settings, seed, device, torch.float32)
        return search(fast, x, initial, columns, draws, settings, compute=dtype).pose

    def frame_fast() -> None:
        search_fast(vector(encode_fast, image_fast)).cpu()

    # Image vectors as a trained encoder gives them: near the signature of the place, so that scores are positive.
    vectors = signatures[:: max(1, len(signatures) // FRAMES)][:FRAMES].clone()
    noise = torch.randn(vectors.shape, generator=generator).to(device)
    vectors += 0.5 * vectors.std(dim=-1, keepdim=True) * noise
    image_vector = vectors[0]
    draws = draw(settings, seed, device, torch.float32)
    rows = [
        measure("frame, default path", frame_fast, device, repeats),
        measure("frame, transcription in float32", frame_naive, device, repeats),
        measure("image encoder, default path", lambda: vector(encode_fast, image_fast), device, repeats),
        measure("image encoder, float32", lambda: vector(encode_full, image), device, repeats),
        measure("search, default path", lambda: search_fast(image_vector), device, repeats),
        measure(
            "search, transcription in float32",
            lambda: transcribed_search(full, image_vector, initial, draws, settings), device, repeats,
        ),
        measure("random numbers", lambda: draw(settings, seed, device, torch.float32), device, repeats),
    ]  # fmt: skip
    products = measure("matrix products of the pose encoder", _products(fast, settings, dtype, device), device, repeats)
    rows.append(products)
    by_name = {row.name: row.ms_p50 for row in rows}
    floor = by_name["image encoder, default path"] + products.ms_p50
    ours = by_name["frame, default path"]
    return {
        "device": device_name(device),
        "backend": "imposing",
        "map": map_dir.name if map_dir else "paper settings, random weights",
        "precision": str(dtype).removeprefix("torch."),
        "settings": dataclasses.asdict(settings),
        "rows": [dataclasses.asdict(row) for row in rows],
        "speedup_vs_naive": round(by_name["frame, transcription in float32"] / ours, 3),
        "max_abs_difference": _score_difference(full, image_vector, initial, draws, settings),
        "pose_difference_float64": _float64_difference(full, vectors, initial, settings, seed),
        "pose_difference_default_m": _pose_differences(full, search_fast, vectors, initial, settings, seed),
        "floor_ms": round(floor, 4),
        "times_floor": round(ours / floor, 3),
        "memory_bytes": peak_memory_bytes(device),
    }


def _products(encoder: PoseEncoder, settings: SearchSettings, dtype: torch.dtype, device: torch.device) -> Any:
    """The pose encoder's products alone, for the steps that cannot come from the map."""
    widths = [cast(torch.nn.Linear, layer).in_features for layer in encoder.linears]
    inputs = [torch.randn(settings.candidates, w, device=device).to(dtype) for w in widths]

    def run() -> None:
        with torch.inference_mode():
            for _ in range(settings.refinements - 1):
                for x, layer in zip(inputs, encoder.linears, strict=True):
                    layer(x)

    return run


@torch.inference_mode()
def _score_difference(full: PoseEncoder, x: Tensor, initial: Tensor, draws: Any, settings: SearchSettings) -> float:
    """Largest difference of float32 scores of the same candidates, over all steps of one search."""
    _, poses, expected = transcribed_search(full, x, initial, draws, settings)
    unit = torch.nn.functional.normalize(x, dim=-1)
    found = [similarity(unit, full.columns(p, p.dtype)) for p in poses]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@torch.inference_mode()
def _float64_difference(
    full: PoseEncoder, vectors: Tensor, initial: Tensor, settings: SearchSettings, seed: int
) -> float:
    """Largest difference of the pose in float64 between search and transcription, on the CPU, over all frames."""
    encoder = copy.deepcopy(full).cpu().double()
    initial = initial.cpu().double()
    signatures = encoder(initial).T.contiguous()
    worst = 0.0
    for frame, x in enumerate(vectors.cpu().double()):
        draws = draw(settings, seed + frame, torch.device("cpu"), torch.float64)
        expected, _, _ = transcribed_search(encoder, x, initial, draws, settings)
        found = search(encoder, x, initial, signatures, draws, settings).pose
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def _pose_differences(
    full: PoseEncoder, fast: Any, vectors: Tensor, initial: Tensor, settings: SearchSettings, seed: int
) -> dict[str, float]:
    """Distance (m) between the positions of the default path and the transcription for the same random numbers.

    Top-k and sampling are discontinuous: one swapped candidate changes all that follow, and two searches of the
    same image differ as two seeds do. The distribution over the frames is what can be compared; ``seeds_p50`` is the
    distance between two transcriptions with different seeds.
    """
    ours, seeds = [], []
    for x in vectors:
        draws = [draw(settings, s, x.device, torch.float32) for s in (seed, seed + 1)]
        expected, other = (transcribed_search(full, x, initial, d, settings)[0] for d in draws)
        ours.append(float(torch.linalg.vector_norm(fast(x)[:3] - expected[:3])))
        seeds.append(float(torch.linalg.vector_norm(other[:3] - expected[:3])))
    quantiles = np.quantile(ours, (0.5, 0.95, 1.0))
    out = {name: round(float(q), 4) for name, q in zip(("p50", "p95", "max"), quantiles, strict=True)}
    return {**out, "seeds_p50": round(float(np.median(seeds)), 4)}
