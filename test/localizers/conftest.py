from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from vloc_ros.localizers import base as registry
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.maps import MapBundle, MapManifest, Scene, expect, write_map
from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import CameraModel, Estimate, LocalizationState, Query


@dataclass(frozen=True)
class FakeSettings:
    """Of the fake.

    :param score: what it always says.
    """

    score: float = 0.9


class FakeLocalizer(Localizer):
    """Says the pose that its map holds."""

    backend: ClassVar[str] = "fake"

    def __init__(self, bundle: MapBundle, device: torch.device, settings: FakeSettings) -> None:
        super().__init__(bundle, device)
        self._settings = settings
        self.closed = False
        pose = expect(bundle.tensors("pose.safetensors"), "T_map_cam", (4, 4), torch.float64)
        self._pose = pose.numpy()

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> FakeLocalizer:
        merged = {**bundle.manifest.settings, **(settings or {})}
        return cls(bundle, device, settings_from_mapping(FakeSettings, merged, "fake"))

    @property
    def settings(self) -> FakeSettings:
        return self._settings

    def localize(self, query: Query) -> Estimate:
        check_query(query)
        self.check_camera(query.camera)
        return Estimate(
            query.stamp_ns,
            self._pose,
            np.eye(6) * 0.01,
            self._settings.score,
            LocalizationState.LOCALIZED,
            self.backend,
            self.map_id,
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    # By module and class, as the table has them: the class is found in this file under a stand-in module.
    import sys
    import types

    module = types.ModuleType("fake_localizer_module")
    module.FakeLocalizer = FakeLocalizer  # type: ignore[attr-defined]
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
