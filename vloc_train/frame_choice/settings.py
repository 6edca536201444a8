"""What may be changed about frames, hold-out and report (``--drive-set NAME=VALUE``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.settings import Fixed, ranged, settings_from_mapping

__all__ = [
    "HoldOutKind",
    "HoldOutSettings",
    "OwnDriveSettings",
    "ReportSettings",
    "SelectionSettings",
    "hold_out_changes",
    "scale_of",
]

#: From this extent on lengths are those of streets; they shrink with the place down to a two-hundredth.
_STREET_M, _SMALLEST = 50.0, 0.005
HoldOutKind = Literal["auto", "drive", "pass", "gaps", "stretches", "every", "folds", "none"]


@dataclass(frozen=True)
class SelectionSettings:
    """Which frames of a drive are used.

    :param spacing_m: a new frame after so many metres; 0: every frame that is good.
    :param spacing_deg: or after turning by so many degrees.
    :param blur: a frame is blurred when its sharpness is below this share of the median of its surroundings. Sharpness
        is the variance of the image's Laplacian by the variance of the image, so that neither light nor contrast
        decide. 0 keeps all.
    :param blur_window_m: length of road around a frame whose median it is compared with.
    :param blur_floor: the surroundings' median counts as at least this share of the drive's, so that a long blurred
        stretch does not excuse itself.
    :param dark_grey: a frame is dark when nine tenths of its pixels are below this grey level (of 255). 0 keeps all.
    :param bright_share: a frame is overexposed when more than this share of its pixels is at 250 or above. 1 keeps all.
    :param flat: a frame shows nothing when its grey levels have a smaller standard deviation than this.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"still_m": Fixed(0.05)}

    spacing_m: float = ranged(0.5, minimum=0.0, maximum=100.0)
    spacing_deg: float = ranged(5.0, minimum=0.0, maximum=180.0)
    blur: float = ranged(0.3, minimum=0.0, maximum=1.0)
    blur_window_m: float = ranged(100.0, minimum=0.001)
    blur_floor: float = ranged(0.4, minimum=0.0, maximum=1.0)
    dark_grey: float = ranged(30.0, minimum=0.0, maximum=255.0)
    bright_share: float = ranged(0.5, minimum=0.0, maximum=1.0)
    flat: float = ranged(4.0, minimum=0.0, maximum=128.0)


@dataclass(frozen=True)
class HoldOutSettings:
    """What is kept out of training, to calibrate the covariance on and to report the accuracy of.

    :param kind: ``drive``: a whole drive whose places the others cover. ``pass``: stretches of one passage, where the
        route was driven more than once. ``gaps``: short gaps of a single passage. ``stretches``: long stretches of it,
        which training then has never seen. ``every``: every n-th frame. ``folds``: the map has all frames,
        and is calibrated on what maps without a part of them make of that part; for builders that can. ``none``:
        nothing. ``auto``: ``folds`` where the builder can, else the first of ``drive``, ``pass`` and ``gaps`` that the
        drives allow.
    :param every: n of ``every``.
    :param share: about this share of the route is held out (for ``gaps`` and ``stretches`` guards included).
    :param near_m: a place is the same place up to this distance,
    :param near_deg: and when the camera looks the same way up to this angle.
    :param pass_m: length of a held-out stretch of a passage. A sixth of it before and behind is guard: frames of the
        same passage that are not used at all. Passages of a place are two when at least this much road lies between.
    :param gap_m: length of the held-out middle of a gap. Half of it before and behind is guard, in place and time: the
        nearest frame of the map is so far away.
    :param stretch_m: length of a held-out stretch of ``stretches``; a sixth of it before and behind is guard.
    :param coverage: share of a drive's frames that must be near others' for it to be held out.
    :param frames: most frames to calibrate on, evenly taken of those that are held out.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "apart_s": Fixed(20.0), "apart_m": Fixed(30.0), "pass_guard_m": Fixed(5.0), "gap_guard_m": Fixed(1.5),
        "stretch_guard_m": Fixed(5.0),
    }  # fmt: skip

    kind: HoldOutKind = "auto"
    every: int = ranged(10, minimum=2)
    share: float = ranged(0.2, minimum=0.01, maximum=0.5)
    near_m: float = ranged(4.0, minimum=0.001)
    near_deg: float = ranged(45.0, minimum=1.0, maximum=180.0)
    pass_m: float = ranged(30.0, minimum=0.001)
    gap_m: float = ranged(3.0, minimum=0.001)
    stretch_m: float = ranged(30.0, minimum=0.001)
    coverage: float = ranged(0.9, minimum=0.0, maximum=1.0)
    frames: int = ranged(500, minimum=20)

    @staticmethod
    def named(text: str) -> HoldOutSettings:
        """``KIND``, or ``every:N``. :raises ConfigError: no such kind, or N is no number from 2."""
        return settings_from_mapping(HoldOutSettings, hold_out_changes(text), "--hold-out")


def hold_out_changes(text: str) -> dict[str, Any]:
    """The settings that ``--hold-out KIND`` or ``--hold-out every:N`` stand for."""
    kind, separator, number = text.partition(":")
    if not separator:
        return {"kind": kind}
    if kind != "every" or not number.isdecimal():
        raise ConfigError(f"--hold-out: expected every:N with a number N, found {text!r}")
    return {"kind": kind, "every": int(number)}


@dataclass(frozen=True)
class ReportSettings:
    """What the map-quality report looks at.

    Lengths are for streets, see :meth:`OwnDriveSettings.scaled`.

    :param segment_m: the route is judged in segments of this length.
    :param sparse_m: a segment is sparse when its frames are further apart than this on average.
    :param weak_m: errors and sigmas up to this never make a segment weak.
    :param far_m: frames further apart than this are different places.
    :param near_m: what an image is compared with to tell whether another place is as similar: frames up to so far away.
    :param pictures: camera pictures in the report: of dropped frames, of ambiguous places, of the largest errors.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "piece_m": "segment_m", "dropped_share": Fixed(0.3), "weak_times": Fixed(3.0), "similar": Fixed(1.0)
    }  # fmt: skip

    segment_m: float = ranged(20.0, minimum=0.001)
    sparse_m: float = ranged(2.0, minimum=0.001)
    weak_m: float = ranged(0.5, minimum=0.0)
    far_m: float = ranged(20.0, minimum=0.001)
    near_m: float = ranged(4.0, minimum=0.001)
    pictures: bool = True


@dataclass(frozen=True)
class OwnDriveSettings:
    """The whole chain from a drive to a map and its report."""

    selection: SelectionSettings = field(default_factory=SelectionSettings)
    hold_out: HoldOutSettings = field(default_factory=HoldOutSettings)
    report: ReportSettings = field(default_factory=ReportSettings)

    def scaled(self, scale: float) -> OwnDriveSettings:
        """With every length times ``scale``: the defaults are for streets."""

        def smaller(part: Any) -> Any:
            lengths = [f.name for f in fields(part) if f.name.endswith("_m")]
            return replace(part, **{name: scale * getattr(part, name) for name in lengths})

        return OwnDriveSettings(smaller(self.selection), smaller(self.hold_out), smaller(self.report))


def scale_of(extent_m: float) -> float:
    """How much smaller than a street a place of this extent (:func:`vloc_train.frame_choice.route.extent`) is: 1 from
    50 m on; of a room of 5 m a tenth, whatever is carried through it comes so much nearer to where it has been."""
    return float(min(1.0, max(extent_m / _STREET_M, _SMALLEST)))
