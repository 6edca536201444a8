"""The finished map on the frames that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.se3 import nees, pose_error
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Localizer
from vloc_ros.types import Array, LocalizationState, Query
from vloc_train.training.calibration import simulated_prior
from vloc_train.training.frames import cache_frames

__all__ = ["HeldOutFrames", "localize_held_out"]


@dataclass(frozen=True)
class HeldOutFrames:
    """H held-out frames of one drive, localized with the finished map: ``error_m``, ``error_deg``, predicted
    ``sigma_m`` (largest axis; NaN without calibration), ``nees``, ``state`` as it is on a vehicle whose track agrees,
    and where they are.
    """

    sequence: PosedSequence
    error_m: Array
    error_deg: Array
    sigma_m: Array
    nees: Array
    state: tuple[LocalizationState, ...]
    along_m: Array

    @property
    def positions(self) -> Array:
        """(H, 3) of the base."""
        return self.sequence.T_map_base[:, :3, 3]


def localize_held_out(
    localizer: Localizer, held_out: Sequence[PosedSequence], scene: str, work: Path, routes: dict[str, Array]
) -> list[HeldOutFrames]:
    """Localize the held-out frames as the vehicle will, each for itself.

    :param work: where images are cached. :param routes: (N, 3) positions of the base by a drive's name,
        to tell the metres.
    """
    preprocess = Preprocess.from_settings(localizer.manifest.preprocessing)
    out = []
    rng = np.random.default_rng(0)
    for sequence in held_out:
        frames = cache_frames([sequence], preprocess, work, scene)
        errors, sigma, chi, states = [], [], [], []
        for index, truth in enumerate(frames.T_map_cam):
            start = simulated_prior(truth, rng, localizer.simulated_prior) if localizer.needs_prior else None
            query = Query(np.array(frames.images[index]), frames.camera, int(frames.stamps_ns[index]), start, scene)
            estimate = localizer.localize(query)
            error = pose_error(estimate.T_map_cam, truth)
            errors.append(error)
            states.append(estimate.claimed)
            known = "position_sigma_m" in estimate.diagnostics
            largest = float(np.linalg.eigvalsh(estimate.covariance[:3, :3])[-1])
            sigma.append(largest**0.5 if known else np.nan)
            chi.append(float(nees(error, estimate.covariance)) if known else np.nan)
        found = np.asarray(errors).reshape(-1, 6)
        route = routes.get(sequence.name.removesuffix(" (held out)"), sequence.T_map_base[:, :3, 3])
        out.append(
            HeldOutFrames(
                sequence,
                np.linalg.norm(found[:, :3], axis=1),
                np.degrees(np.linalg.norm(found[:, 3:], axis=1)),
                np.asarray(sigma),
                np.asarray(chi),
                tuple(states),
                _along(route, sequence.T_map_base[:, :3, 3]),
            )
        )
    return out


def _along(route: Array, positions: Array) -> Array:
    """Metres along a route (N, 3) of positions that lie on it, in order."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))])
    out, start = [], 0
    for p in positions:
        start += int(np.linalg.norm(route[start:] - p, axis=1).argmin()) if start < len(route) else 0
        out.append(float(along[min(start, len(along) - 1)]))
    return np.asarray(out)
