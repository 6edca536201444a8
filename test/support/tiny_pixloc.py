"""Sparse models and features that need neither images nor a trained network, for tests of PixLoc's map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tiny_drive
import torch
from torch import nn

from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.geometry.se3 import inverse
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.bundle import MapSettings, write_pixloc_map
from vloc_ros.localizers.pixloc.features import extract_pyramid, sample_observations
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.pixloc.store import LevelFeatures
from vloc_ros.settings import settings_to_mapping
from vloc_ros.types import CameraModel

DIMENSIONS = (6, 5, 4)


@dataclass
class Sparse:
    """A sparse model as builders make them."""

    points: np.ndarray
    T_map_cam: np.ndarray
    offsets: np.ndarray
    point_ids: np.ndarray
    pixels: np.ndarray
    stamps_ns: np.ndarray
    track_length: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.track_length = np.bincount(self.point_ids, minlength=len(self.points))


def observed(points: np.ndarray, T_map_cam: np.ndarray, camera: CameraModel, far_m: float = 60.0) -> Sparse:
    """Every reference observes the points in its image."""
    ids, pixels, offsets = [], [], [0]
    for T in T_map_cam:
        local = points @ inverse(T)[:3, :3].T + inverse(T)[:3, 3]
        uv, valid = project(camera, local)
        seen = np.flatnonzero(valid & (local[:, 2] < far_m))
        ids.append(seen)
        pixels.append(uv[seen])
        offsets.append(offsets[-1] + len(seen))
    stamps = tiny_drive.START + np.arange(len(T_map_cam), dtype=np.int64) * 100_000_000
    return Sparse(points, T_map_cam, np.array(offsets), np.concatenate(ids), np.concatenate(pixels), stamps)


def straight(count: int, step_m: float = 1.0) -> np.ndarray:
    """``T_map_cam`` (count, 4, 4) of a camera driving along x, looking ahead."""
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = tiny_drive.R_BODY_OPTICAL
    T[:, 0, 3], T[:, 2, 3] = step_m * np.arange(count), 1.5
    return T


def street(count: int = 12, points: int = 400, seed: int = 0, step_m: float = 1.0) -> Sparse:
    """A straight drive between two walls of random points."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(3.0, count * step_m + 25.0, points)
    y = rng.choice([-6.0, 6.0], points) + rng.normal(0, 0.5, points)
    return observed(np.stack([x, y, rng.uniform(0, 6, points)], axis=1), straight(count, step_m), tiny_drive.CAMERA)


def random_features(sparse: Sparse, pyramid: int, dimensions=DIMENSIONS, seed: int = 0):
    """``features(scene, r)`` of random unit vectors, the same whenever they are asked for."""

    def features(scene, reference):
        generator = torch.Generator().manual_seed(seed + 1000 * int(reference))
        count = int(sparse.offsets[reference + 1] - sparse.offsets[reference])
        out = []
        for _ in range(pyramid):
            levels = []
            for channels in dimensions:
                vectors = torch.nn.functional.normalize(torch.randn(count, channels, generator=generator), dim=1)
                levels.append(LevelFeatures(vectors, torch.rand(count, generator=generator)))
            out.append(levels)
        return out

    return features


class Weights(nn.Module):
    """Stands where a network stands in a map whose network no test asks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2)


def store_map(path, sparse: Sparse | None = None, settings: MapSettings | None = None, features=None, **more):
    """A bundle of random features, enough for the store."""
    sparse = sparse or street()
    settings = settings or MapSettings(pyramid=(0.5, 1.0), tile_mb=0.02)
    features = features or random_features(sparse, len(settings.pyramid))
    return write_pixloc_map(
        path, Weights(), DIMENSIONS, {"map": sparse}, features, tiny_drive.CAMERA, tiny_drive.preprocess(), settings,
        **more,
    )  # fmt: skip


# -- a painted wall, seen by a random network ---------------------------------------------------------

WALL_M = 16.0
CAMERA = CameraModel(128, 72, 84.0, 84.0, 63.5, 35.5)
NETWORK = NetworkSettings(
    encoder="plain",
    encoder_options={"channels": [12, 12, 12, 12], "convolutions": 1, "first_stride": 1},
    strides=(1, 2, 8),
    dimensions=(12, 12, 12),
    decoder=(12, 12, 12),
)


def preprocess() -> Preprocess:
    """Of the images of :data:`CAMERA`."""
    return Preprocess(CAMERA.width, CAMERA.height)


def model(seed: int = 0) -> PixLocModel:
    """Random features: smooth functions of a neighbourhood, which is enough to be aligned."""
    torch.manual_seed(seed)
    return PixLocModel(FeatureNet(NETWORK)).eval()


def image(T_map_cam: np.ndarray, camera: CameraModel = CAMERA) -> np.ndarray:
    """What a camera sees: waves of many lengths and directions on the wall, (H, W, 3) uint8."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = unproject(camera, np.stack([u, v], axis=-1)) @ T_map_cam[:3, :3].T
    p = T_map_cam[:3, 3]
    a, b = (rays[..., :2] ** 2).sum(-1), (rays[..., :2] * p[:2]).sum(-1)
    depth = (-b + np.sqrt(b * b - a * ((p[:2] ** 2).sum() - WALL_M**2))) / a
    hit = p + rays * depth[..., None]
    azimuth, height = np.arctan2(hit[..., 1], hit[..., 0])[..., None], hit[..., 2][..., None]
    rng = np.random.default_rng(7)
    waves = 24
    k, m = rng.integers(-24, 25, waves), rng.uniform(-1.5, 1.5, waves)
    shine = np.cos(azimuth * k + height * m + rng.uniform(0, 6.28, waves))
    return np.clip(128 + 30 * shine @ rng.normal(0, 1, (waves, 3)) / 2, 0, 255).astype(np.uint8)


def lap(count: int = 16, phase: float = 0.0) -> np.ndarray:
    """``T_map_cam`` of the first frames of a lap, half a metre apart; a phase of 0.02 lies between the frames."""
    return tiny_drive.circle(160, phase=phase)[:count]


def wall(references: np.ndarray, points: int = 2000, seed: int = 0, camera: CameraModel = CAMERA) -> Sparse:
    """Points of the wall, each observed where it is in the image."""
    rng = np.random.default_rng(seed)
    angle, z = rng.uniform(-np.pi, np.pi, points), rng.uniform(-4.0, 7.0, points)
    return observed(
        np.stack([WALL_M * np.cos(angle), WALL_M * np.sin(angle), z], axis=1), references, camera, far_m=30.0
    )


def reference_features(made: PixLocModel, sparse: Sparse, scales, camera: CameraModel = CAMERA):
    """``features(scene, r)`` as builders extract them."""
    fit = preprocess()

    @torch.inference_mode()
    def features(scene, reference):
        pyramid = extract_pyramid(made.network, fit.apply(image(sparse.T_map_cam[reference], camera))[None], scales)
        part = slice(int(sparse.offsets[reference]), int(sparse.offsets[reference + 1]))
        return sample_observations(pyramid, sparse.pixels[part], CAMERA.width, CAMERA.height)

    return features


def wall_map(path, references=None, settings=None, made=None, sparse=None, pixloc=None, optimizer=None, **more):
    """A map of the wall that can be localized in."""
    made = made or model()
    sparse = sparse or wall(lap() if references is None else references)
    settings = settings or MapSettings(pyramid=(0.5, 1.0), tile_mb=0.2)
    sections = {
        "network": settings_to_mapping(NETWORK),
        "optimizer": {"damping": "constant", "damping_constant": 1e-2, **(optimizer or {})},
        "pixloc": {"precision": "float32", "max_points": 400, **(pixloc or {})},
    }
    return write_pixloc_map(
        path, made, made.dimensions, {"map": sparse}, reference_features(made, sparse, settings.pyramid), CAMERA,
        preprocess(), settings, sections={**sections, **more.pop("sections", {})}, **more,
    )  # fmt: skip


def lap_map(path, count: int = 40):
    """A map of :func:`tiny_drive.drive`: the images of its frames are found exactly, those between them roughly."""
    made, camera = model(), tiny_drive.CAMERA
    rng = np.random.default_rng(0)
    angle, z = rng.uniform(-np.pi, np.pi, 2000), rng.uniform(-6.0, 10.0, 2000)
    points = np.stack([30.0 * np.cos(angle), 30.0 * np.sin(angle), z], axis=1)
    sparse = observed(points, tiny_drive.circle(count), camera, far_m=80.0)
    fit = tiny_drive.preprocess()

    @torch.inference_mode()
    def features(scene, reference):
        picture = tiny_drive.picture(sparse.T_map_cam[reference])
        pyramid = extract_pyramid(made.network, fit.apply(picture)[None], (1.0,))
        part = slice(int(sparse.offsets[reference]), int(sparse.offsets[reference + 1]))
        return sample_observations(pyramid, sparse.pixels[part], camera.width, camera.height)

    sections = {
        "network": settings_to_mapping(NETWORK),
        "optimizer": {"damping": "constant", "damping_constant": 1e-2},
        "pixloc": {"precision": "float32", "references": 1, "localized_sigma_m": 3.0, "lost_sigma_m": 10.0},
    }
    return write_pixloc_map(
        path, made, made.dimensions, {"map": sparse}, features, camera, fit, MapSettings(pyramid=(1.0,)),
        sections=sections,
    )  # fmt: skip
