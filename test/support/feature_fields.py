"""Smooth features whose derivatives are known exactly, and scenes of points that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.geometry.torch_ops import se3_exp
from vloc_ros.localizers.pixloc.field import FieldSample
from vloc_ros.localizers.pixloc.optimizer import Level
from vloc_ros.types import CameraModel

CAMERA = CameraModel(64, 48, 50.0, 52.0, 31.0, 24.5)
DISTORTED = CameraModel(64, 48, 50.0, 52.0, 31.0, 24.5, "plumb_bob", (-0.2, 0.05, 1e-3, -2e-3))


class WaveField:
    """``amplitude * sin(k_c . uv + phase_c)`` in C channels; smooth everywhere, defined inside the image.

    :param wavelength: of the shortest wave, in pixels.
    :param phases: (B, C) for a batch of different images, or None.
    """

    def __init__(self, channels: int = 8, wavelength: float = 60.0, seed: int = 0, images: int = 1) -> None:
        rng = np.random.default_rng(seed)
        turn = rng.uniform(0, 2 * np.pi, channels)
        length = 2 * np.pi / (wavelength * rng.uniform(1.0, 3.0, channels))
        self.k = torch.tensor(np.stack([np.cos(turn), np.sin(turn)], -1) * length[:, None])
        self.phase = torch.tensor(rng.uniform(0, 2 * np.pi, (images, 1, channels)))
        self.amplitude = torch.tensor(channels**-0.5)
        self.confidence: Tensor | None = None

    def select(self, image: int) -> WaveField:
        """The field of one image of the batch."""
        one = WaveField.__new__(WaveField)
        one.__dict__.update(self.__dict__, phase=self.phase[image : image + 1])
        return one

    def sample(self, uv: Tensor, gradients: bool = True) -> FieldSample:
        angle = uv @ self.k.T.to(uv) + self.phase.to(uv)
        values = self.amplitude.to(uv) * angle.sin()
        slopes = (self.amplitude.to(uv) * angle.cos())[..., None] * self.k.to(uv) if gradients else None
        confidence = None if self.confidence is None else self.confidence.to(uv).expand(uv.shape[:2])
        return FieldSample(values, slopes, confidence, uv.isfinite().all(-1))


@dataclass
class Scene:
    """Points, the pose that sees them, and a level whose reference features are exact there."""

    T_cam_map: Tensor
    points: Tensor
    level: Level


def random_points(count: int, seed: int = 0) -> Tensor:
    """Points (count, 3) in front of a camera at the origin, all well inside the view of :data:`CAMERA`."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-0.4, 0.4, (count, 2)) * [1.0, 0.8]
    z = rng.uniform(3.0, 12.0, (count, 1))
    return torch.tensor(np.concatenate([xy * z, z], axis=1))


def pose(*twist: float) -> Tensor:
    """(1, 4, 4) float64."""
    return se3_exp(torch.tensor([twist], dtype=torch.float64))


def scene(
    count: int = 60,
    batch: int = 1,
    seed: int = 0,
    damping: float = 1e-6,
    camera: CameraModel = CAMERA,
    points_cam: Tensor | None = None,
    field: WaveField | None = None,
) -> Scene:
    """A scene away from the origin, seen exactly; every element of the batch has another image and pose."""
    generator = torch.Generator().manual_seed(seed)
    p = random_points(count, seed) if points_cam is None else points_cam
    twists = torch.randn(batch, 6, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 5, 5, 1, 1, 1])
    T_map_cam = se3_exp(twists)
    points = p @ T_map_cam[:, :3, :3].transpose(-1, -2) + T_map_cam[:, None, :3, 3]
    lens = TorchCamera.from_model(camera, dtype=torch.float64)
    field = field or WaveField(seed=seed, images=batch)
    uv, valid = lens.project(p.expand(batch, -1, 3))
    assert bool(valid.all())
    reference = field.sample(uv, gradients=False).values
    level = Level(field, lens, reference, None, torch.full((6,), damping, dtype=torch.float64))
    return Scene(torch.linalg.inv(T_map_cam), points, level)
