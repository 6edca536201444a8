"""A backend for tests: the camera's pose is painted into the image, so every result can be checked exactly.

The left half of an image has one colour: red is x and green is y in decimetres, blue above 127 means a confident
estimate. The right half is noise.
"""

from __future__ import annotations

import time

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.types import CandidateStep, Estimate, LocalizationState

WIDTH, HEIGHT = 64, 48


def paint(x_m: float, y_m: float, confident: bool = True) -> np.ndarray:
    """The image (48, 64, 3) uint8 of a camera at (x, y), multiples of 0.1 m in [0, 25.5]."""
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:, : WIDTH // 2] = (round(10 * x_m), round(10 * y_m), 220 if confident else 20)
    return image


class FakeLocalizer(Localizer):
    """See the module's text. Setting ``delay_s`` makes it slow, ``broken`` makes warming up fail."""

    backend = "fake"

    @classmethod
    def from_map(cls, bundle, device, settings=None):
        made = cls(bundle, device)
        made._settings = {"delay_s": 0.0, "broken": False, **bundle.manifest.settings, **(settings or {})}
        unknown = set(made._settings) - {"delay_s", "broken"}
        if unknown:
            raise ConfigError(f"fake: unknown settings {sorted(unknown)}")
        bundle.tensors("weights.safetensors")
        return made

    @property
    def settings(self):
        return self._settings

    def warm_up(self):
        if self._settings["broken"]:
            raise RuntimeError("broken on purpose")

    def localize(self, query):
        check_query(query)
        if self._settings["delay_s"]:
            time.sleep(self._settings["delay_s"])
        width = query.image_rgb.shape[1]
        red, green, blue = query.image_rgb[:, : width // 2 - width // 16].reshape(-1, 3).mean(axis=0)
        T = np.eye(4)
        # Optical axes (x right, y down, z forward) of a camera that looks along the map's x axis.
        T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        T[:3, 3] = red / 10, green / 10, 1.5
        confident = blue > 127
        candidates = np.tile(T, (5, 1, 1))
        candidates[:, 0, 3] += np.linspace(0.0, 0.4, 5)
        step = CandidateStep(candidates, np.linspace(1.0, 0.2, 5), np.array([0, 1]))
        return Estimate(
            stamp_ns=query.stamp_ns,
            T_map_cam=T,
            covariance=np.diag([0.01, 0.01, 0.01, 1e-4, 1e-4, 1e-4]),
            score=0.9 if confident else 0.05,
            state=LocalizationState.LOCALIZED if confident else LocalizationState.LOST,
            backend=self.backend,
            map_id=self.map_id,
            scene=self.manifest.scenes[0].name,
            candidates=(step,),
            timings_ms={"search": 1.0},
        )
