"""A backend of one's own in a page: the mean colour of an image names the most similar frame of the map.

    python examples/own_backend.py DRIVE

The map is written, checked and read as every other. A package makes such a backend known to replay and the node by
an entry point, and gives it a trainer: docs/own_backend.md.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.localizers.device import Clock
from vloc_ros.maps import MapBundle, MapManifest, Scene, expect, read_map, write_map
from vloc_ros.settings import ranged
from vloc_ros.types import LocalizationState, Query

FILE = "colours.safetensors"


@dataclass(frozen=True)
class ColourSettings:
    """:param sigma_m: claimed standard deviation of the position."""

    sigma_m: float = ranged(5.0, minimum=0.01)


class ColourLocalizer(Localizer):
    backend: ClassVar[str] = "colour"
    settings_class = ColourSettings

    def load(self, bundle: MapBundle) -> None:
        tensors = bundle.tensors(FILE)  # checksums, shapes and finiteness are checked here
        self._poses = expect(tensors, "poses", (None, 4, 4), torch.float64).numpy()
        self._colours = expect(tensors, "colours", (len(self._poses), 3), torch.float32)

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        distances = (self._colours - colour(query.image_rgb)).norm(dim=1)
        best = int(distances.argmin())
        clock.lap("search")
        covariance = np.diag([self.settings.sigma_m**2] * 3 + [0.1**2] * 3)
        # Nothing here is evidence that the pose is right: such a frame is DEGRADED, never LOCALIZED.
        state = LocalizationState.DEGRADED
        return Hypothesis("map", self._poses[best], 0.5, covariance=covariance, state=state)


def colour(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.reshape(-1, 3).mean(axis=0).astype(np.float32) / 255)


def main(drive: Path) -> vloc_ros.Estimate:
    sequence = open_sequence(drive)
    positions = sequence.T_map_cam[:, :3, 3]
    low, high = (tuple(map(float, f(axis=0))) for f in (positions.min, positions.max))
    manifest = MapManifest(
        backend="colour",
        scenes=(Scene("map", sequence.frame_id, low, high),),
        camera=sequence.camera,
        preprocessing=Preprocess(sequence.camera.width, sequence.camera.height).settings(),
    )
    tensors = {
        "colours": torch.stack([colour(image) for _, image in sequence.frames()]),
        "poses": torch.from_numpy(sequence.T_map_cam.copy()),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_map(Path(folder) / "map", manifest, {FILE: tensors})
        with ColourLocalizer.from_map(read_map(Path(folder) / "map"), torch.device("cpu")) as localizer:
            query = vloc_ros.Query(sequence.image(3), sequence.camera, int(sequence.stamps_ns[3]))
            estimate = localizer.localize(query)
    error = np.linalg.norm(estimate.T_map_cam[:3, 3] - sequence.T_map_cam[3, :3, 3])
    print(f"{estimate.state.value}: {error:.2f} m off")
    return estimate


if __name__ == "__main__":
    main(Path(sys.argv[1]))
