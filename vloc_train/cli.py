"""``vloc train``, ``vloc map build`` and ``vloc map calibrate``, which the command line finds by their entry points."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.logging import RichHandler

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.settings import assigned
from vloc_train import cli_options as own
from vloc_train.cli_options import Truth
from vloc_train.frame_choice.settings import OwnDriveSettings
from vloc_train.training.sources import (
    by_scene,
    check_bag_options,
    common_datum,
    datum_option,
    is_bag_source,
    of_known_scenes,
)

if TYPE_CHECKING:
    from vloc_train.training.registry import Trainer
    from vloc_train.training.run import RunOptions

__all__ = ["build", "calibrate", "show_progress", "train"]


def _changes(config: Path | None, assignments: list[str], option: str = "--set") -> dict[str, Any]:
    """Settings from a YAML file, then ``name=value`` pairs (``network.embed_dim=128``) on top."""
    changes: dict[str, Any] = {}
    if config is not None:
        try:
            loaded = yaml.safe_load(config.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            raise ConfigError(f"{config}: expected a YAML file of settings: {problem}") from problem
        if not isinstance(loaded, dict):
            raise ConfigError(f"{config}: expected a mapping of settings, found {type(loaded).__name__}")
        changes = loaded
    return assigned(assignments, option, changes)


Data = Annotated[
    list[str],
    typer.Option("--data", help="Bag, data-set folder, town:FIELD=VALUE,... or colmap:MODEL, or SCENE=SRC; repeat."),
]
Out = Annotated[Path, typer.Option("--out", help="The map to write: a folder, or a file ending in .vmap.")]
More = Annotated[list[str] | None, typer.Argument(help="More drives after --data.", metavar="[SRC]...")]
CalibrationData = Annotated[
    list[str] | None,
    typer.Option(help="Other drives for validation and covariance calibration; default: held-out frames of --data."),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings that differ from the preset.")]
Assign = Annotated[list[str] | None, typer.Option("--set", help="One setting, for example network.embed_dim=128.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]
About = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE to note under provenance, for example town.seed=1; repeat.")
]
Extractor = Annotated[
    Path | None, typer.Option(help="A map whose extractor or network to use (retrieval, irpnet, copr, camnet, pixloc).")
]


Preset = Annotated[
    str | None,
    typer.Option(
        help="paper: the publication's settings; small: minutes on a CPU; others by backend; default: its first."
    ),
]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0.01, help="End the training after this long, resumed parts included.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[int, typer.Option(min=1, help="GPUs (or processes) that share each batch.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that augment images; 0: none apart.")]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run of the same settings.")]
CheckpointMinutes = Annotated[float, typer.Option(min=0.01, help="A checkpoint at least this often.")]
ProgressOption = Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress.")]


def train(
    backend: Annotated[
        str, typer.Argument(help="Backend to train: imposing, retrieval, irpnet, camnet, copr or pixloc.")
    ],
    data: Data,
    out: Out,
    more: More = None,
    calibration_data: CalibrationData = None,
    extractor: Extractor = None,
    preset: Preset = None,
    config: Config = None,
    assign: Assign = None,
    max_minutes: MaxMinutes = None,
    seed: Seed = None,
    truth: Truth = None,
    image: own.Image = None,
    camera_info: own.CameraInfo = None,
    base_frame: own.BaseFrame = None,
    time_offset: own.TimeOffset = None,
    max_gap_s: own.MaxGap = None,
    extrinsics: own.Extrinsics = None,
    heading: own.Heading = None,
    heading_min_speed: own.HeadingMinSpeed = None,
    antenna: own.Antenna = None,
    datum: own.DatumOption = None,
    keep_going: own.KeepGoing = False,
    select: own.Select = None,
    spacing_m: own.SpacingM = None,
    spacing_deg: own.SpacingDeg = None,
    hold_out: own.HoldOut = None,
    drive_set: own.DriveSet = None,
    report: own.Report = None,
    about: About = None,
    device: Device = "auto",
    devices: Devices = 1,
    workers: Workers = 0,
    resume: Resume = True,
    checkpoint_minutes: CheckpointMinutes = 2.0,
    progress: ProgressOption = True,
) -> None:
    """Train a map of recorded drives. The same command continues after an interruption."""
    from vloc_train.training.registry import TRAINERS, find
    from vloc_train.training.run import RunOptions

    show_progress()
    _make(
        backend,
        find(TRAINERS, backend, "train"),
        [*data, *(more or [])],
        out,
        preset,
        _changes(config, assign or [], "--set"),
        {"max_minutes": max_minutes, "seed": seed},
        RunOptions(device, devices, workers, checkpoint_minutes, resume, progress),
        where=str(config or "command line"),
        bag=own.bag_options(
            truth, image, camera_info, base_frame, time_offset, max_gap_s, extrinsics, heading, heading_min_speed,
            antenna, datum,
        ),
        keep_going=keep_going,
        select=select,
        drive_settings=own.drive_settings(drive_set, spacing_m, spacing_deg, hold_out),
        hold_out_named=hold_out is not None,
        report=report,
        calibration_data=calibration_data,
        about=_changes(None, about or [], "--about"),
        extractor=extractor,
    )  # fmt: skip


def build(
    backend: Annotated[
        str, typer.Argument(help="Backend of the map: imposing, retrieval, irpnet, camnet, copr or pixloc.")
    ],
    data: Data,
    out: Out,
    more: More = None,
    calibration_data: CalibrationData = None,
    extractor: Extractor = None,
    preset: Preset = None,
    config: Config = None,
    assign: Assign = None,
    max_minutes: MaxMinutes = None,
    seed: Seed = None,
    truth: Truth = None,
    image: own.Image = None,
    camera_info: own.CameraInfo = None,
    base_frame: own.BaseFrame = None,
    time_offset: own.TimeOffset = None,
    max_gap_s: own.MaxGap = None,
    extrinsics: own.Extrinsics = None,
    heading: own.Heading = None,
    heading_min_speed: own.HeadingMinSpeed = None,
    antenna: own.Antenna = None,
    datum: own.DatumOption = None,
    keep_going: own.KeepGoing = False,
    select: own.Select = None,
    spacing_m: own.SpacingM = None,
    spacing_deg: own.SpacingDeg = None,
    hold_out: own.HoldOut = None,
    drive_set: own.DriveSet = None,
    report: own.Report = None,
    about: About = None,
    device: Device = "auto",
    devices: Devices = 1,
    workers: Workers = 0,
    resume: Resume = True,
    checkpoint_minutes: CheckpointMinutes = 2.0,
    progress: ProgressOption = True,
) -> None:
    """From recorded drives to a calibrated map and a report on its quality, whatever the backend needs: with what
    another map has learned (--extractor) where it can be built, else by training."""
    from vloc_train.training.registry import maker_for
    from vloc_train.training.run import RunOptions

    show_progress()
    sources = [*data, *(more or [])]
    if select is None:
        select = all(is_bag_source(source) for source in sources)
    _make(
        backend,
        maker_for(backend, preset, extractor is not None),
        sources,
        out,
        preset,
        _changes(config, assign or [], "--set"),
        {"max_minutes": max_minutes, "seed": seed},
        RunOptions(device, devices, workers, checkpoint_minutes, resume, progress),
        where=str(config or "command line"),
        bag=own.bag_options(
            truth, image, camera_info, base_frame, time_offset, max_gap_s, extrinsics, heading, heading_min_speed,
            antenna, datum,
        ),
        keep_going=keep_going,
        select=select,
        drive_settings=own.drive_settings(drive_set, spacing_m, spacing_deg, hold_out),
        hold_out_named=hold_out is not None,
        report=report,
        calibration_data=calibration_data,
        about=_changes(None, about or [], "--about"),
        extractor=extractor,
    )  # fmt: skip


def _make(
    backend: str,
    maker: Trainer,
    sources: list[str],
    out: Path,
    preset: str | None,
    changes: dict[str, Any],
    limits: dict[str, Any],
    options: RunOptions,
    *,
    where: str,
    bag: dict[str, Any],
    keep_going: bool,
    select: bool | None,
    drive_settings: OwnDriveSettings,
    hold_out_named: bool,
    report: Path | None,
    calibration_data: list[str] | None,
    about: dict[str, Any],
    extractor: Path | None,
) -> None:
    """What ``vloc train`` and ``vloc map build`` have in common."""
    settings = maker.settings(preset or maker.presets[0], changes, where)
    settings = _with(settings, {k: v for k, v in limits.items() if v is not None}, backend)
    problems = Problems(keep_going)
    truth = bag.pop("truth", None)
    check_bag_options(bag, [*sources, *(calibration_data or [])])
    scenes = by_scene(sources, truth, bag, problems)
    calibration = None
    if calibration_data:
        known = datum_option(scenes)
        more = bag if known is None else {"datum": known, **bag}
        calibration = of_known_scenes(by_scene(calibration_data, truth, more, problems), list(scenes))
    if select or report is not None or hold_out_named or keep_going:
        from vloc_train.build_map import make_map

        if not select and not hold_out_named:
            drive_settings = replace(drive_settings, hold_out=replace(drive_settings.hold_out, kind="every"))
        if report is None and select:
            report = out.with_name(f"{out.name.removesuffix('.vmap')}-report")
        bundle = make_map(
            maker, scenes, out, settings, options, drive_settings, select=bool(select), report=report,
            calibration=calibration, about=about, extractor=extractor, problems=problems,
        )  # fmt: skip
    else:
        datum = common_datum(scenes, calibration)
        bundle = maker.run(scenes, out, settings, options, calibration=calibration, about=about, extractor=extractor)
        if datum is not None:
            from vloc_train.build_map import with_datum

            bundle = with_datum(bundle, datum)
    _summary(bundle)
    if report is not None:
        Console().print(f"report: {report / 'report.html'}", markup=False)


def show_progress() -> None:
    """Messages of long work as plain lines on the terminal."""
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False, show_level=False)]
    )
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _with(settings: Any, changes: dict[str, Any], backend: str) -> Any:
    known = {f.name for f in fields(settings)}
    for name in changes:
        if name not in known:
            raise ConfigError(f"{backend}: has no setting {name!r}; leave out --{name.replace('_', '-')}")
    return replace(settings, **changes)


def calibrate(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A map: a folder, or a .vmap file.")],
    data: Annotated[list[str], typer.Option("--data", help="A drive that the map was not trained on, or SCENE=PATH.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write another map instead of changing this one.")] = None,
    truth: Truth = None,
    image: own.Image = None,
    camera_info: own.CameraInfo = None,
    base_frame: own.BaseFrame = None,
    time_offset: own.TimeOffset = None,
    max_gap_s: own.MaxGap = None,
    extrinsics: own.Extrinsics = None,
    heading: own.Heading = None,
    heading_min_speed: own.HeadingMinSpeed = None,
    antenna: own.Antenna = None,
    keep_going: own.KeepGoing = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Fit the covariance of a map to a drive of today: another season, another camera of the same lens.

    The weights stay as they are, and with them the map's id.
    """
    from vloc_train.training.calibration import recalibrate

    bag = own.bag_options(
        None, image, camera_info, base_frame, time_offset, max_gap_s, extrinsics, heading, heading_min_speed, antenna
    )
    datum = read_map(map_path).manifest.scenes[0].datum
    if datum is not None:
        bag["datum"] = [datum.latitude_deg, datum.longitude_deg, datum.altitude_m]
    problems = Problems(keep_going)
    drives = by_scene(data, truth, bag, problems)
    if keep_going:
        from vloc_train.build_map import undamaged

        drives = {name: [undamaged(drive, problems) for drive in many] for name, many in drives.items()}
    found = common_datum(drives)
    if None not in (datum, found) and datum != found:
        raise DatasetError(f"{map_path}: expected poses in the map's frame at {datum}, found a drive at {found}")
    _summary(recalibrate(map_path, drives, out or map_path, device))


def _summary(bundle: MapBundle) -> None:
    console = Console()
    for scene, found in bundle.manifest.validation.items():
        median = f"median {found['median_translation_m']:.2f} m {found['median_rotation_deg']:.2f} deg"
        recall = f"within 2 m and 5 deg {100 * found['recall_2m_5deg']:.1f} % of {found['frames']} frames"
        console.print(f"{scene}: held-out {median}, {recall}", markup=False)
    size = f"{bundle.size_bytes / 1e6:.2f} MB"
    console.print(f"map: {bundle.path} ({size}); vloc map info {bundle.path}", markup=False)
