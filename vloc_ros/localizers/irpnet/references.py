"""What an IRPNet map keeps of its training images: some descriptors with their poses, to know the familiar by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect

__all__ = ["REFERENCES_FILE", "References", "typical_distance"]

REFERENCES_FILE = "references.safetensors"


@dataclass(frozen=True)
class References:
    """Stored descriptors of one scene.

    :ivar poses: ``(M, 7)`` float32, on the CPU.
    :ivar descriptors: ``(M, D)`` float32 on the device; their squared lengths are kept beside them.
    :ivar typical: distance at which a training image under other light finds its neighbour, see
        :func:`typical_distance`.
    """

    scene: str
    poses: Tensor
    descriptors: Tensor
    squares: Tensor
    typical: float

    @classmethod
    def read(
        cls, bundle: MapBundle, tensors: dict[str, Tensor], scene: str, dimension: int, device: torch.device
    ) -> References:
        """:raises MapTensorError: a tensor is missing, empty or of another shape."""
        where = f"{bundle.path}/{REFERENCES_FILE}"
        poses = expect(tensors, f"{scene}.poses", (None, 7), torch.float32, where)
        floats = (torch.float16, torch.float32)
        descriptors = expect(tensors, f"{scene}.descriptors", (len(poses), dimension), floats, where)
        typical = expect(tensors, f"{scene}.typical", (), torch.float32, where)
        if not len(poses):
            raise MapTensorError(f"{where}: scene {scene!r}: expected at least one stored descriptor, found none")
        rows = descriptors.to(device, torch.float32)
        return cls(scene, poses, rows, rows.square().sum(dim=1), max(float(typical), 1e-6))

    def nearest(self, descriptor: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances ``(k,)`` and rows ``(k,)`` of the nearest stored descriptors; k is ``count`` or what there is.

        Distances are L2 in every metric: of unit vectors it grows with the cosine distance.
        """
        squared = self.squares + descriptor.square().sum() - 2.0 * (self.descriptors @ descriptor)
        found = squared.topk(min(count, len(squared)), largest=False)
        # The difference of large squares is rounded; the few that matter are computed again.
        distances = torch.linalg.vector_norm(self.descriptors[found.indices] - descriptor, dim=1)
        order = distances.argsort()
        return distances[order], found.indices[order]


def typical_distance(plain: Tensor, changed: Tensor) -> float:
    """Median distance of changed training descriptors ``(N, D)`` to the nearest stored one ``(M, D)``."""
    most = changed[:: max(1, len(changed) // 512)].float()
    return max(float(torch.cdist(most, plain.float()).amin(dim=1).median()), 1e-6)
