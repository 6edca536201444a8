"""The non-linear regressor H (Section III-C3, Figure 4), and its place in a map bundle."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vloc_ros.errors import MapError, MapFormatError
from vloc_ros.geometry.torch_ops import quaternion_multiply, quaternion_to_matrix
from vloc_ros.localizers.calibration import number, section
from vloc_ros.localizers.copr.settings import RegressorSettings
from vloc_ros.localizers.weights import load_module, stored_weights
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping, settings_to_mapping

__all__ = [
    "REGRESSOR_FILE",
    "SECTION",
    "DescriptorRegressor",
    "StoredRegressor",
    "regressor_settings",
    "regressor_tensors",
    "relative_pose",
]

REGRESSOR_FILE = "regressor.safetensors"
#: The part of a manifest's settings that describes H.
SECTION = "regressor"

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def relative_pose(anchors: Tensor, targets: Tensor, frame: str = "body") -> Tensor:
    """The target's pose relative to the anchor's: translation (m) and quaternion xyzw with w >= 0.

    ``body``: of ``T_anchor^-1 T_target``, the same wherever in the map the two stand. ``map``: the difference of
    positions and the rotation from one to the other, both in the map's axes.

    :param anchors: ``(B, 7)`` pose vectors of T_map_cam. :param targets: ``(B, 7)``.
    """
    difference, inverse = targets[..., :3] - anchors[..., :3], anchors[..., 3:] * anchors.new_tensor([-1, -1, -1, 1])
    if frame == "body":
        R = quaternion_to_matrix(anchors[..., 3:])
        difference = (difference[..., None, :] @ R)[..., 0, :]
        q = quaternion_multiply(inverse, targets[..., 3:])
    else:
        q = quaternion_multiply(targets[..., 3:], inverse)
    return torch.cat((difference, torch.where(q[..., 3:] < 0, -q, q)), dim=-1)


class DescriptorRegressor(nn.Module):
    """``f_new = H(f_anchor, relative pose)``: hidden layers of width N + 7 with GELU, then N linear outputs.

    :param dimension: N, the length of a descriptor.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, dimension: int, settings: RegressorSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or RegressorSettings()
        self.dimension = dimension
        self.width = s.width or dimension + 7
        inputs = dimension + 7 + 12 * s.octaves
        sizes = [inputs, *[self.width] * s.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(self.width, dimension)
        self.activation = _ACTIVATIONS[s.activation]()
        # One spread for all dimensions: their shares in the distance of descriptors stay what they are.
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("spread", torch.ones(1))
        if s.residual:
            # At first every pose has its anchor's descriptor.
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def fit_scale(self, descriptors: Tensor) -> None:
        """Take mean and spread from ``(M, N)`` training descriptors, where the settings say so."""
        if self.settings.standardise:
            mean = descriptors.float().mean(dim=0)
            self.mean.copy_(mean)
            spread = (descriptors.float() - mean).square().mean().sqrt()
            self.spread.fill_(max(float(spread), 1e-12))

    def _pose_inputs(self, relative: Tensor) -> Tensor:
        """``(B, 7)`` relative poses as the first layer reads them: ``(B, 7 + 12 octaves)``."""
        s = self.settings
        scaled = torch.cat((relative[:, :3] / s.translation_scale_m, relative[:, 3:]), dim=1)
        if not s.octaves:
            return scaled
        frequencies = 0.5 * math.pi * 2.0 ** torch.arange(s.octaves, device=relative.device, dtype=relative.dtype)
        waves = (scaled[:, :6, None] * frequencies).flatten(1)
        return torch.cat((scaled, waves.sin(), waves.cos()), dim=1)

    def forward(self, anchors: Tensor, relative: Tensor) -> Tensor:
        """Descriptors ``(B, N)`` of anchors ``(B, N)`` seen from ``(B, 7)`` relative poses (:func:`relative_pose`)."""
        standard = (anchors - self.mean) / self.spread
        x = torch.cat((standard, self._pose_inputs(relative)), dim=1)
        for layer in self.hidden:
            made = self.activation(layer(x))
            x = x + made if self.settings.skip and made.shape == x.shape else made
        out: Tensor = self.output(x)
        if self.settings.residual:
            out = out + standard
        return out * self.spread + self.mean


@dataclass(frozen=True)
class StoredRegressor:
    """H as a map holds it.

    :ivar network: on a device, in evaluation mode. :ivar extractor_id: whose descriptors it reads and makes.
    :ivar radius_m: the farthest pairs that it learned from. :ivar identity: SHA-256 of weights and settings.
    """

    network: DescriptorRegressor
    extractor_id: str
    radius_m: float
    identity: str

    @classmethod
    def from_bundle(cls, bundle: MapBundle, device: torch.device) -> StoredRegressor:
        """:raises MapError: the map has no regressor, or its settings and weights do not agree."""
        where = f"{bundle.path}: settings.{SECTION}"
        stored = section(bundle.manifest.settings, SECTION, f"{bundle.path}: settings")
        if not stored or bundle.manifest.file(REGRESSOR_FILE) is None:
            raise MapError(
                f"{bundle.path}: expected a map with a descriptor regressor, found one of backend "
                f"{bundle.manifest.backend!r} without; train one with vloc train copr"
            )
        extractor_id, radius = stored.pop("extractor_id", None), number(stored, "radius_m", 0.0, where)
        stored.pop("radius_m", None)
        dimension = stored.pop("dimension", None)
        if not isinstance(extractor_id, str) or type(dimension) is not int or not 0 < dimension <= 1 << 16:
            raise MapFormatError(
                f"{where}: expected extractor_id and dimension, found {extractor_id!r} and {dimension!r}"
            )
        settings = settings_from_mapping(RegressorSettings, stored, where, error=MapFormatError)
        tensors = bundle.tensors(REGRESSOR_FILE)
        network = load_module(
            lambda: DescriptorRegressor(dimension, settings), tensors, f"{bundle.path}/{REGRESSOR_FILE}"
        )
        network.eval().requires_grad_(False).to(device)
        return cls(network, extractor_id, radius, _identity(settings, tensors))

    def check(self, extractor_id: str, dimension: int, where: str) -> None:
        """:raises MapError: the descriptors of ``where`` are another extractor's."""
        if self.extractor_id != extractor_id or self.network.dimension != dimension:
            raise MapError(
                f"{where}: expected descriptors of extractor {self.extractor_id[:16]}... of length "
                f"{self.network.dimension}, which the regressor learned, found {extractor_id[:16]}... of length "
                f"{dimension}; train a regressor with this map: vloc train copr --extractor"
            )


def regressor_tensors(network: DescriptorRegressor) -> dict[str, Tensor]:
    """The weights as a map stores them, for ``write_map`` under :data:`REGRESSOR_FILE`."""
    return stored_weights(network.state_dict())


def regressor_settings(network: DescriptorRegressor, extractor_id: str, radius_m: float) -> dict[str, Any]:
    """What a manifest holds under ``settings["regressor"]``."""
    return {
        **settings_to_mapping(network.settings),
        "dimension": network.dimension,
        "extractor_id": extractor_id,
        "radius_m": float(radius_m),
    }


def _identity(settings: RegressorSettings, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(repr(sorted(settings_to_mapping(settings).items())).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
