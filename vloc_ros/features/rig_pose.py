"""The pose of a rig from what several cameras see: one generalised camera, robustly from nothing.

Hypotheses come from three points of *one* camera (P3P), carried to the rig by the camera's place on it, and are scored
by the matches of *all* cameras. So one camera that sees well is enough, several that see little help each other, and a
camera that sees something else is outvoted.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vloc_ros.features.pose import MINIMAL, STEEPEST, Observations, Solver, absolute_pose, solver_name
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array

__all__ = ["rig_poses"]

#: Random triples at most; with a tenth of right matches a triple is right once in a thousand.
_TRIPLES = 1500
_SURE = 0.999
_TOGETHER = 0.3


def rig_poses(
    observations: Sequence[Observations], threshold_px: float, solver: Solver = "auto", iterations: int = 10_000
) -> list[Array]:
    """``T_map_rig`` (4, 4) that matches of the cameras agree with, the one that most agree with first.

    Each camera's own pose; where none fits the matches of all (no camera sees enough by itself, or they disagree), one
    of all cameras together: PoseLib's generalised solver, or random triples of each camera. Of one camera it is
    :func:`vloc_ros.features.pose.absolute_pose`. The same input gives the same poses.

    :param observations: of each camera, the surest matches first. :param threshold_px: largest reprojection error of a
        match in agreement. :returns: at most one more than there are cameras; none where there is none.
    """
    own = [absolute_pose(o.camera, o.pixels, o.points, threshold_px, solver, iterations) for o in observations]
    found = [_of_rig(pose[0], o) for pose, o in zip(own, observations, strict=True) if pose is not None]
    if len(observations) == 1:
        return found
    scored = [(_cost(T, observations, threshold_px), T) for T in found]
    together = sum(len(o) for o in observations)
    agreed = max((count for (_, count), _ in scored), default=0)
    best_own = max((int(pose[1].sum()) for pose in own if pose is not None), default=0)
    # A pose that the other cameras' matches confirm needs no search among all of them.
    if together >= MINIMAL and agreed < max(MINIMAL, best_own + 1, _TOGETHER * together):
        pose = (_poselib if solver_name(solver) == "poselib" else _triples)(observations, threshold_px)
        if pose is not None:
            scored.append((_cost(pose, observations, threshold_px), pose))
    scored = [(c, T) for c, T in scored if c[1] >= MINIMAL]
    return [T for _, T in sorted(scored, key=lambda item: item[0][0])]


def _of_rig(T_map_cam: Array, seen_by: Observations) -> Array:
    return T_map_cam if seen_by.T_rig_cam is None else T_map_cam @ inverse(seen_by.T_rig_cam)


def _cost(T_map_rig: Array, observations: Sequence[Observations], threshold_px: float) -> tuple[float, int]:
    """The truncated squared errors of all matches of all cameras, and how many agree."""
    cost, count = 0.0, 0
    for o in observations:
        T = inverse(T_map_rig if o.T_rig_cam is None else T_map_rig @ o.T_rig_cam)
        local = o.points @ T[:3, :3].T + T[:3, 3]
        seen, _ = project(o.camera, local)
        squared = np.where(local[:, 2] > 1e-3, ((seen - o.pixels) ** 2).sum(axis=1), np.inf)
        squared = np.nan_to_num(squared, nan=np.inf)
        cost += float(np.minimum(squared, threshold_px**2).sum())
        count += int((squared <= threshold_px**2).sum())
    return cost, count


def _planes(observations: Sequence[Observations]) -> list[tuple[Array, Array, float]]:
    """Of each camera the usable matches on the plane at distance 1: (N, 2), their points (N, 3), and its focal length.

    Rows keep their order; what lies too far off the axis is left out.
    """
    out = []
    for o in observations:
        plane = unproject(o.camera, o.pixels)[:, :2] if len(o) else np.zeros((0, 2))
        rows = np.flatnonzero(np.nan_to_num(np.abs(plane), nan=np.inf).max(axis=1, initial=0.0) < STEEPEST)
        out.append((plane[rows], o.points[rows], 0.5 * (o.camera.fx + o.camera.fy)))
    return out


def _poselib(observations: Sequence[Observations], threshold_px: float) -> Array | None:
    import poselib

    planes = _planes(observations)
    centre = np.median(np.concatenate([points for _, points, _ in planes]), axis=0)
    places, cameras = [], []
    for o, (_, _, focal) in zip(observations, planes, strict=True):
        T_cam_rig = np.eye(4) if o.T_rig_cam is None else inverse(o.T_rig_cam)
        place = poselib.CameraPose()
        place.R, place.t = T_cam_rig[:3, :3], T_cam_rig[:3, 3]
        places.append(place)
        cameras.append({"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]})
    options = {"max_reproj_error": threshold_px, "max_iterations": 5000, "min_iterations": 100, "seed": 0}
    pose, told = poselib.estimate_generalized_absolute_pose(
        [plane * focal for plane, _, focal in planes], [points - centre for _, points, _ in planes], places, cameras,
        options, {"loss_type": "TRUNCATED"},
    )  # fmt: skip
    T = np.eye(4)
    T[:3] = pose.Rt
    if int(told.get("num_inliers", 0)) < MINIMAL or not np.isfinite(T).all():
        return None
    T_map_rig = inverse(T)
    T_map_rig[:3, 3] += centre
    return T_map_rig


def _triples(observations: Sequence[Observations], threshold_px: float) -> Array | None:
    """P3P of random triples, each of one camera, scored by all cameras' matches."""
    planes = _planes(observations)
    usable = [n for n, (plane, _, _) in enumerate(planes) if len(plane) >= 3]
    if not usable:
        return None
    rng = np.random.default_rng(0)
    total = sum(len(o) for o in observations)
    best: tuple[float, int, Array] | None = None
    needed, tried = _TRIPLES, 0
    while tried < needed:
        number = usable[tried % len(usable)]
        tried += 1
        plane, points, _ = planes[number]
        rows = rng.choice(len(plane), 3, replace=False)
        centre = points[rows].mean(axis=0)
        _, rotations, shifts = cv2.solveP3P(
            np.ascontiguousarray(points[rows] - centre), np.ascontiguousarray(plane[rows]), np.eye(3), None,
            cv2.SOLVEPNP_AP3P,
        )  # fmt: skip
        for rotation, shift in zip(rotations, shifts, strict=True):
            T = np.eye(4)
            T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], np.ravel(shift)
            if not np.isfinite(T).all():
                continue
            T_map_cam = inverse(T)
            T_map_cam[:3, 3] += centre
            T_map_rig = _of_rig(T_map_cam, observations[number])
            cost, count = _cost(T_map_rig, observations, threshold_px)
            if count >= MINIMAL and (best is None or cost < best[0]):
                best = cost, count, T_map_rig
                inside = min((count / total) ** 3, 1.0 - 1e-9)
                needed = min(_TRIPLES, len(usable) * int(np.ceil(np.log(1.0 - _SURE) / np.log(1.0 - inside))))
    return None if best is None else best[2]
