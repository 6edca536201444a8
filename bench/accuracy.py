"""Is ImPosing's default path as accurate as the float32 transcription? Paired on the same frames and seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.setup import BenchSetup
from vloc_ros.datasets import open_sequence
from vloc_ros.errors import DatasetError
from vloc_ros.evaluation.comparison import compare_paired
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.imposing.search import draw
from vloc_ros.maps import read_map
from vloc_ros.types import Array

__all__ = ["compare_accuracy"]


def compare_accuracy(setup: BenchSetup, map_dir: Path, bag: Path, seeds: int = 10, frames: int = 400) -> dict[str, Any]:
    """Localize evenly chosen frames of a drive with both paths, each with the same ``seeds`` random numbers.

    :returns: medians, the bootstrap's upper bounds of what the default path loses, and what is allowed
        (:func:`vloc_ros.evaluation.comparison.compare_paired`), for translation and rotation.
    :raises DatasetError: the drive has no frames with poses.
    """
    drive = open_sequence(bag)
    if not len(drive):
        raise DatasetError(f"{bag}: expected frames with reference poses, found none")
    preprocess = Preprocess.from_settings(read_map(map_dir).manifest.preprocessing)
    rectifier = Rectifier(drive.camera)
    chosen = np.unique(np.linspace(0, len(drive) - 1, min(frames, len(drive))).round().astype(np.int64))
    errors: dict[str, list[Array]] = {"default": [], "transcription": []}
    with torch.inference_mode():
        for index in chosen:
            image = preprocess.apply(rectifier.rectify(drive.image(int(index)))[0])[None].to(setup.device)
            T = drive.T_map_cam[index]
            truth = torch.from_numpy(np.concatenate((T[:3, 3], matrix_to_quaternion(T[:3, :3])))).to(setup.device)
            fast, full = setup.encode_default(image), setup.encode_full(image)
            rows = {"default": [], "transcription": []}  # type: dict[str, list[Array]]
            for seed in range(seeds):
                draws = draw(setup.settings, 1000 * int(index) + seed, setup.device, torch.float32)
                rows["default"].append(_error(setup.search_default(fast, draws), truth))
                rows["transcription"].append(_error(setup.search_transcribed(full, draws), truth))
            for name, values in rows.items():
                errors[name].append(np.stack(values))
    default, transcription = (np.stack(errors[n], axis=1) for n in ("default", "transcription"))  # (S, N, 2)
    out: dict[str, Any] = {"bag": bag.name, "frames": len(chosen), "seeds": seeds}
    for axis, (name, threshold) in enumerate((("translation_m", 2.0), ("rotation_deg", 5.0))):
        comparison = compare_paired(transcription[..., axis], default[..., axis], threshold)
        out[name] = {
            **dataclasses.asdict(comparison),
            "recall_within": threshold,
            "as_accurate": comparison.as_accurate,
        }
    return out


def _error(pose: Tensor, truth: Tensor) -> Array:
    """Distance (m) and angle (deg) of one pose."""
    pose = pose.to(truth)
    angle = torch.rad2deg(rotation_angle_quaternion(pose[3:] / torch.linalg.vector_norm(pose[3:]), truth[3:]))
    return torch.stack((torch.linalg.vector_norm(pose[:3] - truth[:3]), angle)).cpu().numpy().astype(np.float64)
