"""A tiny drive in a bag, a map that holds nothing, and a localizer that knows the truth and errs as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.maps import MapManifest, write_map
from vloc_ros.maps.schema import Scene
from vloc_ros.types import CameraModel, CandidateStep, LocalizationState

CAMERA = CameraModel(32, 18, 20.0, 20.0, 15.5, 8.5)
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


class Noise:
    """Random images; frame ``black`` (if any) is black."""

    def __init__(self, count: int, black: int | None = None) -> None:
        self.count, self.black = count, black

    def image(self, index: int):
        image = np.random.default_rng(index).integers(0, 255, (18, 32, 3), dtype=np.uint8)
        return image * 0 if index == self.black else image

    def frames(self):
        return ((i, self.image(i)) for i in range(self.count))


def drive(count: int = 40, black: int | None = None) -> PosedSequence:
    """Half a circle of 10 m radius at 10 Hz; the camera half a metre ahead of and 1.2 m above the base."""
    T_base_cam = T_BODY_OPTICAL.copy()
    T_base_cam[:3, 3] = 0.5, 0.0, 1.2
    T_map_base = np.tile(np.eye(4), (count, 1, 1))
    for i, angle in enumerate(np.linspace(0, np.pi, count)):
        T_map_base[i, :3, :3] = so3_exp(np.array([0.0, 0.0, angle + np.pi / 2]))
        T_map_base[i, :3, 3] = 10 * np.cos(angle), 10 * np.sin(angle), 0.0
    stamps = START + np.arange(count, dtype=np.int64) * (SECOND // 10)
    T_odom_base = np.linalg.inv(T_map_base[0]) @ T_map_base
    return PosedSequence("drive", stamps, T_map_base @ T_base_cam, T_base_cam, CAMERA, Noise(count, black), T_odom_base)


class KnowingLocalizer(Localizer):
    """Answers with the true pose and an error drawn from the covariance it states; ``lost`` stamps are improbable."""

    backend = "knowing"
    sees_points = True
    offers_candidates = True

    def __init__(self, bundle, sequence: PosedSequence, lost=()) -> None:
        super().__init__(bundle, torch.device("cpu"))
        self.truth = dict(zip(sequence.stamps_ns.tolist(), sequence.T_map_cam, strict=True))
        self.lost = set(lost)

    def find(self, query, clock, keep_candidates) -> Hypothesis:
        random = np.random.default_rng(query.stamp_ns % 2**32)
        T = self.truth.get(query.stamp_ns, np.eye(4))
        sigma = random.uniform(0.05, 0.3)
        deviations = np.array([sigma] * 3 + [0.01] * 3)
        e = random.normal(size=6) * deviations
        estimate = T.copy()
        estimate[:3, 3] += e[:3]
        estimate[:3, :3] = so3_exp(e[3:]) @ T[:3, :3]
        spreads = (10.0, 3.0, 1.0, 0.3) if keep_candidates else ()
        steps = tuple(
            CandidateStep(
                T @ se3_exp(random.normal(size=(60, 6)) * np.array([spread] * 3 + [0.05] * 3)),
                random.uniform(size=60),
                np.arange(8),
            )
            for spread in spreads
        )
        state = LocalizationState.LOST if query.stamp_ns in self.lost else LocalizationState.LOCALIZED
        clock.lap("search")
        return Hypothesis(
            "drive", estimate, 0.9, covariance=np.diag(deviations**2), state=state, candidates=steps,
            diagnostics={"nearest_reference": float((query.stamp_ns - START) // (SECOND // 10) // 4)},
        )  # fmt: skip


@pytest.fixture(scope="session")
def make_drive():
    return drive


@pytest.fixture(scope="session")
def knowing():
    return KnowingLocalizer


@pytest.fixture(scope="session")
def drive_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequence(drive(), tmp_path_factory.mktemp("drive") / "drive")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    sequence = drive()
    position = sequence.T_map_cam[:, :3, 3]
    scene = Scene("drive", "map", tuple(position.min(0).tolist()), tuple(position.max(0).tolist()))
    camera = replace(CAMERA)
    # The map saw every fourth place, from 0.25 m higher.
    places = torch.from_numpy(position[::4] + np.array([0.0, 0.0, 0.25]))
    turns = torch.from_numpy(matrix_to_quaternion(sequence.T_map_cam[::4, :3, :3]))
    references = {"drive.poses": torch.cat([places, turns], dim=1).float()}
    return write_map(
        tmp_path_factory.mktemp("map") / "map",
        MapManifest("knowing", (scene,), camera),
        {"references.safetensors": references},
    )
