"""A drive round a painted cylinder: images that follow exactly from poses, in microseconds, for tests of ImPosing."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from vloc_ros.datasets.sequence import R_BODY_OPTICAL, PosedSequence
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.maps.checksums import file_entry
from vloc_ros.maps.schema import MANIFEST_NAME
from vloc_ros.types import CameraModel
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.frames import FrameSet

WIDTH, HEIGHT = 64, 36
CAMERA = CameraModel(WIDTH, HEIGHT, 42.0, 42.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
START = 1_700_000_000_000_000_000


def circle(count: int, radius: float = 12.0, phase: float = 0.0, centre: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """``T_map_cam`` (count, 4, 4) of a camera driving counter-clockwise, looking ahead, 1.5 m high."""
    angle = phase + 2 * np.pi * np.arange(count) / count
    T = np.tile(np.eye(4), (count, 1, 1))
    c, s, heading = np.cos(angle), np.sin(angle), angle + np.pi / 2
    T[:, 0, 3], T[:, 1, 3], T[:, 2, 3] = centre[0] + radius * c, centre[1] + radius * s, 1.5
    yaw = np.tile(np.eye(3), (count, 1, 1))
    yaw[:, 0, 0], yaw[:, 0, 1] = np.cos(heading), -np.sin(heading)
    yaw[:, 1, 0], yaw[:, 1, 1] = np.sin(heading), np.cos(heading)
    T[:, :3, :3] = yaw @ R_BODY_OPTICAL
    return T


def picture(T_map_cam: np.ndarray, camera: CameraModel = CAMERA, wall_m: float = 30.0, paint: int = 0) -> np.ndarray:
    """What a camera inside a cylinder of radius ``wall_m`` sees of its painted wall: (H, W, 3) uint8."""
    rng = np.random.default_rng(paint)
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    rays = rays @ T_map_cam[:3, :3].T
    p = T_map_cam[:3, 3]
    a, b = (rays[..., :2] ** 2).sum(-1), (rays[..., :2] * p[:2]).sum(-1)
    depth = (-b + np.sqrt(b * b - a * ((p[:2] ** 2).sum() - wall_m**2))) / a
    hit = p + rays * depth[..., None]
    azimuth, height = np.arctan2(hit[..., 1], hit[..., 0]), hit[..., 2]
    out = np.zeros((*azimuth.shape, 3))
    for k in range(1, 12):
        phase, amplitude = rng.uniform(0, 6.28, 3), rng.normal(0, 1, 3)
        out += amplitude * np.cos(k * azimuth[..., None] + 0.1 * k * height[..., None] + phase)
    return np.clip(128 + 25 * out, 0, 255).astype(np.uint8)


class Pictures:
    """The images of some poses, drawn when they are asked for."""

    def __init__(self, T_map_cam: np.ndarray, paint: int = 0, camera: CameraModel = CAMERA) -> None:
        self.poses, self.paint, self.camera = T_map_cam, paint, camera

    def image(self, index: int) -> np.ndarray:
        return picture(self.poses[index], self.camera, paint=self.paint)

    def frames(self):
        return ((i, self.image(i)) for i in range(len(self.poses)))


def drive(count: int = 40, name: str = "lap", phase: float = 0.0, paint: int = 0) -> PosedSequence:
    """One lap as a sequence."""
    poses = circle(count, phase=phase)
    stamps = START + np.arange(count, dtype=np.int64) * 100_000_000
    return PosedSequence(name, stamps, poses, np.eye(4), CAMERA, Pictures(poses, paint))


def frames(count: int = 40, scene: str = "map", phase: float = 0.0, paint: int = 0) -> FrameSet:
    """One lap as preprocessed frames."""
    lap = drive(count, phase=phase, paint=paint)
    images = np.stack([image for _, image in lap.frames()])
    return FrameSet(images, lap.T_map_cam, lap.stamps_ns, CAMERA, scene)


def settings(**changes: Any) -> TrainSettings:
    """A trainer small enough for seconds. ``search`` and ``network`` fields by dictionaries of changes."""
    network = {
        "backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 32, 64]}, "pooling": "grid",
        "pool_grid": (1, 2), "embed_dim": 32, "hidden": 32, "position_octaves": 5, "rotation_octaves": 3,
        "rotation_input": "matrix",
    }  # fmt: skip
    network.update(changes.pop("network", {}))
    search = {"candidates": 48, "refinements": 3, "components": 12, "averaged": 16, "precision": "float32"}
    search.update(changes.pop("search", {}))
    base: dict[str, Any] = {
        "image_width": WIDTH, "image_height": HEIGHT, "epochs": 3, "batch_size": 8, "learning_rate": 2e-3,
        "train_candidates": 16, "train_initial": 32, "precision": "float32", "validate_every": 2,
        "validation_frames": 4, "augment": AugmentSettings(),
    }  # fmt: skip
    return TrainSettings(network=NetworkSettings(**network), search=SearchSettings(**search), **{**base, **changes})


def preprocess() -> Preprocess:
    """Of the images of :func:`drive`."""
    return Preprocess(WIDTH, HEIGHT)


def network(made: TrainSettings, scenes: Sequence[FrameSet], seed: int = 0) -> ImPosingNetwork:
    """Random weights, fitted to the scenes' areas."""
    torch.manual_seed(seed)
    out = ImPosingNetwork(made.network, len(scenes))
    for index, scene in enumerate(scenes):
        positions = torch.from_numpy(scene.T_map_cam[:, :3, 3]).float()
        out.pose_encoder(index).set_area(positions.amin(dim=0), positions.amax(dim=0))
    return out.eval()


def learnable(**changes: Any) -> TrainSettings:
    """Settings that learn one lap of :func:`drive` to about a metre in some seconds."""
    base: dict[str, Any] = {
        "epochs": 50, "batch_size": 20, "width_m": 8.0, "width_deg": 40.0, "learning_rate": 3e-3, "schedule": "cosine",
        "weight_average": 0.97, "train_candidates": 32, "train_initial": 64, "reference_vectors": True,
        "augment": AugmentSettings(photometric=0.2, blur=0.0, erase=0.0, rotate_deg=(0.0, 1.0, 0.0)),
        "network": {"embed_dim": 64, "hidden": 64},
        "search": {"candidates": 128, "noise_translation_m": (3.0, 3.0, 0.2)},
    }  # fmt: skip
    return settings(**{**base, **changes})


@functools.cache
def trained_map() -> Path:
    """A calibrated map of one lap, trained once in a test run; its training log lies in ``map.work/log``."""
    from vloc_train.imposing.train import TRAINER
    from vloc_train.training.run import RunOptions

    folder = Path(tempfile.mkdtemp(prefix="vloc-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    TRAINER.run(
        {"map": [drive(40)]},
        folder / "map",
        learnable(),
        RunOptions(device="cpu", progress=False),
        {"map": [drive(30, name="calibration", phase=0.05)]},
    )
    return folder / "map"


def rewritten(source: Path, target: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a map with other tensors in ``file``, its size and checksum in the manifest set right again."""
    shutil.copytree(source, target)
    tensors = load_safetensors((target / file).read_bytes())
    change(tensors)
    content = save_safetensors({k: v.contiguous() for k, v in tensors.items()})
    (target / file).write_bytes(content)
    entry = file_entry(file, content)

    def fix(manifest: dict[str, Any]) -> None:
        for listed in manifest["files"]:
            if listed["name"] == file:
                listed.update(bytes=entry.bytes, sha256=entry.sha256)

    return edited(target, fix)


def edited(target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change a map's manifest in place."""
    manifest = yaml.safe_load((target / MANIFEST_NAME).read_text())
    change(manifest)
    (target / MANIFEST_NAME).write_text(yaml.safe_dump(manifest))
    return target
