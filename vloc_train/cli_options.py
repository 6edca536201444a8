"""The options of the commands that make and change maps: each stands once, in a dataclass that a command takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from vloc_ros.settings import assigned, numbers_of, settings_from_mapping, settings_to_mapping
from vloc_train.frame_choice.route import extent
from vloc_train.frame_choice.settings import OwnDriveSettings, hold_out_changes, scale_of

if TYPE_CHECKING:
    from vloc_ros.datasets.sequence import PosedSequence
    from vloc_train.training.run import RunOptions

__all__ = ["DriveOptions", "MakeOptions", "command", "drive_settings"]

Options = TypeVar("Options")


def command(run: Callable[[Options], None]) -> Callable[..., None]:
    """A function of one dataclass of options as a command whose parameters are the dataclass's fields."""
    (parameter,) = inspect.signature(run).parameters
    taken: type[Any] = get_type_hints(run)[parameter]
    hints = get_type_hints(taken, include_extras=True)

    def wrapped(**given: Any) -> None:
        run(taken(**given))

    wrapped.__name__, wrapped.__doc__, wrapped.__module__ = run.__name__, run.__doc__, run.__module__
    wrapped.__annotations__ = {f.name: hints[f.name] for f in fields(taken)}
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if f.default is MISSING else f.default,
                annotation=hints[f.name],
            )
            for f in fields(taken)
        ]
    )
    return wrapped


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
Image = Annotated[
    list[str] | None,
    _option("--image", help="Image topic of a bag, where it holds several; repeat it for all cameras of a rig."),
]
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
    _option("--max-gap-s", min=0.0, help="Poses further apart are not interpolated between (default 0.5)."),
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
    _option(
        help="With NavSatFix: a topic (Imu, QuaternionStamped, poses), or course: that of the motion (the default)."
    ),
]
HeadingMinSpeed = Annotated[
    float | None, _option(min=0.0, help="m/s below which there is no course of motion (default 1).")
]
Antenna = Annotated[
    str | None, _option(help="With NavSatFix: x,y,z (m) of the antenna in the base, where /tf_static lacks it.")
]
DatumOption = Annotated[
    str | None,
    _option(
        "--datum", help="With NavSatFix: lat,lon,alt of the map's origin (default: /map/datum, else the first fix)."
    ),
]
Origin = Annotated[
    str | None,
    _option("--origin", help="With poses in large coordinates (UTM): x,y,z (m) of the map's origin in them."),
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
    float | None, _option("--spacing-m", panel=_FRAMES, min=0.0, help="A new frame after so many metres (default 0.5).")
]
SpacingDeg = Annotated[
    float | None, _option("--spacing-deg", panel=_FRAMES, min=0.0, help="Or after turning by this much (default 5).")
]
HoldOut = Annotated[
    str | None,
    _option(
        "--hold-out", panel=_FRAMES,
        help="auto, drive, pass, gaps, stretches, folds, every:N or none: what accuracy and covariance are measured "
        "on, where there is no --calibration-data. Default: auto: folds where the builder can, else another drive, "
        "else another pass, else gaps.",
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
Data = Annotated[
    list[str],
    typer.Option("--data", help="Bag, data-set folder, town:FIELD=VALUE,... or colmap:MODEL, or SCENE=SRC; repeat."),
]
More = Annotated[list[str] | None, typer.Argument(help="More drives after --data.", metavar="[SRC]...")]
Out = Annotated[Path, typer.Option("--out", help="The map to write: a folder, or a file ending in .vmap.")]
Other = Annotated[Path | None, typer.Option("--out", help="Write another map instead of changing this one.")]
AnyDevice = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Assign = Annotated[list[str] | None, typer.Option("--set", help="One setting, for example network.embed_dim=128.")]


@dataclass(kw_only=True)
class DriveOptions:
    """How drives are read."""

    truth: Truth = None
    image: Image = None
    camera_info: CameraInfo = None
    base_frame: BaseFrame = None
    time_offset: TimeOffset = None
    max_gap_s: MaxGap = None
    extrinsics: Extrinsics = None
    heading: Heading = None
    heading_min_speed: HeadingMinSpeed = None
    antenna: Antenna = None
    datum: DatumOption = None
    origin: Origin = None
    keep_going: KeepGoing = False

    def bag_options(self) -> dict[str, Any]:
        """Those that were given, ``truth`` apart, as :class:`vloc_ros.datasets.bag.drive.BagOptions` has them.

        :raises ConfigError: not the numbers that an option wants.
        """
        made: dict[str, Any] = {
            "image": self.image, "camera_info": self.camera_info, "base_frame": self.base_frame,
            "time_offset_s": self.time_offset, "max_gap_s": self.max_gap_s, "heading": self.heading,
            "heading_min_speed": self.heading_min_speed,
            "extrinsics": numbers_of("--extrinsics", self.extrinsics, (6, 12, 16)),
            "antenna": numbers_of("--antenna", self.antenna, (3,)),
            "datum": numbers_of("--datum", self.datum, (3,)),
            "origin": numbers_of("--origin", self.origin, (3,)),
        }  # fmt: skip
        # Lists, as settings are read from YAML.
        return {k: list(v) if isinstance(v, tuple) else v for k, v in made.items() if v is not None}


@dataclass(kw_only=True)
class MakeOptions(DriveOptions):
    """Those of ``vloc train`` and ``vloc map build``."""

    backend: Annotated[
        str,
        typer.Argument(
            help="imposing, retrieval, irpnet, camnet, copr, features, pixloc, or that of an installed package. "
            "vloc map build takes auto, too: features and PixLoc as one map, without training."
        ),
    ]
    more: More = None
    data: Data
    out: Out
    calibration_data: Annotated[
        list[str] | None,
        typer.Option(help="Other drives for validation and covariance; default: what --hold-out takes of --data."),
    ] = None
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="A map whose extractor or network to use (retrieval, irpnet, copr, camnet, pixloc). "
            "Default of map build pixloc: the one shipped."
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(help="paper: the publication's settings; small: minutes on a CPU; others by backend (the first)."),
    ] = None
    config: Annotated[Path | None, typer.Option(help="YAML file of settings that differ from the preset.")] = None
    assign: Assign = None
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="End the training after this long, resumed parts included.")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None
    select: Select = None
    spacing_m: SpacingM = None
    spacing_deg: SpacingDeg = None
    hold_out: HoldOut = None
    drive_set: DriveSet = None
    report: Report = None
    about: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE to note under provenance, for example town.seed=1; repeat.")
    ] = None
    cluster: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Workers of dask that help vloc map build: a scheduler's address, or local:N for N processes here.",
        ),
    ] = ""
    device: AnyDevice = "auto"
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or processes) that share each batch.")] = 1
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images; 0: none apart.")] = 0
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run of the same settings.")] = True
    checkpoint_minutes: Annotated[float, typer.Option(min=0.01, help="A checkpoint at least this often.")] = 2.0
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress.")] = True

    @property
    def sources(self) -> list[str]:
        """Every drive that was named."""
        return [*self.data, *(self.more or [])]

    def run_options(self) -> RunOptions:
        """How to run."""
        from vloc_train.training.run import RunOptions

        return RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})

    def drive_settings(self, drives: Sequence[PosedSequence] = ()) -> OwnDriveSettings:
        """What to do with the drives. :raises ConfigError: see :func:`drive_settings`."""
        spacing = {"spacing_m": self.spacing_m, "spacing_deg": self.spacing_deg}
        return drive_settings(self.drive_set, self.hold_out, drives, **spacing)


def drive_settings(
    drive_set: list[str] | None,
    hold_out: str | None,
    drives: Sequence[PosedSequence] = (),
    **selection: float | None,
) -> OwnDriveSettings:
    """``--drive-set`` with the options that have names of their own on top, over defaults for places of this size.

    :param drives: what is to be mapped. :param selection: settings of the choice of frames; None: not given.
    :raises ConfigError: unknown name, or a value out of range.
    """
    from vloc_train.training.settings import merged

    texts = list(drive_set or [])
    texts += [f"selection.{name}={value}" for name, value in selection.items() if value is not None]
    changes = assigned(texts, "--drive-set")
    if hold_out is not None:
        changes["hold_out"] = {**changes.get("hold_out", {}), **hold_out_changes(hold_out)}
    scale = max((scale_of(extent(drive.T_map_cam[:, :3, 3])) for drive in drives), default=1.0)
    defaults = settings_to_mapping(OwnDriveSettings().scaled(scale))
    return settings_from_mapping(OwnDriveSettings, merged(defaults, changes), "--drive-set")
