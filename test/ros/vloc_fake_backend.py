"""A backend for tests: the camera's pose is painted into the image, so every result can be checked exactly.

The left half of an image has one colour: red is x and green is y in decimetres, blue above 127 means a confident
estimate. The right half is noise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.types import CandidateStep, LocalizationState, Matches

#: The interface that it was made for, as a backend of another package declares it.
VLOC_ROS_API = 1

WIDTH, HEIGHT = 64, 48
_noise = np.random.default_rng(0)


def paint(x_m: float, y_m: float, confident: bool = True) -> np.ndarray:
    """The image (48, 64, 3) uint8 of a camera at (x, y), multiples of 0.1 m in [0, 25.5]; never the same twice."""
    image = _noise.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:, : WIDTH // 2] = (round(10 * x_m), round(10 * y_m), 220 if confident else 20)
    return image


@dataclass(frozen=True)
class FakeSettings:
    """Of the fake.

    :param delay_s: of every frame.
    :param broken: fail to warm up.
    """

    delay_s: float = 0.0
    broken: bool = False


class FakeLocalizer(Localizer):
    """See the module's text. Setting ``delay_s`` makes it slow, ``broken`` makes warming up fail."""

    backend = "fake"
    sees_points = True
    settings_class = FakeSettings
    offers_candidates = True

    def load(self, bundle):
        bundle.tensors("weights.safetensors")

    def warm_up(self):
        if self.settings.broken:
            raise RuntimeError("broken on purpose")

    def map_points(self, scene=None):
        return np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

    def find(self, query, clock, keep_candidates):
        time.sleep(self.settings.delay_s)
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
        clock.lap("search")
        return Hypothesis(
            self.manifest.scenes[0].name,
            T,
            0.9 if confident else 0.05,
            covariance=np.diag([0.01, 0.01, 0.01, 1e-4, 1e-4, 1e-4]),
            state=LocalizationState.LOCALIZED if confident else LocalizationState.LOST,
            candidates=(step,) if keep_candidates else (),
            matches=Matches(self.map_points(), np.array([[7.0, 8.0], [9.0, 10.0]]), np.array([True, False])),
        )
