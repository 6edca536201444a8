"""The similarity (rotation, translation, scale) that lays one trajectory over another.

From positions: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE PAMI
13(4), 1991. From orientations and positions, for cameras whose path may be a straight line: :func:`align_cameras`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vloc_ros.errors import DatasetError, GeometryError
from vloc_ros.types import Array

__all__ = ["Alignment", "Similarity", "align", "align_cameras", "align_poses", "umeyama"]

Alignment = Literal["none", "se3", "sim3", "origin"]

#: Positions whose second principal variance is below this share of the first lie on a line (a millionth of its length).
_LINE = 1e-12


@dataclass(frozen=True)
class Similarity:
    """``x -> scale R x + t``: rotation (3, 3), translation (3,) in metres, scale."""

    rotation: Array
    translation: Array
    scale: float = 1.0

    @classmethod
    def identity(cls) -> Similarity:
        """Changes nothing."""
        return cls(np.eye(3), np.zeros(3))

    def points(self, points: Array) -> Array:
        """(N, 3) -> (N, 3)."""
        out: Array = self.scale * points @ self.rotation.T + self.translation
        return out

    def poses(self, T: Array) -> Array:
        """Poses (N, 4, 4): positions are moved and scaled, rotations rotated."""
        out = T.copy()
        out[:, :3, :3] = self.rotation @ T[:, :3, :3]
        out[:, :3, 3] = self.points(T[:, :3, 3])
        return out


def align(estimate: Array, reference: Array, how: Alignment) -> Similarity:
    """What lays ``estimate`` over ``reference``, poses (N, 4, 4) each, row by row.

    :param how: ``none``; ``origin``, the first pose on the first; ``se3``, least squares of all positions; ``sim3``,
        the same with scale.
    :raises GeometryError: no poses, or positions that do not determine the alignment (see :func:`umeyama`).
    """
    if estimate.shape != reference.shape or not len(estimate):
        raise GeometryError(
            f"alignment: expected as many poses, at least one, found {estimate.shape}, {reference.shape}"
        )
    if how == "none":
        return Similarity.identity()
    if how == "origin":
        rotation = reference[0, :3, :3] @ estimate[0, :3, :3].T
        return Similarity(rotation, reference[0, :3, 3] - rotation @ estimate[0, :3, 3])
    return umeyama(estimate[:, :3, 3], reference[:, :3, 3], with_scale=how == "sim3")


def umeyama(source: Array, target: Array, with_scale: bool = False) -> Similarity:
    """The similarity with the least sum of ``|target - (scale R source + t)|^2``; points (N, 3) each.

    The rotation is proper even where a reflection would fit better (eq. 39 to 43).

    :raises GeometryError: fewer than three points, or points on a line: the rotation about it is not determined.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1:] != (3,):
        raise GeometryError(f"alignment: expected points (N, 3) twice, found {source.shape} and {target.shape}")
    if len(source) < 3:
        raise GeometryError(f"alignment: expected at least 3 associated poses, found {len(source)}; align by origin")
    centre, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - centre, target - goal
    u, values, vt = np.linalg.svd(b.T @ a / len(a))
    if not values[1] > _LINE * max(values[0], np.finfo(np.float64).tiny):
        raise GeometryError(
            "alignment: expected positions that span a plane, found them on a line (or all in one place): the rotation "
            "about it is not determined; align by origin, or not at all"
        )
    signs = _proper(u, vt)
    rotation = (u * signs) @ vt
    scale = float((values * signs).sum() / (a**2).sum(axis=1).mean()) if with_scale else 1.0
    return Similarity(rotation, goal - scale * rotation @ centre, scale)


def align_cameras(T_a: Array, T_b: Array, with_scale: bool = True) -> Similarity:
    """What lays poses ``T_a`` over ``T_b``, two lists (N, 4, 4) of the same cameras.

    The rotation comes from the orientations, so that a straight drive, whose positions leave the roll about it open,
    aligns, too.

    :raises DatasetError: fewer than two poses, or cameras that all stand at one place while the scale is wanted.
    """
    if len(T_a) < 2 or len(T_a) != len(T_b):
        raise DatasetError(f"alignment: expected at least two poses in both, found {len(T_a)} and {len(T_b)}")
    u, _, vt = np.linalg.svd(np.einsum("nij,nkj->ik", T_b[:, :3, :3], T_a[:, :3, :3]))
    rotation = (u * _proper(u, vt)) @ vt
    centre, goal = T_a[:, :3, 3].mean(axis=0), T_b[:, :3, 3].mean(axis=0)
    a, b = (T_a[:, :3, 3] - centre) @ rotation.T, T_b[:, :3, 3] - goal
    scale, size = 1.0, float((a * a).sum())
    if with_scale:
        if size < 1e-12 or (a * b).sum() <= 0:
            raise DatasetError("alignment: expected cameras that moved, found them at one place: no scale follows")
        scale = float((a * b).sum()) / size
    return Similarity(rotation, goal - scale * rotation @ centre, scale)


def align_poses(T_a: Array, T_b: Array, points: Array) -> tuple[Array, Array]:
    """Poses ``T_a`` (N, 4, 4) and points (P, 3) of their frame, brought into the frame of ``T_b``."""
    found = align_cameras(T_a, T_b)
    return found.poses(T_a), found.points(points)


def _proper(u: Array, vt: Array) -> Array:
    """Signs (3,) of the singular vectors that make ``u @ vt`` a rotation."""
    return np.array([1.0, 1.0, -1.0 if np.linalg.det(u) * np.linalg.det(vt) < 0 else 1.0])
