"""A frame on its way in, and what became of it on its way out: what front ends and the pipeline exchange."""

from __future__ import annotations

from dataclasses import dataclass, field

from vloc_ros.images.decode import CompressedImage, RawImage
from vloc_ros.tracking.correction import Correction
from vloc_ros.types import Array, CameraModel, Estimate, LocalizationState, RgbImage

__all__ = ["REFUSALS", "Frame", "FrameResult"]

#: Why a frame can be refused: the key in counters and diagnostics, and its meaning.
REFUSALS: dict[str, str] = {
    "stamp_zero": "the stamp is 0: the driver does not stamp its images",
    "stamp_repeated": "the stamp was handled already",
    "stamp_out_of_order": "the stamp is slightly older than one already handled",
    "stamp_in_future": "the stamp lies more than a second ahead of the clock",
    "stale": "the frame is older than max_age_s when its turn comes",
    "no_camera_info": "no camera_info has arrived for the image",
    "bad_camera_info": "the intrinsics are not finite, zero, or of an unknown distortion model",
    "camera_mismatch": "the camera sees too little of what the map's camera sees, or with too few pixels",
    "bad_transform": "the camera's place on the vehicle is not a rigid transform",
    "bad_image": "the image cannot be decoded, or does not fit its camera_info",
    "blank_image": "the image is all black or all one colour",
    "repeated_image": "the picture was seen before, and nothing says that the vehicle has stood since: no evidence",
    "bad_estimate": "the localizer's pose or covariance is not finite",
    "localizer": "the localizer refused the frame for a reason of its own",
}


@dataclass(frozen=True)
class Frame:
    """One image with what is known about its moment.

    :ivar stamp_ns: the image's stamp.
    :ivar image: as a message has it, or decoded.
    :ivar camera: its intrinsics; None when none have arrived.
    :ivar rectified: the image is free of distortion already; ``camera`` is then the rectified one.
    :ivar T_base_cam: the camera on the vehicle, 4x4; None: poses are the camera's own.
    :ivar T_odom_base: odometry at the stamp, 4x4; None when unknown.
    :ivar received_ns: when the frame's turn came, by the clock of the stamps; None offline.
    :ivar scene: of a multi-scene map, when known.
    :ivar keep_candidates: the estimate is wanted with its candidates, where the backend offers them; this costs time.
    :ivar name: of the camera on its rig; empty where there is one.
    :ivar others: what other cameras of the rig saw at about this moment, each with its own stamp, place and odometry;
        stamp, clock, scene and candidates are this frame's.
    """

    stamp_ns: int
    image: RawImage | CompressedImage | RgbImage
    camera: CameraModel | None
    rectified: bool = False
    T_base_cam: Array | None = None
    T_odom_base: Array | None = None
    received_ns: int | None = None
    scene: str | None = None
    keep_candidates: bool = False
    name: str = ""
    others: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class FrameResult:
    """What became of a frame.

    :ivar estimate: the camera's estimate under the state of the sequence; None when refused.
    :ivar refused: a key of :data:`REFUSALS`, or None.
    :ivar state: of the sequence, after this frame.
    :ivar publish: whether ``T_map_base`` may be published. Rejected estimates never are.
    :ivar T_map_base: this frame's own estimate of the base, 4x4; not smoothed, so that a filter may fuse it.
    :ivar covariance_base: its 6x6 covariance.
    :ivar T_map_odom: from the accepted estimates so far; None while unknown or LOST.
    :ivar correction: the same with its drift, where this frame corrected it.
    :ivar timings_ms: by stage: decode, rectify, localize (and localize/<its stages>), track, total.
    :ivar message: why it was refused, in words.
    :ivar reason: the tracker's reason (:class:`vloc_ros.tracking.Decision`).
    :ivar clock_jump: stamps jumped back before this frame; the tracker has been reset.
    :ivar camera: the camera of the rig that ``estimate`` is of: the first that could be used.
    :ivar T_base_cam: that camera on the base; None when refused.
    :ivar cameras: of a rig: the refusal of each camera by name, empty where it was used.
    """

    stamp_ns: int
    estimate: Estimate | None
    refused: str | None
    state: LocalizationState
    publish: bool
    T_map_base: Array | None = None
    covariance_base: Array | None = None
    T_map_odom: Array | None = None
    correction: Correction | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    message: str = ""
    reason: str = ""
    clock_jump: bool = False
    camera: str = ""
    T_base_cam: Array | None = None
    cameras: dict[str, str] = field(default_factory=dict)
