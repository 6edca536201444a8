"""One image against one neighbourhood of a map: features, points, first poses, and what the optimiser makes of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from vloc_ros.geometry.se3 import inverse
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.features import PyramidScale, extract_pyramid, level_cameras
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.optimizer import Level, OptimizerSettings, Refinement, refine
from vloc_ros.localizers.pixloc.store import PointBatch
from vloc_ros.localizers.pixloc.verification import peak_share
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["Aligned", "Aligner", "AlignmentResult"]

_ALL = slice(None)
#: Points are padded to a multiple of this where work is recorded.
_POINTS = 256


@dataclass(frozen=True)
class AlignmentResult:
    """The best of some alignments, on the host.

    :ivar T_map_cam: 4x4. :ivar covariance: 6x6, map axes, as the Hessian has it.
    :ivar success: see :class:`~.optimizer.Refinement`. :ivar well_posed: the same.
    :ivar cost: mean cost of the last level. :ivar score: mean agreement of the points' features there, in [0, 1].
    :ivar valid: points that counted at the last level; ``asked`` of them had features.
    :ivar settling_m: what the last level moved the pose by.
    :ivar iterations: of all levels together.
    :ivar start: which of the starting poses it came from.
    :ivar peak_share: of the points, those that look most like the map where the pose has them
        (:func:`~.verification.peak_share`); 0 where too few are seen to tell.
    """

    T_map_cam: Array
    covariance: Array
    success: bool
    well_posed: bool
    cost: float
    score: float
    valid: int
    asked: int
    settling_m: float
    iterations: int
    start: int
    peak_share: float


@dataclass(frozen=True)
class Aligned:
    """An alignment with everything that it was made of, for plots."""

    result: AlignmentResult
    refinement: Refinement
    pyramid: list[PyramidScale]
    batch: PointBatch
    camera: CameraModel
    starts: Array


class Aligner:
    """Network, damping and optimiser on one device.

    :param model: in evaluation mode, on the device; its network computes in the precision of its weights.
    :param scales: of the image pyramid, low to high, as the map has them.
    """

    def __init__(
        self,
        model: PixLocModel,
        preprocess: Preprocess,
        scales: tuple[float, ...],
        settings: OptimizerSettings,
        device: torch.device,
    ) -> None:
        self._network = model.network
        self._preprocess, self._scales, self._settings = preprocess, scales, settings
        self._device, self._recorder = device, Recorder(device)
        with torch.inference_mode():
            self._damping = model.damping().to(device)
        if settings.damping == "constant":
            self._damping = torch.full_like(self._damping, settings.damping_constant)
        self._cameras: OrderedDict[tuple[CameraModel, int, int], list[TorchCamera]] = OrderedDict()

    @torch.inference_mode()
    def encode(
        self, image_rgb: RgbImage, first_scale: int = 0, preprocess: Preprocess | None = None
    ) -> list[PyramidScale]:
        """The feature pyramid of an image, from its ``first_scale`` on.

        :param preprocess: of this image, where it is of another camera than the map's.
        """
        fitted = np.ascontiguousarray((preprocess or self._preprocess).apply_uint8(image_rgb))
        if not fitted.flags.writeable:
            fitted = fitted.copy()
        raw = torch.from_numpy(fitted).to(self._device, non_blocking=True)
        images = self._preprocess.normalize(raw.permute(2, 0, 1))[None]
        images = images.contiguous(memory_format=torch.channels_last)
        return extract_pyramid(self._network, images, self._scales[first_scale:])

    @torch.inference_mode()
    def align(
        self,
        pyramid: list[PyramidScale],
        camera: CameraModel,
        batch: PointBatch,
        starts: Array,
        scales: slice = _ALL,
        verify: bool = True,
    ) -> tuple[AlignmentResult, Refinement]:
        """Align the points of ``batch`` from every starting pose.

        :param camera: of the preprocessed image.
        :param starts: (S, 4, 4) T_map_cam.
        :param scales: which of the pyramid's.
        :param verify: also look whether the map is seen where the poses have it: ``peak_share``, else 0.
        """
        levels = self.levels(pyramid, camera, batch, scales)
        # One upload for both.
        T = np.stack([inverse(start) for start in starts])
        numbers = np.concatenate([T.ravel(), batch.points.ravel()])
        there = torch.from_numpy(numbers).to(self._device)
        poses, points = there[: T.size].view(-1, 4, 4), there[T.size :].view(1, -1, 3)
        # Coarse cells hide what is off by less than them, fine ones are noisy: the level before the last.
        looked_at, seen = levels[-2] if len(levels) > 1 else levels[-1], points
        mask = None
        if self._recorder.records:
            # Recordings are for a number of points: few of them serve all frames.
            spare = -len(batch) % _POINTS
            mask = functional.pad(torch.ones(1, len(batch), dtype=torch.bool, device=self._device), (0, spare))
            points = functional.pad(points, (0, 0, 0, spare))
            levels = [
                replace(
                    level,
                    reference=functional.pad(level.reference, (0, 0, 0, spare)),
                    confidence=None if level.confidence is None else functional.pad(level.confidence, (0, spare)),
                )
                for level in levels
            ]
        refinement = refine(
            poses, points, levels, mask=mask, settings=self._settings, recorder=self._recorder,
            also=(lambda T_cam_map: peak_share(looked_at, seen, T_cam_map)) if verify else None,
        )  # fmt: skip
        return _to_host(refinement, len(batch)), refinement

    def levels(
        self, pyramid: list[PyramidScale], camera: CameraModel, batch: PointBatch, scales: slice = _ALL
    ) -> list[Level]:
        """The levels of some scales in the order in which they are aligned."""
        out = []
        # A pyramid without its small images goes with the last scales of the map.
        own = batch.levels[len(batch.levels) - len(pyramid) :]
        for scale, stored in zip(pyramid[scales], own[scales], strict=True):
            cameras = self._level_cameras(camera, scale)
            for level, at, found, damping in zip(scale.levels, cameras, stored, self._damping, strict=True):
                field = GridField(level.features, level.confidence)
                out.append(Level(field, at, found.features[None], found.confidence[None], damping))
        return out

    def _level_cameras(self, camera: CameraModel, scale: PyramidScale) -> list[TorchCamera]:
        key = (camera, scale.width, scale.height)
        if key not in self._cameras:  # small tensors: on a GPU each is a transfer of its own
            self._cameras[key] = level_cameras(camera, scale, self._device)
            if len(self._cameras) > 32:
                self._cameras.popitem(last=False)
        return self._cameras[key]


def _to_host(refinement: Refinement, asked: int) -> AlignmentResult:
    """The best alignment: among those that succeeded, else among all, the one of least cost."""
    cost, score = (x.numpy().astype(np.float64) for x in (refinement.cost, refinement.agreement / max(asked, 1)))
    good = refinement.success.numpy()
    # A pose that sees few points has few chances to be wrong: what it does not see counts as bad as can be.
    best = int(np.lexsort((np.where(np.isfinite(cost), cost, np.inf), -score.round(3), ~good))[0])
    T, T_before = refinement.T_cam_map[best].numpy(), refinement.before[best].numpy()
    covariance = refinement.covariance[best].numpy()
    finite = all(bool(np.isfinite(x).all()) for x in (T, T_before, covariance, cost[best], score[best]))
    T_map_cam = inverse(T) if finite else np.eye(4)
    settling = float(np.linalg.norm(T_map_cam[:3, 3] - inverse(T_before)[:3, 3])) if finite else np.inf
    return AlignmentResult(
        T_map_cam,
        covariance,
        bool(good[best]) and finite,
        bool(refinement.well_posed[best]) and finite,
        float(cost[best]),
        float(np.clip(score[best], 0.0, 1.0)) if finite else 0.0,
        int(refinement.valid[best]),
        asked,
        settling,
        int(refinement.iterations[best]),
        best,
        float(refinement.also[best]),
    )
