"""The command-line options about one's own drive, which ``vloc train`` and ``vloc map build`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vloc_ros.settings import assigned, numbers_of, settings_from_mapping
from vloc_train.frame_choice.settings import OwnDriveSettings

__all__ = [
    "Antenna",
    "BaseFrame",
    "CameraInfo",
    "DatumOption",
    "DriveSet",
    "Extrinsics",
    "Heading",
    "HeadingMinSpeed",
    "HoldOut",
    "Image",
    "KeepGoing",
    "MaxGap",
    "Report",
    "Select",
    "SpacingDeg",
    "SpacingM",
    "TimeOffset",
    "Truth",
    "bag_options",
    "drive_settings",
]

_PANEL = "One's own drive: bags"
_FRAMES = "One's own drive: frames, hold-out, report"


def _option(*names: str, panel: str = _PANEL, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


Truth = Annotated[
    str | None,
    _option(
        "--truth", "--pose-topic",
        help="Reference poses: a topic (PoseStamped, PoseWithCovarianceStamped, TransformStamped, Odometry, NavSatFix) "
        "or /tf:PARENT.CHILD. Default: /reference/pose, or the only pose topic.",
    ),
]  # fmt: skip
Image = Annotated[str | None, _option("--image", help="Image topic of a bag, where it holds several.")]
CameraInfo = Annotated[
    str | None, _option("--camera-info", help="Topic of the intrinsics, or a YAML file of camera_calibration.")
]
BaseFrame = Annotated[
    str | None, _option("--base-frame", help="Frame whose pose the reference is, where no message names it.")
]
TimeOffset = Annotated[
    float | None, _option("--time-offset", help="Seconds to add to the poses' stamps to get the images' clock.")
]
MaxGap = Annotated[
    float | None,
    _option("--max-gap-s", min=0.0, help="Poses further apart are not interpolated between (0.5)."),
]
Extrinsics = Annotated[
    str | None,
    _option(
        help="Camera in the base, instead of /tf_static: x,y,z,roll,pitch,yaw (m, rad; zeros look ahead), or the 12 or "
        "16 numbers of the matrix of the optical frame.",
    ),
]
Heading = Annotated[
    str | None,
    _option(help="With NavSatFix: a topic (Imu, QuaternionStamped, poses), or course: that of the motion (default)."),
]
HeadingMinSpeed = Annotated[float | None, _option(min=0.0, help="m/s below which there is no course of motion (1.0).")]
Antenna = Annotated[
    str | None, _option(help="With NavSatFix: x,y,z (m) of the antenna in the base, where /tf_static lacks it.")
]
DatumOption = Annotated[
    str | None,
    _option(
        "--datum", help="With NavSatFix: lat,lon,alt of the map's origin; default: /map/datum, else the first fix."
    ),
]
KeepGoing = Annotated[bool, _option("--keep-going", help="Leave faulty poses and images out and count them.")]
Select = Annotated[
    bool | None,
    _option(
        "--select/--all-frames", panel=_FRAMES,
        help="Frames by motion, without blurred and dark ones. Default: for bags in vloc map build.",
    ),
]  # fmt: skip
SpacingM = Annotated[
    float | None,
    _option("--spacing-m", panel=_FRAMES, min=0.0, help="A new frame after so many metres (0.5)."),
]
SpacingDeg = Annotated[
    float | None, _option("--spacing-deg", panel=_FRAMES, min=0.0, help="Or after turning by this much (5).")
]
HoldOut = Annotated[
    str | None,
    _option(
        "--hold-out", panel=_FRAMES,
        help="auto, drive, pass, gaps, stretches, every or none: what accuracy and covariance are measured on, where "
        "there is no --calibration-data. Default: auto with --select, else every.",
    ),
]  # fmt: skip
DriveSet = Annotated[
    list[str] | None,
    _option("--drive-set", panel=_FRAMES, help="One of these settings, for example selection.blur=0.2; repeat."),
]
Report = Annotated[
    Path | None,
    _option("--report", panel=_FRAMES, help="Folder of the map-quality report. Default: OUT-report with --select."),
]


def bag_options(
    truth: str | None = None,
    image: str | None = None,
    camera_info: str | None = None,
    base_frame: str | None = None,
    time_offset: float | None = None,
    max_gap_s: float | None = None,
    extrinsics: str | None = None,
    heading: str | None = None,
    heading_min_speed: float | None = None,
    antenna: str | None = None,
    datum: str | None = None,
) -> dict[str, Any]:
    """The options that were given, as :class:`vloc_ros.datasets.bag.drive.BagOptions` has them.

    :raises ConfigError: not the numbers that an option wants.
    """
    made: dict[str, Any] = {
        "truth": truth, "image": image, "camera_info": camera_info, "base_frame": base_frame,
        "time_offset_s": time_offset, "max_gap_s": max_gap_s, "heading": heading,
        "heading_min_speed": heading_min_speed,
        "extrinsics": _list(numbers_of("--extrinsics", extrinsics, (6, 12, 16))),
        "antenna": _list(numbers_of("--antenna", antenna, (3,))),
        "datum": _list(numbers_of("--datum", datum, (3,))),
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def _list(values: tuple[float, ...] | None) -> list[float] | None:
    """As settings are read from YAML."""
    return None if values is None else list(values)


def drive_settings(
    assignments: list[str] | None, spacing_m: float | None, spacing_deg: float | None, hold_out: str | None
) -> OwnDriveSettings:
    """``--drive-set`` with the options that have names of their own on top.

    :raises ConfigError: unknown name, or a value out of range.
    """
    texts = list(assignments or [])
    for name, value in (
        ("selection.spacing_m", spacing_m), ("selection.spacing_deg", spacing_deg), ("hold_out.kind", hold_out),
    ):  # fmt: skip
        if value is not None:
            texts.append(f"{name}={value}")
    return settings_from_mapping(OwnDriveSettings, assigned(texts, "--drive-set"), "--drive-set")
