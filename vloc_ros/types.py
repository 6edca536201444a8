"""The vocabulary of the package: camera, query, estimate, states.

Conventions, the same everywhere (README, "Conventions"):

* ``T_a_b`` maps points from frame ``b`` into frame ``a``: ``p_a = T_a_b @ p_b``; 4x4 float64.
* Optical frames are x right, y down, z forward; bodies are x forward, y left, z up (REP-103).
* Metres, radians; stamps are integer nanoseconds; quaternions are xyzw.
* Covariances are 6x6 float64, order (x, y, z, rotation about fixed X, Y, Z), in the map frame:
  the covariance of ``e = [t_est - t_true; Log(R_est R_true^T)]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import CameraError, GeometryError

__all__ = [
    "FARTHEST_M",
    "Array",
    "CameraModel",
    "CandidateStep",
    "Estimate",
    "LocalizationState",
    "Matches",
    "PosePrior",
    "Query",
    "RgbImage",
    "View",
    "check_covariance",
    "check_transform",
]

Array = npt.NDArray[np.float64]
RgbImage = npt.NDArray[np.uint8]

#: Distortion models by their ``sensor_msgs/CameraInfo`` names, with the accepted coefficient counts.
DISTORTION_COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),  # k1 k2 p1 p2 [k3]
    "rational_polynomial": (8, 12, 14),  # k1 k2 p1 p2 k3 k4 k5 k6 [s1..s4 [tx ty]]
    "equidistant": (4,),  # k1 k2 k3 k4 (Kannala-Brandt)
}


#: No place is further away than this (m), and no uncertainty is larger (m^2, rad^2): what lies beyond is a mistake of
#: who wrote it, and beside its squares all other numbers are lost.
FARTHEST_M, LARGEST_VARIANCE = 1e8, 1e14


class LocalizationState(str, Enum):
    """What the package claims to know. ``LOST`` publishes no pose and no TF."""

    INITIALIZING = "INITIALIZING"
    LOCALIZED = "LOCALIZED"
    DEGRADED = "DEGRADED"
    LOST = "LOST"


def check_transform(T: npt.ArrayLike, name: str = "transform") -> Array:
    """Return ``T`` as a 4x4 float64 rigid transform, or say why it is not one.

    :raises GeometryError: wrong shape, not finite, further away than 1e8 m, rotation off by more than 1e-4, or last row
        not (0, 0, 0, 1).
    """
    out = np.asarray(T, dtype=np.float64)
    if out.shape != (4, 4):
        raise GeometryError(f"{name}: expected a 4x4 matrix, found shape {out.shape}")
    if not np.isfinite(out).all():
        raise GeometryError(f"{name}: expected finite values, found NaN or infinity")
    if not np.allclose(out[3], (0.0, 0.0, 0.0, 1.0), atol=1e-9):
        raise GeometryError(f"{name}: expected last row (0, 0, 0, 1), found {out[3].tolist()}")
    if float(np.abs(out[:3, 3]).max()) > FARTHEST_M:
        raise GeometryError(f"{name}: expected a position within {FARTHEST_M:g} m, found {out[:3, 3].tolist()}")
    R = out[:3, :3]
    deviation = float(np.abs(R @ R.T - np.eye(3)).max())
    if deviation > 1e-4 or np.linalg.det(R) < 0:
        raise GeometryError(
            f"{name}: expected a rotation, found one that deviates from orthonormal by {deviation:.2g} "
            f"(determinant {np.linalg.det(R):.3f}); normalise the quaternion or matrix it came from"
        )
    return out


def check_covariance(covariance: npt.ArrayLike, name: str = "covariance", *, definite: bool = False) -> Array:
    """Return a 6x6 symmetric positive semi-definite float64 covariance.

    :param definite: zero in a direction is refused, too: what is measured is never exact.
    :raises GeometryError: wrong shape, not finite, beyond 1e14, asymmetric or indefinite.
    """
    out = np.asarray(covariance, dtype=np.float64)
    if out.shape == (36,):
        out = out.reshape(6, 6)
    if out.shape != (6, 6):
        raise GeometryError(f"{name}: expected 6x6 (or 36) values, found shape {out.shape}")
    if not np.isfinite(out).all():
        raise GeometryError(f"{name}: expected finite values, found NaN or infinity")
    scale = max(float(np.abs(out).max()), 1e-12)
    if scale > LARGEST_VARIANCE:
        raise GeometryError(
            f"{name}: expected variances of at most {LARGEST_VARIANCE:g}, found {scale:.3g}; all zeros means unknown"
        )
    if float(np.abs(out - out.T).max()) > 1e-6 * scale:
        raise GeometryError(f"{name}: expected a symmetric matrix; entry pairs differ")
    out = 0.5 * (out + out.T)
    smallest = float(np.linalg.eigvalsh(out)[0])
    if smallest < -1e-9 * scale:
        raise GeometryError(f"{name}: expected positive semi-definite, found eigenvalue {smallest:.3g}")
    if definite and not smallest > 0.0:
        raise GeometryError(f"{name}: expected positive definite, found eigenvalue {smallest:.3g}: nothing is exact")
    return out


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of one camera.

    Pixel centres lie at integer coordinates (OpenCV): the image spans [-0.5, width - 0.5].
    The mathematics (projection, undistortion, rescaling) lives in :mod:`vloc_ros.geometry.cameras`.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = "none"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "distortion", tuple(float(v) for v in self.distortion))
        if self.width <= 0 or self.height <= 0:
            raise CameraError(f"camera: expected a positive image size, found {self.width}x{self.height}")
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(values).all():
            raise CameraError(f"camera: expected finite intrinsics, found {values}; check the camera_info publisher")
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError(
                f"camera: expected positive focal lengths, found fx={self.fx}, fy={self.fy}; "
                "an uncalibrated driver publishes zeros: calibrate the camera"
            )
        largest = max(self.width, self.height)
        if (
            max(abs(self.cx), abs(self.cy)) > 100.0 * largest
            or not largest / 1e4 <= min(self.fx, self.fy) <= max(self.fx, self.fy) <= 1e4 * largest
            or max(map(abs, self.distortion), default=0.0) > 1e6
        ):
            raise CameraError(
                f"camera: expected intrinsics of a {self.width}x{self.height} image in pixels, found {values}; "
                "they are of no camera"
            )
        counts = DISTORTION_COEFFICIENTS.get(self.distortion_model)
        if counts is None:
            raise CameraError(
                f"camera: expected a distortion model out of {', '.join(DISTORTION_COEFFICIENTS)}, "
                f"found {self.distortion_model!r}"
            )
        if len(self.distortion) not in counts:
            raise CameraError(
                f"camera: {self.distortion_model} takes {' or '.join(map(str, counts))} coefficients, "
                f"found {len(self.distortion)}"
            )

    @property
    def K(self) -> Array:
        """The 3x3 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def is_distorted(self) -> bool:
        """Whether any distortion coefficient is non-zero (equidistant always is)."""
        return self.distortion_model == "equidistant" or any(v != 0.0 for v in self.distortion)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class PosePrior:
    """Where the camera is believed to be before looking: mean and 6x6 covariance in the map frame."""

    T_map_cam: Array
    covariance: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_map_cam", check_transform(self.T_map_cam, "prior T_map_cam"))
        object.__setattr__(self, "covariance", check_covariance(self.covariance, "prior covariance"))


@dataclass(frozen=True)
class View:
    """What another camera of a rig saw at the moment of a query.

    ``T_query_cam`` (4, 4) maps points of this camera's optical frame into that of the query's: the places of the two on
    the rig, and how the rig moved between the two exposures.
    """

    image_rgb: RgbImage
    camera: CameraModel
    T_query_cam: Array
    name: str = ""


@dataclass(frozen=True)
class Query:
    """One image to localize, or those of several cameras of one rig.

    ``image_rgb`` is (H, W, 3) uint8 and agrees with ``camera`` in size; ``stamp_ns`` also seeds the
    frame's random numbers. ``scene`` names the scene of a multi-scene map when it is known. ``others`` are what the
    other cameras of a rig saw at that moment; pose, prior and covariance are the query's own camera's.
    """

    image_rgb: RgbImage
    camera: CameraModel
    stamp_ns: int
    prior: PosePrior | None = None
    scene: str | None = None
    others: tuple[View, ...] = ()


@dataclass(frozen=True)
class CandidateStep:
    """The pose candidates of one refinement step, for plots and ``~/candidates``.

    ``T_map_cam`` is (N, 4, 4), ``scores`` (N,), ``selected`` (B,) indices of the proposer's choice.
    """

    T_map_cam: Array
    scores: Array
    selected: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """Map points that were found in the image.

    ``points`` (N, 3) float64 in the map frame, ``pixels`` (N, 2) float64 (x, y) in the query's image, ``inliers`` (N,)
    bool: which of them agree with the estimate. ``views`` (N,) int: the camera of a rig whose image they are in: 0 the
    query's own, n the n-th of its others; None: all in the query's own.
    """

    points: Array
    pixels: Array
    inliers: npt.NDArray[np.bool_]
    views: npt.NDArray[np.int64] | None = None

    def of_view(self, number: int) -> Matches:
        """Those of one camera."""
        if self.views is None:
            kept = np.full(len(self.points), number == 0)
        else:
            kept = self.views == number
        return Matches(self.points[kept], self.pixels[kept], self.inliers[kept])


@dataclass(frozen=True)
class Estimate:
    """What a localizer says about one query: the camera's pose, how sure it is, and why.

    ``state`` is that of this frame alone until the tracker has replaced it with the state of
    the sequence. ``T_map_cam`` is present in every state, so that tools can show what was
    rejected; front ends publish it only as the state allows.

    :ivar awaits_track: the image is familiar and the pose sure, but a map without points has no evidence that does not
        come from the method itself: DEGRADED alone, LOCALIZED once the track agrees over real motion.
    """

    stamp_ns: int
    T_map_cam: Array
    covariance: Array
    score: float
    state: LocalizationState
    backend: str
    map_id: str
    scene: str = ""
    candidates: tuple[CandidateStep, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    matches: Matches | None = None
    awaits_track: bool = False

    @property
    def claimed(self) -> LocalizationState:
        """What the method itself calls it: LOCALIZED also where nothing but the track can bear it out."""
        return LocalizationState.LOCALIZED if self.awaits_track else self.state

    def with_state(self, state: LocalizationState) -> Estimate:
        """The same estimate in another state, which is final."""
        return replace(self, state=state, awaits_track=False)
