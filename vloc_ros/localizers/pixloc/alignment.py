"""The images of a query against a neighbourhood of a map: features, points, first poses, and what the optimiser makes
of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.geometry.se3 import inverse
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.pixloc.eyes import Eye
from vloc_ros.localizers.pixloc.features import PyramidScale, level_cameras, pyramid_cells, pyramid_of
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.optimizer import Level, OptimizerSettings, Refinement, Sight, refine_rig
from vloc_ros.localizers.pixloc.verification import every, joint_share, peaks
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
        (:func:`~.verification.joint_share`); 0 where too few are seen to tell.
    :ivar peaks: for each eye, how many points do, and how many could.
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
    peaks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Aligned:
    """An alignment with everything that it was made of.

    :ivar eyes: that are in the pose, of ``views`` that were aligned.
    """

    result: AlignmentResult
    refinement: Refinement
    eyes: tuple[Eye, ...]
    starts: Array
    views: int


class Aligner:
    """Network, damping and optimiser on one device.

    :param model: in evaluation mode, on the device; its network computes in the precision of its weights.
    :param scales: of the image pyramid, low to high: the map's, or the last of them.
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
        # The scales resize what is normalised: in float32.
        self._images = ImageNetwork(self._read, preprocess, torch.float32, self._recorder)
        with torch.inference_mode():
            self._damping = model.damping().to(device)
        if settings.damping == "constant":
            self._damping = torch.full_like(self._damping, settings.damping_constant)
        self._cameras: OrderedDict[tuple[CameraModel, int, int], list[TorchCamera]] = OrderedDict()

    def _read(self, images: Tensor) -> tuple[Tensor, ...]:
        return pyramid_cells(self._network, images, self._scales)

    @torch.inference_mode()
    def encode(
        self, images_rgb: Sequence[RgbImage], preprocess: Sequence[Preprocess] | None = None
    ) -> list[tuple[PyramidScale, ...]]:
        """The feature pyramid of each image; those of one size go through the network together.

        :param preprocess: of each image, where they are of other cameras than the map's.
        """
        each = preprocess or [self._preprocess] * len(images_rgb)
        fitted = [how.fitted(image) for image, how in zip(images_rgb, each, strict=True)]
        out: list[tuple[PyramidScale, ...]] = [()] * len(fitted)
        for shape in dict.fromkeys(image.shape for image in fitted):
            rows = [row for row, image in enumerate(fitted) if image.shape == shape]
            stacked = fitted[rows[0]][None] if len(rows) == 1 else torch.stack([fitted[row] for row in rows])
            cells = self._images.fitted(stacked)
            pyramid = pyramid_of(cells, shape[0], shape[1], self._scales, self._network.settings.strides)
            for number, row in enumerate(rows):
                out[row] = tuple(scale.of_image(number) for scale in pyramid)
        return out

    @torch.inference_mode()
    def align(
        self, eyes: Sequence[Eye], starts: Array, scales: slice = _ALL, verify: bool = True
    ) -> tuple[AlignmentResult, Refinement]:
        """Align the points of all eyes together from every starting pose.

        :param eyes: with points and features. :param starts: (S, 4, 4) T_map_cam of the query's camera.
        :param scales: which of the pyramid's.
        :param verify: also look whether the map is seen where the poses have it: ``peak_share``, else 0.
        """
        groups = self._groups(eyes)
        # One upload for all that the host knows.
        numbers = [np.stack([inverse(start) for start in starts])]
        for group in groups:
            numbers += [np.stack([eye.T_cam_query for eye in group]), *(eye.points.points for eye in group)]
        there = _uploaded(numbers, self._device)
        poses = next(there)
        sights, looked_at = [], []
        for group in groups:
            rig = next(there)
            sight = self._sight(group, [next(there) for _ in group], rig, scales)
            if verify:
                looked_at.append(_thinned(sight, group))
            sights.append(self._padded(sight))

        def seen(T_query_map: Tensor) -> Tensor:
            return torch.cat([peaks(sight, T_query_map) for sight in looked_at], dim=1)

        refinement = refine_rig(
            poses, sights, settings=self._settings, recorder=self._recorder, also=seen if verify else None
        )
        result = _to_host(refinement, sum(len(eye.points) for eye in eyes))
        if verify and result.peaks:
            # In the order of the eyes, not of their groups.
            order = [eye.number for group in groups for eye in group]
            by_number = dict(zip(order, result.peaks, strict=True))
            result = replace(result, peaks=tuple(by_number[eye.number] for eye in eyes))
        return result, refinement

    @staticmethod
    def _groups(eyes: Sequence[Eye]) -> list[list[Eye]]:
        """Eyes whose images have one size and whose lenses one family: what is done for them is done at once."""
        out: dict[object, list[Eye]] = {}
        for eye in eyes:
            fisheye = eye.camera.is_distorted and eye.camera.distortion_model == "equidistant"
            sizes = tuple((scale.width, scale.height) for scale in eye.pyramid)
            out.setdefault((fisheye, sizes), []).append(eye)
        return list(out.values())

    def _sight(self, eyes: Sequence[Eye], points: Sequence[Tensor], rig: Tensor, scales: slice) -> Sight:
        """What the eyes of a group see, at some scales of their pyramids."""
        alone = len(eyes) == 1 and eyes[0].T_query_cam is None
        count = max(len(eye.points) for eye in eyes)
        padded = any(len(eye.points) < count for eye in eyes)
        mask = torch.stack([_mask(len(each), count, each.device) for each in points]) if padded else None
        levels = []
        finest = eyes[0].pyramid[-1].width / eyes[0].pyramid[-1].levels[-1].stride
        for s in range(*scales.indices(len(eyes[0].pyramid))):
            cameras = [self._level_cameras(eye.camera, eye.pyramid[s]) for eye in eyes]
            # A pyramid without its small images goes with the last scales of the map.
            stored = [eye.points.levels[len(eye.points.levels) - len(eye.pyramid) + s] for eye in eyes]
            for level, damping in enumerate(self._damping):
                maps, found = [eye.pyramid[s].levels[level] for eye in eyes], [each[level] for each in stored]
                at = [each[level] for each in cameras]
                levels.append(
                    Level(
                        _together([each.field for each in maps]),
                        at[0] if len(at) == 1 else TorchCamera.stack(at),
                        _stacked([each.features for each in found], count),
                        _stacked([each.confidence for each in found], count),
                        damping,
                        slack=finest * maps[0].stride / eyes[0].pyramid[s].width,
                    )
                )
        return Sight(_stacked(points, count), tuple(levels), mask, None if alone else rig)

    def _padded(self, sight: Sight) -> Sight:
        """Recordings are for a number of points: few of them serve all frames."""
        if not self._recorder.records:
            return sight
        cameras, count = sight.points_map.shape[:2]
        mask = sight.mask
        if mask is None:
            mask = torch.ones(cameras, count, dtype=torch.bool, device=self._device)
        spare = -count % _POINTS
        levels = [
            replace(
                level,
                reference=functional.pad(level.reference, (0, 0, 0, spare)),
                confidence=None if level.confidence is None else functional.pad(level.confidence, (0, spare)),
            )
            for level in sight.levels
        ]
        points = functional.pad(sight.points_map, (0, 0, 0, spare))
        return Sight(points, tuple(levels), functional.pad(mask, (0, spare)), sight.T_cam_rig)

    def _level_cameras(self, camera: CameraModel, scale: PyramidScale) -> list[TorchCamera]:
        key = (camera, scale.width, scale.height)
        if key not in self._cameras:  # small tensors: on a GPU each is a transfer of its own
            self._cameras[key] = level_cameras(camera, scale, self._device)
            if len(self._cameras) > 32:
                self._cameras.popitem(last=False)
        return self._cameras[key]


def _uploaded(arrays: Sequence[Array], device: torch.device) -> Iterator[Tensor]:
    """Arrays of float64 on a device, by one transfer."""
    there = torch.from_numpy(np.concatenate([array.ravel() for array in arrays])).to(device)
    parts = torch.split(there, [array.size for array in arrays])
    return (part.view(array.shape) for part, array in zip(parts, arrays, strict=True))


def _mask(used: int, count: int, device: torch.device) -> Tensor:
    return functional.pad(torch.ones(used, dtype=torch.bool, device=device), (0, count - used))


def _stacked(rows: Sequence[Tensor], count: int) -> Tensor:
    """(K, count, ...) of tensors with at most ``count`` rows, the rest zeros."""
    if len(rows) == 1 and len(rows[0]) == count:
        return rows[0][None]
    return torch.stack([functional.pad(each, (*[0, 0] * (each.ndim - 1), 0, count - len(each))) for each in rows])


def _together(fields: Sequence[GridField]) -> GridField:
    """One field of the maps of several images of one size."""
    if len(fields) == 1:
        return fields[0]
    return GridField.of_ringed(torch.cat([field.ringed for field in fields]))


def _thinned(sight: Sight, eyes: Sequence[Eye]) -> Sight:
    """What :func:`~.verification.peaks` looks at: some points of each eye at one level.

    Coarse cells hide what is off by less than them, fine ones are noisy: it is the level before the last.
    """
    level = sight.levels[-2] if len(sight.levels) > 1 else sight.levels[-1]
    counts = [len(eye.points) for eye in eyes]
    rows = [slice(0, count, every(count).step) for count in counts]
    most = max(len(range(*row.indices(count))) for row, count in zip(rows, counts, strict=True))
    points, features = (
        _stacked([each[row] for each, row in zip(tensor, rows, strict=True)], most)
        for tensor in (sight.points_map, level.reference)
    )
    mask = None
    if len(eyes) > 1:
        used = [len(range(*row.indices(count))) for row, count in zip(rows, counts, strict=True)]
        mask = torch.stack([_mask(each, most, points.device) for each in used])
    return Sight(points, (replace(level, reference=features, confidence=None),), mask, sight.T_cam_rig)


def _to_host(refinement: Refinement, asked: int) -> AlignmentResult:
    """The best alignment: among those that succeeded, else among all, the one of least cost."""
    cost, score = (x.numpy().astype(np.float64) for x in (refinement.cost, refinement.agreement / max(asked, 1)))
    good = refinement.success.numpy()
    # A pose that sees few points has few chances to be wrong: what it does not see counts as bad as can be.
    best = int(np.lexsort((np.where(np.isfinite(cost), cost, np.inf), -score.round(3), ~good))[0])
    T, T_before = refinement.T_cam_map[best].numpy(), refinement.before[best].numpy()
    covariance = refinement.covariance[best].numpy()
    also = refinement.also[best].numpy()
    counts = tuple((int(found), int(counted)) for found, counted in also) if also.ndim else ()
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
        joint_share(counts) if counts else 0.0,
        counts,
    )
