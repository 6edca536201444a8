"""Several cameras of one rig for localizers that take one image: each image by itself, and the poses made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vloc_ros.geometry.se3 import covariance_of_base, inverse
from vloc_ros.localizers.fusion import combined, contradict
from vloc_ros.types import Array, Estimate, LocalizationState, PosePrior, Query

__all__ = ["each_alone", "fused"]

_ORDER = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST)


def each_alone(query: Query) -> list[tuple[Query, Array]]:
    """The query of each camera of a rig, its own first, with ``T_query_cam`` of each; the prior is carried along."""
    out = [(replace(query, others=()), np.eye(4))]
    for view in query.others:
        prior = query.prior
        if prior is not None:
            covariance = covariance_of_base(prior.T_map_cam, prior.covariance, view.T_query_cam)
            prior = PosePrior(prior.T_map_cam @ view.T_query_cam, covariance)
        alone = Query(view.image_rgb, view.camera, query.stamp_ns, prior, query.scene)
        out.append((alone, view.T_query_cam))
    return out


def fused(estimates: Sequence[Estimate], T_query_cam: Sequence[Array]) -> Estimate:
    """One estimate of the query's camera from those of all cameras of a rig.

    Each is carried to the query's camera, its covariance by the lever arm. The largest group of them that do not
    contradict each other is believed; LOST ones have no say, and of groups of one size that of the better states, then
    the surer one, wins. Poses are weighted by their inverse covariances. Errors of the map are in all of them, so they
    are *not* counted as independent: the covariance is that of errors that all point the same way
    (:func:`vloc_ros.localizers.fusion.combined`), never smaller than the surest camera's. What a rig gains over one
    camera is therefore in the pose, and in frames in which one camera sees nothing, rather than in a small covariance.

    The state is the best in the group; where as many that say LOCALIZED contradict it, DEGRADED.
    Diagnostics: ``rig_views`` localized, ``rig_fused`` of them in the pose.
    """
    carried = []
    for estimate, T in zip(estimates, T_query_cam, strict=True):
        T_cam_query = inverse(T)
        covariance = covariance_of_base(estimate.T_map_cam, estimate.covariance, T_cam_query)
        pose, candidates = estimate.T_map_cam @ T_cam_query, tuple(
            replace(step, T_map_cam=step.T_map_cam @ T_cam_query) for step in estimate.candidates
        )  # fmt: skip
        carried.append(replace(estimate, T_map_cam=pose, covariance=covariance, candidates=candidates, matches=None))
    usable = [e for e in carried if e.state is not LocalizationState.LOST] or carried[:1]
    usable.sort(key=_surest_first)
    groups = [[e, *(o for o in usable if o is not e and _agree(e, o))] for e in usable]
    group = max(groups, key=lambda g: (len(g), -sum(_ORDER.index(e.claimed) for e in g)))
    first = min(group, key=_surest_first)
    T, covariance, members = first.T_map_cam, first.covariance, 1
    for other in group:
        if other is not first and not contradict(T, covariance, other.T_map_cam, other.covariance):
            T, covariance, _ = combined(T, covariance, other.T_map_cam, other.covariance)
            members += 1
    against = sum(e.claimed is LocalizationState.LOCALIZED for e in usable if not any(e is m for m in group))
    if first.claimed is LocalizationState.LOCALIZED and against >= members:
        first = first.with_state(LocalizationState.DEGRADED)
    timings: dict[str, float] = {}
    for estimate in estimates:
        for name, time in estimate.timings_ms.items():
            timings[name] = timings.get(name, 0.0) + time
    about = {
        **first.diagnostics,
        "rig_views": float(sum(e.state is not LocalizationState.LOST for e in carried)),
        "rig_fused": float(members),
    }
    # A row of the map's references is of the camera that saw it, and other figures are of the surest one.
    return replace(
        first, T_map_cam=T, covariance=covariance, score=max(e.score for e in group), timings_ms=timings,
        diagnostics=about,
    )  # fmt: skip


def _agree(a: Estimate, b: Estimate) -> bool:
    return a.scene == b.scene and not contradict(a.T_map_cam, a.covariance, b.T_map_cam, b.covariance)


def _surest_first(estimate: Estimate) -> tuple[int, float]:
    return _ORDER.index(estimate.claimed), float(np.trace(estimate.covariance[:3, :3]))
