"""How the localization is doing, in the terms of ``/diagnostics``: a level, a line, keys and values.

A pure function of a :class:`Snapshot`, so that the live node and replay say the same. :data:`KEYS` documents every
key; :class:`DiagnosticSettings` says when a value is a warning or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar

from vloc_ros.settings import Fixed, ranged
from vloc_ros.tracking import STUCK_S
from vloc_ros.types import LocalizationState

__all__ = ["KEYS", "Diagnostic", "DiagnosticSettings", "Level", "Snapshot", "diagnose"]


class Level(IntEnum):
    """The levels of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


#: Every key that :func:`diagnose` writes, with its meaning and when it raises the level. ``<...>`` varies.
KEYS: dict[str, str] = {
    "state": "INITIALIZING (WARN), LOCALIZED, DEGRADED (WARN) or LOST (ERROR)",
    "backend": "the localizer",
    "map": "id of the map",
    "device": "where it computes",
    "frames": "frames handed in since the start",
    "published": "frames whose pose was published",
    "refused": "frames refused before or instead of an estimate",
    "refused_<reason>": "the same by reason (docs/diagnostics.md lists the reasons)",
    "recent_refused_share": "share of the last 50 frames that were refused; WARN above 0.1, ERROR above 0.5",
    "picture_repeated_s": "for how long the camera has sent nothing but pictures that were used before (s of stamps); "
    f"above {STUCK_S:g} ERROR, or WARN while the odometry says that the vehicle stands",
    "camera_<name>": "of a rig: `used`, or why this camera is left out; WARN, while others are at work",
    "fix_problem": "why satellite fixes are of no use, or what contradicts them; WARN",
    "last_refusal": "why the last refused frame was refused",
    "seconds_since_frame": "time since the stamp of the last frame; WARN and ERROR by setting",
    "seconds_since_pose": "time since the stamp of the last accepted estimate",
    "score": "score of the last estimate, 0 to 1",
    "sigma_m": "largest standard deviation of the last estimate's position, metres",
    "sigma_deg": "the same of its rotation, degrees",
    "estimate_<name>": "what the backend says about the last estimate: `nearest_reference`, the row of the most "
    "similar map image; `position_sigma_m`; `view_covered` and `view_enlarged` where the camera is another than the "
    "map's (docs/other_lenses.md); and what its covariance is made from (its README lists that)",
    "clock_jumps": "times the stamps jumped back and the tracker was reset",
    "tracker_<event>": "events of the tracker: accepted, jump, low_score, relocalized, lost, ...",
    "latency_p50_ms": "median time of the last 50 localized frames, decoding to state",
    "latency_p95_ms": "the 95th percentile; WARN by setting",
    "time_<stage>_ms": "the last frame's time in one stage",
}


#: Shares of refused frames among the last 50: five frames are no accident, and half of them leave no track to follow.
REFUSED_WARN_SHARE, REFUSED_ERROR_SHARE = 0.1, 0.5


@dataclass(frozen=True)
class DiagnosticSettings:
    """When a value is worth a warning; what the frame rate and the processor of a vehicle decide.

    :param no_frame_warn_s: seconds without a frame.
    :param no_frame_error_s: the same for an error.
    :param latency_warn_ms: 95th percentile of a frame's processing time; 0: no limit.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "refused_warn_share": Fixed(REFUSED_WARN_SHARE), "refused_error_share": Fixed(REFUSED_ERROR_SHARE)
    }  # fmt: skip

    no_frame_warn_s: float = ranged(1.0, minimum=0.0)
    no_frame_error_s: float = ranged(5.0, minimum=0.0)
    latency_warn_ms: float = ranged(0.0, minimum=0.0)


@dataclass(frozen=True)
class Snapshot:
    """What there is to report at one moment. Times are stamps of the camera's clock, nanoseconds."""

    state: LocalizationState
    backend: str
    map_id: str
    device: str
    counters: Mapping[str, int]
    tracker_counters: Mapping[str, int] = field(default_factory=dict)
    recent_refused_share: float = 0.0
    picture_repeated_s: float = 0.0
    standing: bool = False
    awaits_motion: bool = False
    cameras: Mapping[str, str] = field(default_factory=dict)
    fix_problem: str = ""
    last_refusal: str = ""
    last_frame_ns: int | None = None
    last_pose_ns: int | None = None
    score: float | None = None
    sigma_m: float | None = None
    sigma_deg: float | None = None
    estimate: Mapping[str, float] = field(default_factory=dict)
    latencies_ms: tuple[float, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnostic:
    """One DiagnosticStatus without its name: values are strings, as the message has them."""

    level: Level
    message: str
    values: dict[str, str]


_STATE_LEVELS = {
    LocalizationState.INITIALIZING: (Level.WARN, "initializing: no confirmed pose yet"),
    LocalizationState.LOCALIZED: (Level.OK, "localized"),
    LocalizationState.DEGRADED: (Level.WARN, "degraded: recent estimates are weak or were rejected"),
    LocalizationState.LOST: (Level.ERROR, "lost: no pose is published"),
}


def diagnose(
    snapshot: Snapshot,
    settings: DiagnosticSettings | None = None,
    now_ns: int | None = None,
    extra: Mapping[str, str | int | float] | None = None,
) -> Diagnostic:
    """The worst finding as level and message (all findings of the message joined), and every known value.

    :param now_ns: the present in the camera's clock; None leaves the ages out (replay).
    :param extra: further keys of a front end (dropped frames, missing transforms); they do not change the level.
    """
    limits = settings or DiagnosticSettings()
    findings = [_STATE_LEVELS[snapshot.state]]
    if snapshot.awaits_motion and snapshot.state is LocalizationState.DEGRADED:
        # It is not the estimates that are weak.
        findings = [
            (Level.WARN, "degraded: the map has no points, so nothing bears the pose out until the vehicle moves")
        ]
    values: dict[str, str] = {
        "state": snapshot.state.value,
        "backend": snapshot.backend,
        "map": snapshot.map_id,
        "device": snapshot.device,
        "clock_jumps": "0",
    }
    for name in ("frames", "published", "refused"):
        values[name] = str(snapshot.counters.get(name, 0))
    for name, count in sorted(snapshot.counters.items()):
        if name.startswith("refused_") or name == "clock_jumps":
            values[name] = str(count)
    values.update({f"tracker_{name}": str(count) for name, count in sorted(snapshot.tracker_counters.items())})

    share = snapshot.recent_refused_share
    values["recent_refused_share"] = f"{share:.2f}"
    if snapshot.last_refusal:
        values["last_refusal"] = snapshot.last_refusal
    if share > 0:
        text = f"{100 * share:.0f} % of recent frames refused ({snapshot.last_refusal})"
        _graded(findings, share, REFUSED_WARN_SHARE, REFUSED_ERROR_SHARE, text)

    repeated = snapshot.picture_repeated_s
    values["picture_repeated_s"] = f"{repeated:.2f}"
    if repeated > STUCK_S:
        what = f"the camera repeats its pictures for {repeated:.1f} s: stuck"
        if snapshot.standing:
            findings.append((Level.WARN, f"{what}, or a simulated one without noise; the vehicle stands"))
        else:
            findings.append((Level.ERROR, f"{what}; check the camera and its driver"))

    if snapshot.fix_problem:
        values["fix_problem"] = snapshot.fix_problem
        findings.append((Level.WARN, f"satellite fix: {snapshot.fix_problem}"))

    for name, problem in snapshot.cameras.items():
        if name:  # the only camera of a vehicle has no name, and frames tell of it
            values[f"camera_{name}"] = problem or "used"
            if problem:
                findings.append((Level.WARN, f"camera {name} is left out ({problem})"))

    if now_ns is not None:
        if snapshot.last_frame_ns is None:
            findings.append((Level.WARN, "no frame yet: check the image topic, its QoS, and camera_info"))
        else:
            age = (now_ns - snapshot.last_frame_ns) * 1e-9
            values["seconds_since_frame"] = f"{age:.2f}"
            _graded(findings, age, limits.no_frame_warn_s, limits.no_frame_error_s, f"no frame for {age:.1f} s")
        if snapshot.last_pose_ns is not None:
            values["seconds_since_pose"] = f"{(now_ns - snapshot.last_pose_ns) * 1e-9:.2f}"

    for name in ("score", "sigma_m", "sigma_deg"):
        number = getattr(snapshot, name)
        if number is not None:
            values[name] = f"{number:.3f}"
    for name, number in snapshot.estimate.items():
        # Rows and counts as whole numbers, beyond the digits of :g.
        values[f"estimate_{name}"] = f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}"
    if snapshot.latencies_ms:
        ordered = sorted(snapshot.latencies_ms)
        p50, p95 = ordered[(len(ordered) - 1) // 2], ordered[round(0.95 * (len(ordered) - 1))]
        values["latency_p50_ms"], values["latency_p95_ms"] = f"{p50:.1f}", f"{p95:.1f}"
        if limits.latency_warn_ms and p95 > limits.latency_warn_ms:
            findings.append((Level.WARN, f"slow: {p95:.0f} ms a frame (95th percentile)"))
    for stage, time in snapshot.timings_ms.items():
        values[f"time_{stage.replace('/', '_')}_ms"] = f"{time:.1f}"
    values.update({name: f"{v:.3f}" if isinstance(v, float) else str(v) for name, v in (extra or {}).items()})

    level = max(found for found, _ in findings)
    # The gravest first; "localized" is no news beside a warning.
    told = [
        text for found, text in sorted(findings, key=lambda item: -item[0]) if found > Level.OK or level == Level.OK
    ]
    return Diagnostic(level, "; ".join(told), values)


def _graded(findings: list[tuple[Level, str]], value: float, warn: float, error: float, text: str) -> None:
    if value > error:
        findings.append((Level.ERROR, text))
    elif value > warn:
        findings.append((Level.WARN, text))
