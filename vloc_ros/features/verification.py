"""The judge: whether a pose is supported by map points that are seen where it says they are.

Whatever proposed the pose (a network, a similar image, an alignment of features, a tracker), the evidence is
independent of it: local features of the image near projected points of the map that look like them. Three things
follow from it: how many points agree beyond what chance explains, how exactly, and how they lie in the image. A place
that looks the same elsewhere in the map gives the same evidence there: then neither is believed
(:func:`decide`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.features.base import Described
from vloc_ros.features.matching import Candidates, alike_in_all, alike_pairs, near_pairs
from vloc_ros.features.mirror import better_of_two
from vloc_ros.features.points import MapPoints, in_view
from vloc_ros.features.pose import MINIMAL, Observations, RefinedPose, refine_rig
from vloc_ros.geometry.rotations import so3_log
from vloc_ros.settings import Fixed, ranged
from vloc_ros.types import Array, CameraModel

__all__ = [
    "Decision",
    "Evidence",
    "JudgeSettings",
    "JudgedPose",
    "Sight",
    "Support",
    "compare",
    "decide",
    "judge",
    "judge_rig",
    "refine_and_judge",
    "refine_and_judge_rig",
]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class JudgeSettings:
    """When a pose is believed.

    :param radius_px: a point agrees when a feature like it lies this near to its projection.
    :param wide_px: features like it are looked for up to here; those beyond ``radius_px`` tell how many agree by
        chance.
    :param octaves: how far the size of a feature may be from that of the projected point.
    :param least_matches: points in agreement, beyond chance, that a pose needs.
    :param least_cells: of 8 x 6 parts of the image that must hold a point in agreement.
    :param least_extent: the fewer of the points in view agree, the more of the image they must fill: so much must
        :attr:`Evidence.extent` be. 6 parts where 12 % agree, 8 where 4 %, 11 where 1 %.
    :param weak_matches: with fewer than ``least_matches`` but at least this many a pose is weakly supported.
    :param rival: a pose elsewhere with this share of the best one's evidence makes both unsure.
    """

    radius_px: float = ranged(3.0, minimum=0.5, maximum=50.0)
    wide_px: float = ranged(10.0, minimum=1.0, maximum=200.0)
    octaves: float = ranged(1.0, minimum=0.1, maximum=10.0)
    least_matches: int = ranged(20, minimum=6)
    least_cells: int = ranged(6, minimum=1, maximum=48)
    least_extent: float = ranged(3.5, minimum=0.0, maximum=48.0)
    weak_matches: int = ranged(10, minimum=4)
    rival: float = ranged(0.6, minimum=0.0, maximum=1.0)

    #: A share alone kept right poses of dense maps from being believed where the view had changed.
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"least_share": Fixed(0.04)}


class Support(Enum):
    """How well a pose is supported: ``STRONG`` may be LOCALIZED, ``WEAK`` at most DEGRADED, ``NONE`` is LOST."""

    NONE = 0
    WEAK = 1
    STRONG = 2


@dataclass(frozen=True)
class Evidence:
    """What an image says about a pose.

    :ivar visible: points of the map that the pose has in view.
    :ivar matched: of them with a feature like it within ``radius_px``.
    :ivar accidental: as many are expected by chance, by the density of such features further off.
    :ivar share: ``(matched - accidental) / visible``.
    :ivar cells: of 8 x 6 parts of the image that hold a matched point.
    :ivar flat: the matched points lie on a line of the image: the smaller standard deviation over the image's height.
    :ivar error_px: median distance of the matched points from their features.
    :ivar ids, features: (matched,) which points of the scene, and which features.
    :ivar parts: of a rig: the evidence of each of its cameras, of which this is the sum; empty of one camera.
    """

    visible: int
    matched: int
    accidental: float
    share: float
    cells: int
    flat: float
    error_px: float
    ids: Ints
    features: Ints
    parts: tuple[Evidence, ...] = ()

    @property
    def surplus(self) -> float:
        """Matched points beyond chance, at least 0: what poses are compared by."""
        return max(self.matched - self.accidental, 0.0)

    @property
    def extent(self) -> float:
        """How much of the image agrees: the parts that hold a matched point, less what chance explains of them, times
        the fourth root of the share of the points in view.

        A wrong pose explains one thing that looks like another: many points of it in a dense map, but all of them in
        few parts of the image. A right one from a changed view explains few of the points in view, all over the image.
        """
        return float(self.cells * self.surplus / max(self.matched, 1) * self.share**0.25)

    def support(self, settings: JudgeSettings) -> Support:
        """See :class:`Support`. Four standard deviations of chance, a number, a spread, and an extent.

        A rig's is that of all its cameras together, and no less than that of one alone: a camera that sees nothing of
        the map takes nothing from what another sees.
        """
        return max((self._support(settings), *(p._support(settings) for p in self.parts)), key=lambda s: s.value)

    def _support(self, settings: JudgeSettings) -> Support:
        significant = self.surplus >= 4.0 * np.sqrt(self.accidental + 1.0)
        spread = self.cells >= settings.least_cells and self.flat >= 0.02
        wide = spread and self.extent >= settings.least_extent
        if significant and wide and self.surplus >= settings.least_matches:
            return Support.STRONG
        return Support.WEAK if significant and self.surplus >= settings.weak_matches else Support.NONE

    def score(self, settings: JudgeSettings) -> float:
        """In [0, 1]: 0.5 where a pose begins to be believed."""
        return float(self.surplus / (self.surplus + settings.least_matches))


#: Features times points that a processor compares sooner than it finds out which of them are near each other.
_LITTLE = 1 << 19


@dataclass(frozen=True)
class Sight:
    """What one camera of a rig sees: its features, and the map's points around where it may be.

    :ivar camera: of the image as it is, distorted or not. :ivar query: the features of that image.
    :ivar points: of the map, at least all around the pose.
    :ivar T_rig_cam: (4, 4) the camera on the rig; None: the camera is the rig.
    :ivar compared: what :func:`compare` found, by the least cosine.
    """

    camera: CameraModel
    query: Described
    points: MapPoints
    T_rig_cam: Array | None = None
    compared: dict[float, Candidates] = field(default_factory=dict, init=False, repr=False, compare=False)

    def placed(self, T_map_rig: Array) -> Array:
        """``T_map_cam`` when the rig is there."""
        return T_map_rig if self.T_rig_cam is None else T_map_rig @ self.T_rig_cam

    def near(
        self, T_map_rig: Array, radius_px: float | Array, octaves: float, least_cosine: float
    ) -> tuple[Ints, Array, npt.NDArray[np.float32]]:
        """:meth:`~vloc_ros.features.matching.Candidates.near` when the rig is there.

        On the host: only what is near each other is compared, and everything once where there is little of it, or where
        :func:`compare` was asked to.
        """
        T, known = self.placed(T_map_rig), self.compared.get(least_cosine)
        if known is None and len(self.query) * len(self.points) <= _LITTLE:
            query = replace(self.query, unit=torch.from_numpy(self.query.on_host))
            points = replace(self.points, prototypes=torch.from_numpy(self.points.on_host))
            known = self.compared[least_cosine] = alike_pairs(query, points, least_cosine)
        if known is not None:
            return known.near(T, self.camera, self.query, self.points, radius_px, octaves)
        return near_pairs(T, self.camera, self.query, self.points, radius_px, octaves, least_cosine)


def compare(sights: Sequence[Sight], least_cosine: float) -> None:
    """Compare every feature with every point, once, for looks farther around than :meth:`Sight.near` is quick for; the
    host waits once for all sights. Their features and points lie on one device."""
    asked = [sight for sight in sights if least_cosine not in sight.compared]
    found = alike_in_all([(sight.query, sight.points) for sight in asked], least_cosine)
    for sight, candidates in zip(asked, found, strict=True):
        sight.compared[least_cosine] = candidates


def judge(
    T_map_cam: Array,
    camera: CameraModel,
    query: Described,
    points: MapPoints,
    alike: float,
    settings: JudgeSettings | None = None,
) -> Evidence:
    """The evidence for a pose; nothing is refined.

    :param camera: of the image as it is, distorted or not. :param query: the features of that image.
    :param points: of the map, at least all around the pose.
    :param alike: cosine of descriptors that may be of one place
        (:attr:`~vloc_ros.features.base.FeatureExtractor.alike`).
    """
    return judge_rig(T_map_cam, [Sight(camera, query, points)], alike, settings)


def judge_rig(
    T_map_rig: Array, sights: Sequence[Sight], alike: float, settings: JudgeSettings | None = None
) -> Evidence:
    """The evidence of all cameras of a rig for a pose of it; nothing is refined."""
    settings = settings or JudgeSettings()
    parts = [_evidence(T_map_rig, sight, settings, alike) for sight in sights]
    if len(parts) == 1:
        return parts[0]
    visible, matched = sum(p.visible for p in parts), sum(p.matched for p in parts)
    accidental = sum(p.accidental for p in parts)
    errors = [p.error_px * p.matched for p in parts if p.matched]
    return Evidence(
        visible,
        matched,
        accidental,
        max(matched - accidental, 0.0) / max(visible, 1),
        sum(p.cells for p in parts),
        max(p.flat for p in parts),
        sum(errors) / matched if matched else float("inf"),
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.features for p in parts]),
        tuple(parts),
    )


def _evidence(T_map_rig: Array, sight: Sight, settings: JudgeSettings, alike: float) -> Evidence:
    camera, query, points = sight.camera, sight.query, sight.points
    visible = len(in_view(sight.placed(T_map_rig), camera, points.points))
    pairs, distance, _ = sight.near(T_map_rig, settings.wide_px, settings.octaves, alike)
    inner = distance <= settings.radius_px
    ring = settings.wide_px**2 - settings.radius_px**2
    accidental = float((~inner).sum()) * settings.radius_px**2 / max(ring, 1e-9)
    matched = int(inner.sum())
    at = query.features.pixels[pairs[inner, 1]].astype(np.float64)
    cell = np.clip((at + 0.5) / (camera.width, camera.height) * (8, 6), 0, (7, 5)).astype(np.int64)
    flat = 0.0
    if matched > 2:
        flat = float(np.sqrt(max(np.linalg.eigvalsh(np.cov(at.T))[0], 0.0))) / camera.height
    return Evidence(
        visible,
        matched,
        accidental,
        max(matched - accidental, 0.0) / max(visible, 1),
        len(np.unique(cell[:, 1] * 8 + cell[:, 0])),
        flat,
        float(np.median(distance[inner])) if matched else float("inf"),
        points.ids[pairs[inner, 0]],
        pairs[inner, 1],
    )


@dataclass(frozen=True)
class JudgedPose:
    """A pose with what speaks for it: ``refined`` by its matched points, ``evidence`` at the refined pose."""

    T_map_cam: Array
    refined: RefinedPose | None
    evidence: Evidence


#: Standard deviation of a feature's place, pixels.
SIGMA_PX = 0.7
#: Residuals beyond this many standard deviations are outliers more than not.
_CUT = 2.0


def refine_and_judge(
    T_map_cam: Array,
    camera: CameraModel,
    query: Described,
    points: MapPoints,
    alike: float,
    settings: JudgeSettings | None = None,
    radius_px: float | Array | None = None,
) -> JudgedPose:
    """:func:`refine_and_judge_rig` of one camera."""
    return refine_and_judge_rig(T_map_cam, [Sight(camera, query, points)], alike, settings, radius_px)


def refine_and_judge_rig(
    T_map_rig: Array,
    sights: Sequence[Sight],
    alike: float,
    settings: JudgeSettings | None = None,
    radius_px: float | Array | None = None,
) -> JudgedPose:
    """Improve a pose by the points that are seen near where it says, then judge it.

    Two passes: features within ``radius_px``, then within the judge's radius of the better pose; each ends in a robust
    least-squares fit to the matches of all cameras. One camera that sees nothing but a plane has two such poses, of
    which the better one stands (:mod:`.mirror`).

    :param radius_px: how far off points may be at first; default: the judge's wide radius.
    """
    settings = settings or JudgeSettings()
    T, refined, by = np.asarray(T_map_rig, dtype=np.float64), None, list[Ints]()
    for radius in (settings.wide_px if radius_px is None else radius_px, settings.radius_px):
        pairs = [sight.near(T, radius, settings.octaves, alike)[0] for sight in sights]
        found = fitted(T, sights, pairs)
        if found is None:
            break
        T, refined, by = found.T_map_cam, found, pairs
    if refined is not None and len(sights) == 1 and sights[0].T_rig_cam is None:
        refined = better_of_two(refined, observed_by(sights[0], by[0]), _CUT)
        T = refined.T_map_cam
    return JudgedPose(T, refined, judge_rig(T, sights, alike, settings))


def observed_by(sight: Sight, pairs: Ints) -> Observations:
    """Matches (K, 2) of points and features as what a pose is made from."""
    at, rows = sight.query.features.pixels[pairs[:, 1]].astype(np.float64), pairs[:, 0]
    points = sight.points
    return Observations(sight.camera, points.points[rows], at, SIGMA_PX, points.roots[rows], sight.T_rig_cam)


def fitted(T_map_rig: Array, sights: Sequence[Sight], pairs: Sequence[Ints]) -> RefinedPose | None:
    """The pose by least squares on matches (K, 2) of points and features of each camera; None if they do not fix it."""
    if sum(len(p) for p in pairs) < MINIMAL:
        return None
    seen = [observed_by(s, p) for s, p in zip(sights, pairs, strict=True)]
    found = refine_rig(T_map_rig, [o for o in seen if len(o)], _CUT)
    return found if found.well_posed and np.isfinite(found.T_map_cam).all() else None


@dataclass(frozen=True)
class Decision:
    """Which of several poses is believed, and how much.

    :ivar best: number of the best one. :ivar support: its own, lowered where a rival stands against it.
    :ivar rival: number of the strongest pose elsewhere; -1: none. :ivar rivalry: its share of the best one's evidence.
    """

    best: int
    support: Support
    rival: int
    rivalry: float


def decide(
    found: Sequence[tuple[Array, Evidence]],
    settings: JudgeSettings | None = None,
    apart_m: float = 1.0,
    apart_deg: float = 10.0,
) -> Decision:
    """The best of several judged poses. Two that are apart and nearly as well supported are both not believed.

    :param found: ``T_map_cam`` and evidence of each; at least one.
    :param apart_m: poses nearer than this and turned by less than ``apart_deg`` are the same.
    """
    settings = settings or JudgeSettings()
    surplus = np.array([evidence.surplus for _, evidence in found])
    best = int(surplus.argmax())
    T_best, evidence = found[best]
    rival, most = -1, 0.0
    for number, (T, other) in enumerate(found):
        turned = np.degrees(np.linalg.norm(so3_log(T[:3, :3] @ T_best[:3, :3].T)))
        if number != best and (np.linalg.norm(T[:3, 3] - T_best[:3, 3]) > apart_m or turned > apart_deg):
            if other.support(settings) is not Support.NONE and other.surplus > most:
                rival, most = number, other.surplus
    rivalry = most / max(evidence.surplus, 1e-9)
    support = evidence.support(settings)
    if rivalry >= settings.rival:
        support = Support.NONE
    return Decision(best, support, rival, rivalry)
