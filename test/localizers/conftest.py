from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from vloc_ros.localizers import base as registry
from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.localizers.device import Clock
from vloc_ros.maps import MapBundle, MapManifest, Scene, expect, write_map
from vloc_ros.types import CameraModel, LocalizationState, Query


@dataclass(frozen=True)
class FakeSettings:
    """Of the fake.

    :param score: what it always says.
    """

    score: float = 0.9


class FakeLocalizer(Localizer):
    """Says the pose that its map holds."""

    backend: ClassVar[str] = "fake"
    settings_class = FakeSettings

    def load(self, bundle: MapBundle) -> None:
        pose = expect(bundle.tensors("pose.safetensors"), "T_map_cam", (4, 4), torch.float64)
        self._pose = pose.numpy()

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        state = LocalizationState.LOCALIZED
        return Hypothesis("place", self._pose, self.settings.score, covariance=np.eye(6) * 0.01, state=state)


@pytest.fixture
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    # By module and class, as the table has them: the class is found in this file under a stand-in module.
    import sys
    import types

    module = types.ModuleType("fake_localizer_module")
    module.FakeLocalizer = FakeLocalizer  # type: ignore[attr-defined]
    module.VLOC_ROS_API = 1  # type: ignore[attr-defined]
    module.NotALocalizer = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_localizer_module", module)
    monkeypatch.setitem(registry.BUILT_IN, "fake", "fake_localizer_module:FakeLocalizer")


@pytest.fixture
def make_map(tmp_path: Path) -> Callable[..., Path]:
    def make(backend: str = "fake", **changes: Any) -> Path:
        manifest = MapManifest(
            backend=backend,
            scenes=(Scene("place", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),),
            camera=CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5),
            preprocessing={"width": 64, "height": 48},
            **changes,
        )
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = 7.0
        path = tmp_path / backend
        write_map(path, manifest, {"pose.safetensors": {"T_map_cam": pose}}, overwrite=True)
        return path

    return make
