"""bench/camera_faults.py in a world that a localizer without a map knows: a wall that the camera passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from bench.camera_faults import CARRIED, FAULTS, FINE, PICTURES, STEPS, Drive, run
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.localizers.base import Localizer
from vloc_ros.pipeline import Pipeline
from vloc_ros.types import CameraModel, Estimate, LocalizationState, Query

CAMERA = CameraModel(160, 120, 125.0, 125.0, 79.5, 59.5)
SPEED_MPS, PIXELS_A_METRE = 5.0, 20
WALL = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(120, 3000)), (0, 0), 4.0)
WALL = np.clip(128 + 60 * WALL / WALL.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
SMALL = cv2.resize(WALL, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)


class Wall(Localizer):
    """Finds where on the wall a picture was taken, whenever that was; sure of it where it looks like the wall."""

    backend = "wall"

    def __init__(self) -> None:
        manifest = SimpleNamespace(preprocessing={"width": 160, "height": 120}, camera=CAMERA, backend="wall")
        self._manifest, self._map_id, self._device = cast(Any, manifest), "abc", torch.device("cpu")

    def find(self, query: Query, clock: Any, keep_candidates: bool) -> Any:
        raise NotImplementedError

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        small = cv2.resize(query.image_rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        found = cv2.matchTemplate(SMALL, small, cv2.TM_CCOEFF_NORMED)[0]
        state = LocalizationState.LOCALIZED if found.max() > 0.8 else LocalizationState.LOST
        T = make_transform(np.eye(3), [4.0 * float(found.argmax()) / PIXELS_A_METRE, 0.0, 0.0])
        P = np.diag([0.09, 0.09, 0.09, 1e-4, 1e-4, 1e-4])
        return Estimate(query.stamp_ns, T, P, float(found.max()), state, "wall", "abc")


def drive(rate_hz: float) -> Drive:
    x = np.arange(round(14 * rate_hz) + CARRIED + 1) * SPEED_MPS / rate_hz
    truth = np.stack([make_transform(np.eye(3), [v, 0.0, 0.0]) for v in x])

    def picture(k: int) -> np.ndarray:
        return np.ascontiguousarray(WALL[:, round(x[k] * PIXELS_A_METRE) :][:, :160])

    return Drive(picture, truth, truth, CAMERA, np.eye(4), rate_hz)


@pytest.mark.parametrize("odometry", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_makes_a_wrong_pose(fault, odometry):
    found = run(drive(30.0 if fault in FINE else 10.0), fault, Pipeline(Wall()), odometry)
    assert found.wrong == 0 and found.largest_m < 2.0
    assert found.localized > 40, "silence is no success"
    if fault == "stands":
        assert found.lost_s is None and found.named_s is None and found.silent_s > 3.8
    elif fault in PICTURES and fault != "every picture twice":
        assert found.named_s <= 2.5 and (found.silent_s is None or found.silent_s <= 0.5)
        assert found.lost_s <= 3.5
        assert found.recovered_s <= 1.0
    if fault.startswith(("frozen", "the last four")):
        assert found.named_s <= 1.0, "a stuck camera is named within a second"
    if fault == "every picture twice":
        assert found.lost_s is None and found.named_s is None
    if fault in STEPS or fault == "carried away":
        assert found.recovered_s <= 1.5
