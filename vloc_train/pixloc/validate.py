"""What a trained network can do: pairs that training did not see, localized from random priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_train.pixloc.data import Batch, KeyedPairs, Place
from vloc_train.pixloc.losses import reprojection_errors
from vloc_train.pixloc.module import PixLocModule
from vloc_train.pixloc.settings import PriorSettings, TrainSettings

__all__ = ["Trial", "pose_errors", "summary", "try_pairs"]

#: Errors that count as success, metres and degrees: the finest of every table, a coarse one, and what `vloc` prints.
_THRESHOLDS = ((0.05, 0.2), (0.25, 2.0), (2.0, 5.0))


def pose_errors(T: Tensor, T_true: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of the camera centres (E,) in metres, and angle (E,) in degrees; (E, 4, 4) world to camera."""
    T, T_true = T.double(), T_true.double()
    centre, true = (-(X[:, :3, :3].mT @ X[:, :3, 3:])[..., 0] for X in (T, T_true))
    R = T[:, :3, :3] @ T_true[:, :3, :3].mT
    # From both the trace and the skew part: an arc cosine alone is blind below a hundredth of a degree.
    skew = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1)
    angle = torch.atan2(skew.norm(dim=-1), R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1.0)
    return (centre - true).norm(dim=-1), torch.rad2deg(angle)


@dataclass(frozen=True)
class Trial:
    """Errors of E localizations (E,): at the start ``start_m``, ``start_deg`` and ``start_px``, and at the end ``m``,
    ``deg`` and ``px``; pixels are the mean distance of the points from where they belong."""

    start_m: npt.NDArray[np.float64]
    start_deg: npt.NDArray[np.float64]
    start_px: npt.NDArray[np.float64]
    m: npt.NDArray[np.float64]
    deg: npt.NDArray[np.float64]
    px: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.m)

    def share(self, metres: float, degrees: float) -> float:
        """Share of all localizations that end within this."""
        return float(((self.m <= metres) & (self.deg <= degrees)).mean())


@torch.no_grad()
def try_pairs(
    model: PixLocModel,
    place: Place,
    settings: TrainSettings,
    preprocess: Preprocess,
    device: torch.device,
    prior: PriorSettings | None = None,
    seed: int | None = None,
) -> Trial:
    """Localize anchors by one partner each, at full scale and without augmentation.

    A place in use has several references and an image pyramid; so this is a lower bound.

    :param prior: where to begin; default: noise of the size that the settings train with.
    """
    plain = replace(settings.augment, photometric=0.0, blur=0.0, erase=0.0)
    prior = prior or replace(settings.prior, kind="noise")
    seed = settings.seed + 1 if seed is None else seed
    tried = replace(
        settings, augment=plain, prior=prior, both_ways=False, scales=(1.0,), seed=seed,
        train_iterations=settings.optimizer.iterations, weight_average=0.0,
    )  # fmt: skip
    pairs = KeyedPairs([place], tried)
    was_training = model.training
    module = PixLocModule(tried, pairs, preprocess, model).to(device).eval()
    count = min(len(place.pairs), settings.validation_pairs)
    numbers = np.unique(np.linspace(0, len(place.pairs) - 1, count).astype(np.int64)).tolist()
    found: list[tuple[Tensor, ...]] = []
    errors: list[tuple[Tensor, ...]] = []
    for start in range(0, len(numbers), settings.batch_size):
        rows = [pairs[(0, 0, 0, number)] for number in numbers[start : start + settings.batch_size]]
        batch = on_device(pairs.collate(rows), device)
        _, poses, examples = module.losses(batch)
        camera = TorchCamera.from_model(pairs.camera(0), device)
        for T in (examples.T_start, poses[-1].float()):
            pixels, valid = reprojection_errors(T, examples.T_true, examples.points, examples.mask, camera)
            mean = (pixels * valid).sum(-1) / valid.sum(-1).clamp_min(1)
            errors.append((*pose_errors(T, examples.T_true), mean))
        found.append((*errors[-2], *errors[-1]))
    model.train(was_training)
    return Trial(*(torch.cat(list(part)).cpu().numpy() for part in zip(*found, strict=True)))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    moved: dict[str, Any] = {k: v.to(device) for k, v in vars(batch).items() if isinstance(v, Tensor)}
    return replace(batch, **moved)


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """The figures that a map's manifest holds."""
    names = ("start_m", "start_deg", "start_px", "m", "deg", "px")
    joined = Trial(*(np.concatenate([getattr(trial, name) for trial in trials]) for name in names))
    shares = {f"recall_{m:g}m_{deg:g}deg": round(joined.share(m, deg), 4) for m, deg in _THRESHOLDS}
    return {
        "frames": len(joined),
        "median_translation_m": float(np.median(joined.m)),
        "median_rotation_deg": float(np.median(joined.deg)),
        "start_median_translation_m": float(np.median(joined.start_m)),
        "start_median_rotation_deg": float(np.median(joined.start_deg)),
        **shares,
    }
