"""The cameras of a query, what each may have seen of a place, and how far off a pose lets it be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.features.base import Described
from vloc_ros.features.pose import Observations
from vloc_ros.geometry.cameras import projection_jacobian
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import inverse
from vloc_ros.localizers.features.store import PointStore
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["Eye", "Sighting", "by_place", "reach_px"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Eye:
    """One camera of the query: its image's features, and where it is from the query's own camera (None: it is that)."""

    image_rgb: RgbImage
    camera: CameraModel
    described: Described
    T_query_cam: Array | None = None

    def placed(self, T_map_cam: Array) -> Array:
        """Its pose when the query's camera is there."""
        return T_map_cam if self.T_query_cam is None else T_map_cam @ self.T_query_cam

    def strongest(self, count: int) -> Described:
        return self.described.strongest(count)


@dataclass(frozen=True)
class Sighting:
    """Points that one camera may have seen of one place: rows of images of the map there, and matches."""

    eye: int
    images: Ints
    seen: Observations


def by_place(sightings: Sequence[Sighting], store: PointStore) -> list[list[Sighting]]:
    """What different cameras of a rig may have seen of one place, together; of one camera each by itself."""
    out: list[list[Sighting]] = []
    for sighting in sightings:
        mine = store.T_map_cam[sighting.images, :3, 3]
        for place in out:
            theirs = store.T_map_cam[np.concatenate([s.images for s in place]), :3, 3]
            apart = np.linalg.norm(mine[:, None] - theirs[None], axis=-1).min()
            if apart <= store.depth_m and all(s.eye != sighting.eye for s in place):
                place.append(sighting)
                break
        else:
            out.append([sighting])
    return out


def reach_px(T_map_cam: Array, covariance: Array, camera: CameraModel, points: Array, sigmas: float) -> Array:
    """(N,) pixels that points may be off by when a pose is off by so many standard deviations."""
    T = inverse(T_map_cam)
    R = T[:3, :3]
    local = points @ R.T + T[:3, 3]
    local[:, 2] = np.maximum(local[:, 2], 1e-3)
    J = projection_jacobian(camera, local)
    # The pose's error is [t; r] in map axes; a point in the camera's moves by -R_cam_map (t + r x (p - t_cam)).
    arm = points - T_map_cam[:3, 3]
    by_pose = np.concatenate([-J @ R, J @ R @ skew(arm)], axis=-1)
    moved = by_pose @ covariance @ np.swapaxes(by_pose, 1, 2)
    return np.asarray(sigmas * np.sqrt(np.maximum(np.linalg.eigvalsh(moved)[:, -1], 0.0)))
