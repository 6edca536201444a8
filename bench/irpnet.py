"""IRPNet's training batch against that of a pose regressor with a ResNet-152 (Section IV-C), on the same device."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.timing import Timing, figures, measure
from vloc_ros.localizers.irpnet.localizer import SceneRegressors
from vloc_ros.localizers.irpnet.network import Regressor
from vloc_ros.localizers.irpnet.settings import NetworkSettings

__all__ = ["PoseNet", "bench_irpnet"]

#: The paper's batch, and the length of its descriptors.
BATCH, DIMENSION = 8, 4096


class PoseNet(nn.Module):
    """A pose regressor with an encoder of its own: ``(B, 3, h, w)`` to positions and quaternions.

    The paper's baseline: ResNet-152, a fully connected layer of 2048, one layer for each part of the pose.
    """

    def __init__(self, backbone: str = "resnet152") -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(backbone, pretrained=False, num_classes=0)
        width: int = self.encoder.num_features  # type: ignore[assignment]
        self.hidden = nn.Linear(width, 2048)
        self.position, self.rotation = nn.Linear(2048, 3), nn.Linear(2048, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.hidden(self.encoder(images)))
        return self.position(x), self.rotation(x)


def _step(
    network: nn.Module, inputs: Tensor, truth: Tensor, rate: float, weights: tuple[float, float]
) -> Callable[[], None]:
    """One training step: forward, equation 1, backward, Adam (fused, as the trainer has it)."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, eps=1e-10, weight_decay=0.01 * rate, fused=True)

    def run() -> None:
        position, rotation = network(inputs)
        loss = truth.new_zeros(())
        if position is not None:
            loss = loss + weights[0] * torch.linalg.vector_norm(position - truth[:, :3], dim=1).mean()
        if rotation is not None:
            unit = functional.normalize(rotation, dim=1)
            loss = loss + weights[1] * torch.linalg.vector_norm(unit - truth[:, 3:], dim=1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def _products(network: nn.Module, device: torch.device) -> Callable[[], None]:
    """The matrix products of a step alone: forward, and backward for inputs and weights."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    data = [(m.weight.detach(), torch.randn(BATCH, m.in_features, device=device)) for m in layers]
    gradients = [torch.randn(BATCH, m.out_features, device=device) for m in layers]

    def run() -> None:
        with torch.no_grad():
            for (weight, x), gradient in zip(data, gradients, strict=True):
                x @ weight.T
                gradient @ weight
                gradient.T @ x

    return run


def bench_irpnet(
    device: torch.device,
    repeats: int,
    seed: int = 0,
    network: NetworkSettings | None = None,
    backbone: str = "resnet152",
    image_size: int = 224,
) -> dict[str, Any]:
    """Measure training batches of 8 and the regression of one query.

    :param repeats: timed calls of IRPNet's rows; the other regressor, which takes seconds on a CPU, has a tenth of them
        (at least three).
    :returns: the benchmark's JSON. ``speedup_vs_naive`` is the time of a batch of the other regressor over that of
        IRPNet with both branches, as in its orientation pass: the slower of its two passes. ``max_abs_difference`` is
        that of the regressed pose (metres and quaternion) in float32 and float64.
    """
    torch.manual_seed(seed)
    settings = network or NetworkSettings()
    generator = torch.Generator().manual_seed(seed)
    descriptors = functional.normalize(torch.randn(BATCH, DIMENSION, generator=generator), dim=1).to(device)
    images = torch.randn(BATCH, 3, image_size, image_size, generator=generator).to(device)
    truth = torch.cat(
        (
            20.0 * torch.randn(BATCH, 3, generator=generator),
            functional.normalize(torch.randn(BATCH, 4, generator=generator), dim=1),
        ),
        dim=1,
    ).to(device)
    rows, difference, sizes = _regressor_rows(settings, descriptors, truth, device, repeats, seed)
    batch, floor = rows[2].ms_p50, rows[4].ms_p50
    other = PoseNet(backbone).to(device)
    sizes[backbone] = _count(other)
    name = f"training batch of 8, pose regressor with {backbone} at {image_size}x{image_size}"
    step = _step(other, images, truth, 1e-4, (1.0, 250.0))
    rows.append(measure(name, step, device, max(3, repeats // 10), warm=1))
    return figures(
        "irpnet",
        "paper settings, random weights",
        device,
        rows,
        ours=batch,
        naive=rows[-1].ms_p50,
        floor=floor,
        difference=difference,
        speedup_like_for_like=round(rows[-1].ms_p50 / batch, 3),  # both are float32
        settings=dataclasses.asdict(settings),
        parameters=sizes,
    )


def _regressor_rows(
    settings: NetworkSettings, descriptors: Tensor, truth: Tensor, device: torch.device, repeats: int, seed: int
) -> tuple[list[Timing], float, dict[str, int]]:
    """IRPNet's rows, its difference from float64, and its numbers of parameters."""
    both = Regressor(DIMENSION, settings).to(device)
    position = Regressor(DIMENSION, settings, ("position",)).to(device)
    orientation = Regressor(DIMENSION, settings, ("orientation",)).to(device)
    asked = SceneRegressors({"position": position.eval(), "orientation": orientation.eval()})
    difference = _difference(asked, descriptors)
    sizes = {"irpnet": _count(both), "kept_of_irpnet": _count(position) + _count(orientation)}
    query, plain = descriptors[:1], asked.masks().to(device)

    def regress() -> None:
        with torch.inference_mode():
            asked.regress(query, plain)[0].cpu()

    def sampled() -> None:
        with torch.inference_mode():
            asked.regress(query, asked.masks(32, seed).to(device))[0].cpu()

    def timed(name: str, function: Callable[[], None]) -> Timing:
        return measure(name, function, device, repeats)

    orientation_step = _step(both, descriptors, truth, 1e-3, (1.0, 250.0))
    rows = [
        timed("one query, both regressors", regress),
        timed("one query, both regressors, 32 samples of dropout", sampled),
        timed("training batch of 8, both branches (1, 250)", orientation_step),
        timed("training batch of 8, position branch (1, 0)", _step(position, descriptors, truth, 1e-3, (1.0, 0.0))),
        timed("matrix products of both branches", _products(both, device)),
    ]
    return rows, difference, sizes


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.inference_mode()
def _difference(asked: SceneRegressors, descriptors: Tensor) -> float:
    plain = asked.masks().to(descriptors.device)
    exact, _ = copy.deepcopy(asked).double().regress(descriptors.double(), plain)
    found, _ = asked.regress(descriptors, plain)
    return float((exact - found).abs().max())
