"""``vloc try``, ``train``, ``map build``, ``calibrate``, ``add``, ``densify``: what the command line finds by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vloc_ros.cli.progress import show_progress
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.settings import assigned
from vloc_ros.yaml_text import parse_yaml
from vloc_train.cli_options import (
    AnyDevice,
    Assign,
    Data,
    DriveOptions,
    DriveSet,
    HoldOut,
    MakeOptions,
    More,
    Other,
    Truth,
    command,
    drive_settings,
)
from vloc_train.training.scenes import (
    by_scene,
    check_bag_options,
    common_datum,
    datum_option,
    is_bag_source,
    of_known_scenes,
)

if TYPE_CHECKING:
    from vloc_train.training.recipe import Trainer

__all__ = ["add", "build", "calibrate", "densify", "train", "try_drive"]

_log = logging.getLogger(__name__)
MapArgument = Annotated[Path, typer.Argument(metavar="MAP", help="A map: a folder, or a .vmap file.")]


def _changes(config: Path | None, assignments: list[str], option: str = "--set") -> dict[str, Any]:
    """Settings from a YAML file, then ``name=value`` pairs (``network.embed_dim=128``) on top."""
    changes: dict[str, Any] = {}
    if config is not None:
        try:
            loaded = parse_yaml(config.read_bytes())
        except (OSError, ValueError) as problem:
            raise ConfigError(f"{config}: expected a YAML file of settings: {problem}") from problem
        if not isinstance(loaded, dict):
            raise ConfigError(f"{config}: expected a mapping of settings, found {type(loaded).__name__}")
        changes = loaded
    return assigned(assignments, option, changes)


@command
def train(options: MakeOptions) -> None:
    """Train a map of recorded drives. The same command continues after an interruption."""
    from vloc_train.training.registry import TRAINERS, find

    _make(options, find(TRAINERS, options.backend, "train"), bool(options.select))


@command
def build(options: MakeOptions) -> None:
    """From recorded drives to a calibrated map and a report on its quality, whatever the backend needs: with what
    another map has learned (--extractor) where it can be built, else by training."""
    from vloc_train.training.registry import maker_for

    select = options.select
    if select is None:
        select = all(is_bag_source(source) for source in options.sources)
    _make(options, maker_for(options.backend, options.preset, options.extractor is not None), select)


def _make(options: MakeOptions, maker: Trainer[Any], select: bool) -> None:
    """What ``vloc train`` and ``vloc map build`` have in common."""
    from vloc_train.build_map import make_map

    show_progress()
    changes = _changes(options.config, options.assign or [])
    _old_hold_out(options, changes)
    settings = maker.settings(options.preset or maker.presets[0], changes, str(options.config or "command line"))
    limits = {"max_minutes": options.max_minutes, "seed": options.seed}
    settings = _with(settings, {k: v for k, v in limits.items() if v is not None}, options.backend)
    problems = Problems(options.keep_going)
    bag = options.bag_options()
    check_bag_options(bag, [*options.sources, *(options.calibration_data or [])])
    scenes = by_scene(options.sources, options.truth, bag, problems)
    calibration = None
    if options.calibration_data:
        known = datum_option(scenes)
        more = bag if known is None else {"datum": known, **bag}
        calibration = of_known_scenes(by_scene(options.calibration_data, options.truth, more, problems), list(scenes))
    own = options.drive_settings([drive for many in scenes.values() for drive in many])
    report = options.report
    if report is None and select:
        report = options.out.with_name(f"{options.out.name.removesuffix('.vmap')}-report")
    bundle = make_map(
        maker, scenes, options.out, settings, options.run_options(), own, select=select,
        report=report, calibration=calibration, about=_changes(None, options.about or [], "--about"),
        extractor=options.extractor, problems=problems,
    )  # fmt: skip
    _summary(bundle)
    if report is not None:
        Console().print(f"report: {report / 'report.html'}", markup=False)


def _old_hold_out(options: MakeOptions, changes: dict[str, Any]) -> None:
    """``hold_out`` was a setting of every backend."""
    if "hold_out" not in changes:
        return
    number = changes.pop("hold_out")
    now = "none" if number == 0 else f"every:{number}"
    _log.warning("setting hold_out=%s: expected --hold-out %s, its new name; taken as that", number, now)
    options.hold_out = options.hold_out or now


def _with(settings: Any, changes: dict[str, Any], backend: str) -> Any:
    known = {f.name for f in fields(settings)}
    for name in changes:
        if name not in known:
            raise ConfigError(f"{backend}: has no setting {name!r}; leave out --{name.replace('_', '-')}")
    return replace(settings, **changes)


@dataclass(kw_only=True)
class CalibrateOptions(DriveOptions):
    """Those of ``vloc map calibrate``."""

    map_path: MapArgument
    data: Annotated[list[str], typer.Option("--data", help="A drive that the map was not trained on, or SCENE=PATH.")]
    out: Other = None
    device: AnyDevice = "auto"


@command
def calibrate(options: CalibrateOptions) -> None:
    """Fit the covariance of a map to a drive of today: another season, another camera of the same lens.

    The weights stay as they are, and with them the map's id.
    """
    from vloc_train.training.calibration import recalibrate

    bag = options.bag_options()
    datum = read_map(options.map_path).manifest.scenes[0].datum
    if datum is not None:
        bag["datum"] = [datum.latitude_deg, datum.longitude_deg, datum.altitude_m]
    problems = Problems(options.keep_going)
    drives = by_scene(options.data, options.truth, bag, problems)
    if options.keep_going:
        from vloc_train.build_map import undamaged

        drives = {name: [undamaged(drive, problems) for drive in many] for name, many in drives.items()}
    found = common_datum(drives)
    if None not in (datum, found) and datum != found:
        raise DatasetError(
            f"{options.map_path}: expected poses in the map's frame at {datum}, found a drive at {found}"
        )
    _summary(recalibrate(options.map_path, drives, options.out or options.map_path, options.device))


@dataclass(kw_only=True)
class TryOptions(DriveOptions):
    """Those of ``vloc try``."""

    drives: Annotated[
        list[str],
        typer.Argument(
            metavar="DRIVE",
            help="Bag, data-set folder or town:FIELD=VALUE,... Of one, a part is held out; of several, the last.",
        ),
    ]
    out: Annotated[Path, typer.Option("--out", help="Folder for the map, the report and the pictures.")] = Path(
        "out/try"
    )
    backend: Annotated[str, typer.Option(help="What kind of map, see vloc map build; it must need no training.")] = (
        "features"
    )
    hold_out: HoldOut = None
    drive_set: DriveSet = None
    assign: Assign = None
    queries: Annotated[int, typer.Option(min=1, help="Frames to ask at most, evenly taken.")] = 200
    device: AnyDevice = "auto"


@command
def try_drive(options: TryOptions) -> None:
    """Try it on your own recording: a part of it becomes a map, the rest is localized, and a page says how well."""
    from vloc_train.training.registry import BUILDERS, find
    from vloc_train.trial import print_trial, try_drives

    show_progress(logging.WARNING)
    maker = find(BUILDERS, options.backend, "map build")
    problems = Problems(options.keep_going)
    bag = options.bag_options()
    check_bag_options(bag, options.drives)
    scenes = by_scene(options.drives, options.truth, bag, problems)
    if list(scenes) != ["map"]:
        raise ConfigError(f"vloc try: expected drives of one place, found the scenes {', '.join(scenes)}")
    settings = maker.settings(maker.presets[0], assigned(options.assign or [], "--set"), "command line")
    own = drive_settings(options.drive_set, options.hold_out, scenes["map"])
    trial = try_drives(
        maker, scenes["map"], options.out, settings=settings, own=own,
        queries=options.queries, device=options.device, problems=problems,
    )  # fmt: skip
    print_trial(trial, options.drives, options.backend)


def add(
    map_path: MapArgument,
    data: Data,
    more: More = None,
    out: Other = None,
    spacing_m: Annotated[float, typer.Option(min=0.0, help="Frames this far apart only; 0: all.")] = 0.0,
    spacing_deg: Annotated[float, typer.Option(min=0.0, help="With --spacing-m: or turned by this much.")] = 0.0,
    truth: Truth = None,
    device: AnyDevice = "auto",
) -> None:
    """Add images of more drives to a map's database. Nothing is trained, and the covariance stays calibrated as it was;
    vloc map calibrate fits it anew."""
    from vloc_train.retrieval.grow import add_images
    from vloc_train.training.frames import DatabaseChoice

    show_progress()
    scenes = by_scene([*data, *(more or [])], truth)
    bundle = add_images(map_path, scenes, out, device, DatabaseChoice(spacing_m, spacing_deg))
    note = bundle.manifest.provenance["added"][-1]
    for name in scenes:
        scene = name if name in note else bundle.manifest.scenes[0].name
        typer.echo(f"{scene}: {note[scene]['frames']} images added; map: {bundle.path}")


def densify(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A map with a descriptor database.")],
    scheme: Annotated[
        str, typer.Option(help="interpolate (along the trajectory) or extrapolate (around references).")
    ] = "extrapolate",
    method: Annotated[
        str | None,
        typer.Option(help="linear, plane or nonlinear; default: plane to interpolate, nonlinear to extrapolate."),
    ] = None,
    step: Annotated[float, typer.Option(min=0.001, help="Metres between targets.")] = 0.05,
    span: Annotated[
        float | None,
        typer.Option(min=0.001, help="Metres to extrapolate around a reference; default: until neighbours meet."),
    ] = None,
    side: Annotated[
        float | None, typer.Option(min=0.0, help="Metres to the side of the camera at most, the width of a road.")
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Extrapolation: anchor (a grid around each reference), global (one grid) or lateral.")
    ] = "anchor",
    lateral: Annotated[
        list[float] | None,
        typer.Option(help="With --grid lateral: metres to the right of the camera, negative to the left; repeat."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Keep only every n-th image of the map first.")] = 1,
    regressor: Annotated[
        Path | None, typer.Option(help="A map that vloc train copr made; default: MAP's own regressor.")
    ] = None,
    out: Other = None,
    calibration_data: Annotated[
        list[str] | None,
        typer.Option(help="Drives that the map does not hold, to calibrate the dense map's covariance; SCENE=PATH."),
    ] = None,
    truth: Truth = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, for example targets.max_gap_m=30.0 or blend=2.")
    ] = None,
    device: AnyDevice = "auto",
) -> None:
    """Add regressed descriptors between a map's references, or around them (CoPR). Images are not needed."""
    from vloc_train.copr.densify import densify_map, densify_settings

    show_progress()
    targets: dict[str, Any] = {"scheme": scheme, "step_m": step, "span_m": span, "side_m": side, "grid": grid}
    if lateral:
        targets |= {"lateral_m": lateral, "grid": "lateral"}
    given: dict[str, Any] = {"targets": targets, "every": every, **({"method": method} if method else {})}
    settings = densify_settings(assigned(assign or [], "--set", given), "command line")
    drives = by_scene(calibration_data, truth) if calibration_data else None
    if drives is not None and "map" in drives:
        names = [scene.name for scene in read_map(map_path).manifest.scenes]
        if len(names) == 1:
            drives = {names[0]: drives["map"]}
    bundle = densify_map(map_path, out or map_path, settings, regressor, drives, device)
    for name, figures in bundle.manifest.provenance["densified"][-1]["scenes"].items():
        typer.echo(
            f"{name}: {figures['images']} images, {figures['regressed']} regressed "
            f"({100 * figures['regressed_share']:.1f} %)"
        )
    if not bundle.manifest.calibration:
        typer.echo("not calibrated: give --calibration-data, or run vloc map calibrate")
    typer.echo(f"map: {bundle.path} ({bundle.size_bytes / 1e6:.2f} MB)")


def _summary(bundle: MapBundle) -> None:
    """The figures of held-out frames, and what else these frames decided."""
    from vloc_ros.localizers.cascade.bundle import open_members, whole_size

    console = Console()
    if bundle.manifest.backend == "cascade":
        for member in open_members(bundle):
            console.print(f"{member.bundle.manifest.backend}, by itself:", markup=False)
            _held_out(console, member.bundle)
    else:
        _held_out(console, bundle)
    size = f"{whole_size(bundle) / 1e6:.2f} MB"
    console.print(f"map: {bundle.path} ({size}); vloc map info {bundle.path}", markup=False)


def _held_out(console: Console, bundle: MapBundle) -> None:
    provenance = bundle.manifest.provenance
    kinds = provenance.get("hold_out", {})
    also = [use for use in provenance.get("held_out_frames_used_for", ()) if use != "validation"]
    for scene, found in bundle.manifest.validation.items():
        median = f"median {found['median_translation_m']:.2f} m {found['median_rotation_deg']:.2f} deg"
        recall = f"within 2 m and 5 deg {100 * found['recall_2m_5deg']:.1f} % of {found['frames']} frames"
        kind = f" ({kinds[scene]})" if scene in kinds else ""
        console.print(f"{scene}: held-out{kind} {median}, {recall}", markup=False)
    if bundle.manifest.validation and also:
        console.print(
            f"the same frames served for: {', '.join(also)}; for a figure of its own replay a drive that was used for "
            "nothing",
            markup=False,
        )
