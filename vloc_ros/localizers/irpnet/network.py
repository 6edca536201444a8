"""IRPNet's regressors: fully connected layers from a descriptor to a position and a rotation (Section III)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_ops import matrix_to_quaternion
from vloc_ros.localizers.irpnet.settings import NetworkSettings

__all__ = ["TASKS", "Branch", "Regressed", "Regressor", "Task", "columns_matrix", "rotation_quaternion"]

Task = Literal["position", "orientation"]
TASKS: tuple[Task, ...] = ("position", "orientation")


class Regressed(NamedTuple):
    """What a regressor says: position ``(..., 3)`` in metres of the map frame, rotation ``(..., 4 or 6)`` as the last
    layer gives it; None where it has no such branch."""

    position: Tensor | None
    rotation: Tensor | None


class Branch(nn.Module):
    """Fully connected layers with ReLU between them and dropout after the second hidden one.

    Linear layers are drawn after He et al. (2015), biases zero.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        cut = min(2, len(widths))
        self.early = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[: cut + 1]))
        self.late = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[cut:]))
        self.head = nn.Linear(sizes[-1], outputs)
        self.dropout = nn.Dropout(dropout)

    @property
    def dropped(self) -> int:
        """Units that dropout acts on."""
        return int(self.early[-1].out_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``.

        :param keep: ``(K, dropped)`` factors in the place of dropout, whatever mode the module is in; the result is
            ``(K, B, outputs)``. The layers before are computed once.
        """
        for layer in self.early:
            x = torch.relu(layer(x))
        if keep is None:
            x = self.dropout(x)
        else:
            x = x * keep.to(x).unsqueeze(1)
        for layer in self.late:
            x = torch.relu(layer(x))
        out: Tensor = self.head(x)
        return out


class Regressor(nn.Module):
    """Descriptors ``(B, D)`` to positions and rotations.

    The paper trains the branching network twice and keeps one branch of each: ``tasks`` names those that this instance
    has. The other branch gets no gradient where its loss has no weight, so leaving it out changes nothing.

    :ivar mean, deviation: ``(D,)`` of the inputs; 0 and 1 unless :meth:`set_statistics` says otherwise.
    :ivar centre, scale: ``(3,)`` and ``()``: position = centre + scale * output.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, dimension: int, settings: NetworkSettings, tasks: Sequence[Task] = TASKS) -> None:
        super().__init__()
        if not tasks or any(task not in TASKS for task in tasks):
            raise ConfigError(f"irpnet: expected tasks out of {', '.join(TASKS)}, found {list(tasks)}")
        self.settings, self.tasks, self.dimension = settings, tuple(t for t in TASKS if t in tasks), dimension
        sizes = {"position": 3, "orientation": settings.rotation_size}
        if settings.architecture == "mlp":
            self.shared: nn.Module = nn.Identity()
            outputs, inputs = {"both": sum(sizes[t] for t in self.tasks)}, dimension
        else:
            self.shared = nn.Sequential(nn.Linear(dimension, settings.shared), nn.ReLU())
            outputs, inputs = {t: sizes[t] for t in self.tasks}, settings.shared
        self.branches = nn.ModuleDict(
            {name: Branch(inputs, settings.widths, size, settings.dropout) for name, size in outputs.items()}
        )
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("scale", torch.ones(()))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def set_statistics(self, descriptors: Tensor, positions: Tensor) -> None:
        """Take what ``inputs`` and ``positions`` ask for from training data: ``(N, D)`` and ``(N, 3)`` metres."""
        with torch.no_grad():
            if self.settings.inputs == "standardised":
                deviation, mean = torch.std_mean(descriptors.float(), dim=0, correction=0)
                # An entry that hardly varies must not become the largest of all.
                self.mean.copy_(mean)
                self.deviation.copy_(deviation.clamp_min(0.1 * float(deviation.mean()) + 1e-6))
            if self.settings.positions != "metres":
                self.centre.copy_(positions.mean(dim=0))
            if self.settings.positions == "scaled":
                self.scale.copy_((positions - positions.mean(dim=0)).square().sum(dim=1).mean().sqrt().clamp_min(1e-3))

    def keep_masks(self, samples: int, generator: torch.Generator) -> dict[str, Tensor]:
        """What is kept of each unit, by branch, ``(1 + samples, dropped)`` on the CPU: everything in the first row, and
        0 or 1 / (1 - p) in the others."""
        p, out = self.settings.dropout, {}
        for name, branch in self._branches().items():
            kept = torch.rand(samples, branch.dropped, generator=generator) >= p
            out[name] = torch.cat((torch.ones(1, branch.dropped), kept / (1.0 - p)))
        return out

    @property
    def dropped(self) -> int:
        """Units that dropout acts on, in all branches."""
        return sum(branch.dropped for branch in self._branches().values())

    def split(self, masks: Tensor) -> dict[str, Tensor]:
        """:meth:`keep_masks` beside each other ``(1 + samples, dropped)`` by branch."""
        branches = self._branches()
        return dict(zip(branches, torch.split(masks, [b.dropped for b in branches.values()], dim=1), strict=True))

    def forward(self, descriptors: Tensor, keep: dict[str, Tensor] | None = None) -> Regressed:
        """Regress. With ``keep`` (:meth:`keep_masks`) the results have a leading axis of samples."""
        x = self.shared((descriptors - self.mean) / self.deviation)
        found = {name: branch(x, keep[name] if keep else None) for name, branch in self._branches().items()}
        if "both" in found:
            both = found["both"]
            split = 3 if "position" in self.tasks else 0
            found = {"position": both[..., :split], "orientation": both[..., split:]}
        position = found["position"] if "position" in self.tasks else None
        rotation = found["orientation"] if "orientation" in self.tasks else None
        return Regressed(None if position is None else self.centre + self.scale * position, rotation)

    def _branches(self) -> dict[str, Branch]:
        return {name: branch for name, branch in self.branches.items() if isinstance(branch, Branch)}


def rotation_quaternion(rotation: Tensor) -> Tensor:
    """The unit quaternion xyzw, w >= 0, of a regressed rotation: ``(..., 4)``, or ``(..., 6)`` made orthonormal by
    Gram and Schmidt (Zhou et al., CVPR 2019).

    Where a network regresses no direction at all (zeros: every unit before is off; parallel columns) it is the
    identity.
    """
    if rotation.shape[-1] == 6:
        R = columns_matrix(rotation)
        known = R.square().sum(dim=(-2, -1)) > 2.5  # 3, or 0 and 1 where columns are missing
        identity = torch.eye(3, dtype=R.dtype, device=R.device)
        return matrix_to_quaternion(torch.where(known[..., None, None], R, identity))
    unit = functional.normalize(rotation, dim=-1)
    unit = torch.where(unit[..., 3:] < 0, -unit, unit)
    identity = functional.pad(torch.ones_like(unit[..., :1]), (3, 0))
    return torch.where(unit.square().sum(dim=-1, keepdim=True) > 0.5, unit, identity)


def columns_matrix(columns: Tensor) -> Tensor:
    """``(..., 6)``, the first two columns one after the other, to rotation matrices ``(..., 3, 3)``."""
    first = functional.normalize(columns[..., :3], dim=-1)
    second = columns[..., 3:] - (first * columns[..., 3:]).sum(dim=-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)
