"""``vloc convert``: data sets and synthetic drives to rosbag2."""

from __future__ import annotations

import inspect
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import typer
from typer.core import TyperCommand

from vloc_ros.cli.progress import progress_bar
from vloc_ros.cli.replay import StorageName
from vloc_ros.convert.source import Conversion, convert_source
from vloc_ros.datasets.formats import FORMATS, Source, detect
from vloc_ros.errors import ConfigError
from vloc_ros.settings import SettingDescription, assigned, describe_settings, numbers_of, settings_from_mapping
from vloc_ros.yaml_text import parse_yaml

__all__ = ["app", "format_options"]

app = typer.Typer(
    no_args_is_help=True, help="Turn a data set into a rosbag2 with images, CameraInfo, TF and reference poses."
)


class ImageFormatName(str, Enum):
    """How images are stored: pixels (Image) or encoded (CompressedImage)."""

    raw = "raw"
    png = "png"
    jpeg = "jpeg"


class PartName(str, Enum):
    """Which side of a hold-out."""

    train = "train"
    test = "test"


Out = Annotated[Path, typer.Argument(metavar="OUT", help="The bag to write (a folder).")]
StorageOption = Annotated[StorageName, typer.Option("--storage", help="A stock Humble opens sqlite3 only.")]
FramesOption = Annotated[
    str | None,
    typer.Option("--frames", metavar="START:STOP:STEP", help="Keep a slice of the frames: 0::2 is every other one."),
]
HoldOutOption = Annotated[
    str | None,
    typer.Option(
        "--hold-out", metavar="LENGTH:PERIOD", help="Hold out the last LENGTH of every PERIOD consecutive frames."
    ),
]
PartOption = Annotated[PartName, typer.Option("--part", help="With --hold-out: the kept frames or the held-out ones.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing bag.")]
KeepGoingOption = Annotated[
    bool, typer.Option("--keep-going", help="Skip and count what is faulty (rows, images) instead of stopping at it.")
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Continue an interrupted conversion by the same command, or start over."),
]
NoiseOption = Annotated[
    str | None,
    typer.Option(
        "--odometry-noise",
        metavar="T,R",
        help="Make drifting odometry: T share of the distance, R rad per sqrt(m). Default: the data's own, or none.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of what --odometry-noise draws.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option of the layout, as YAML; may be repeated."),
]
FormatOption = Annotated[
    ImageFormatName | None, typer.Option("--image-format", help="raw: Image; png, jpeg: CompressedImage.")
]
#: Where a command keeps the options of its layout that were given.
_GIVEN = "vloc_ros.layout_options"


class _LayoutCommand(TyperCommand):
    """A command that takes its layout's options, too; the reader is imported when somebody asks for them."""

    def get_params(self, ctx: Any) -> list[Any]:
        *params, help_option = super().get_params(ctx)
        return [*params, *_layout_options(str(self.name)), help_option]


@cache
def _layout_options(layout: str) -> list[Any]:
    """``--camera-offset X,Y,Z`` of a layout's setting ``camera_offset`` and so on, as typer makes options."""
    options = FORMATS[layout].reader().Options
    hints = typing.get_type_hints(options)

    def option(row: SettingDescription) -> inspect.Parameter:
        def keep(context: typer.Context, text: str | None) -> None:
            if text is None:
                return
            value = _plain(text, hints[row.name])
            try:
                settings_from_mapping(options, {row.name: value}, layout)
            except ConfigError as problem:
                raise typer.BadParameter(str(problem)) from problem
            context.meta.setdefault(_GIVEN, {})[row.name] = value

        how = typer.Option(
            f"--{row.name.replace('_', '-')}",
            metavar=_metavar(hints[row.name]),
            help=_prose(row.doc) + ("" if row.default in (None, []) else f" Default: {row.default}"),
            callback=keep,
            expose_value=False,
            rich_help_panel="Options of the layout",
        )
        kind = Annotated[Optional[str], how]  # noqa: UP045 (an object, not an annotation)
        return inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    def command(**_: Any) -> None: ...

    signature = inspect.Signature([option(row) for row in _described(layout)])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
    carrier = typer.Typer(add_completion=False)
    carrier.command()(command)
    return list(typer.main.get_command(carrier).params)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type, None left out."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return tuple(h for h in typing.get_args(hint) if h is not type(None)) if union else (hint,)


def _metavar(hint: Any) -> str:
    (kind, *_) = _kinds(hint)
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "V,V,..."
    return {bool: "true|false", float: "NUMBER", int: "NUMBER"}.get(kind, "TEXT")


def _plain(text: str, hint: Any) -> Any:
    """The text of an option as the plain value that its type wants; texts stay as they are (``--sequence 00``)."""
    for kind in _kinds(hint):
        if kind is str or typing.get_origin(kind) is Literal:
            return text
        if typing.get_origin(kind) is tuple and not text.startswith("["):
            if str in typing.get_args(kind):
                return [part.strip() for part in text.split(",")]
            text = f"[{text}]"
    try:
        return parse_yaml(text)
    except ValueError as problem:
        raise typer.BadParameter(f"expected a plain value, found {text!r}") from problem


def _described(name: str) -> list[SettingDescription]:
    return describe_settings(FORMATS[name].reader().Options)


def _prose(text: str) -> str:
    """Without the backquotes around code, which a terminal shows as they are."""
    return text.replace("`", "")


def format_options(name: str) -> list[str]:
    """One line for each option of a layout: name, default, kind, range and meaning."""
    lines = []
    for row in _described(name):
        allowed = f", {row.range}" if row.range else ""
        about = f": {row.doc}" if row.doc else ""
        text = f"{row.name}={'none' if row.default is None else row.default} ({row.kind}{allowed}){about}"
        lines.append(_prose(text))
    return lines


@app.command()
def town(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the bags traversal_0, traversal_1, ...")],
    seed: Annotated[int, typer.Option(help="Which town; everything follows from it.")] = 1,
    loop_m: Annotated[
        float, typer.Option("--loop-m", help="Length of the street loop in metres, 120 to 20000.")
    ] = 200.0,
    traversals: Annotated[int, typer.Option(help="How many drives over the same streets.")] = 5,
    first: Annotated[
        int, typer.Option(help="Number of the first drive; a drive is the same whatever else is made.")
    ] = 0,
    width: Annotated[int, typer.Option(help="Image width in pixels.")] = 240,
    height: Annotated[int, typer.Option(help="Image height in pixels.")] = 135,
    spacing_m: Annotated[
        float, typer.Option("--spacing-m", help="Mean distance between frames (the clock runs at 10 Hz).")
    ] = 0.5,
    laps: Annotated[float, typer.Option(help="How often round the loop.")] = 1.0,
    traffic: Annotated[
        float, typer.Option(help="Density of moving and parked occluders; 1 is ordinary, 0 none.")
    ] = 1.0,
    light: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME...]", help="Light of every drive, or one name a drive; default: by number."),
    ] = None,
    frames: FramesOption = None,
    image_format: FormatOption = ImageFormatName.raw,
    storage: StorageOption = StorageName.mcap,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = True,
) -> None:
    """The synthetic town: rendered drives with exact poses, drifting odometry, changing light and traffic."""
    from vloc_ros.convert.town import convert_town

    with progress_bar("frames") as progress:
        paths = convert_town(
            out,
            seed,
            loop_m,
            traversals,
            first=first,
            width=width,
            height=height,
            spacing_m=spacing_m,
            laps=laps,
            traffic=traffic,
            lights=light.split(",") if light else None,
            frames=frames,
            image_format="raw" if image_format is None else image_format.value,
            storage=storage.value,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    for path in paths:
        typer.echo(path)


@app.command()
def formats(
    name: Annotated[str | None, typer.Argument(metavar="[FORMAT]", help="One of them; default: all.")] = None,
) -> None:
    """List the layouts that can be converted, each with its options."""
    if name is not None and name not in FORMATS:
        raise typer.BadParameter(f"expected one of {', '.join(FORMATS)}, found {name!r}", param_hint="FORMAT")
    for item in FORMATS.values() if name is None else (FORMATS[name],):
        typer.echo(f"{item.name}: {item.about}")
        for line in format_options(item.name):
            typer.echo(f"  {line}")


def _convert(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A folder or file; for auto also FORMAT:PATH[,OPTION=VALUE...].")
    ],
    out: Out,
    settings: SetOption = None,
    frames: FramesOption = None,
    hold_out: HoldOutOption = None,
    part: PartOption = PartName.train,
    odometry_noise: NoiseOption = None,
    seed: SeedOption = 0,
    image_format: FormatOption = None,
    storage: StorageOption = StorageName.mcap,
    overwrite: OverwriteOption = False,
    keep_going: KeepGoingOption = False,
    resume: ResumeOption = True,
) -> None:
    name = str(context.command.name)
    named = Source(name, Path(source), {}) if name in FORMATS else Source.parse(source)
    options = assigned(settings or (), "--set", {**named.options, **context.meta.get(_GIVEN, {})})
    given = Source(named.format or detect(named.path), named.path, options)
    if name not in FORMATS:
        typer.echo(f"{given.path}: {FORMATS[str(given.format)].about}", err=True)
    try:
        noise = numbers_of("--odometry-noise", odometry_noise, (2,))
    except ConfigError as problem:
        raise typer.BadParameter(str(problem)) from problem
    conversion = Conversion(
        frames,
        hold_out,
        part.value,
        None if noise is None else (noise[0], noise[1]),
        seed,
        None if image_format is None else image_format.value,
        storage.value,
    )
    with progress_bar("frames") as progress:
        summaries = convert_source(
            given, out, conversion, overwrite=overwrite, keep_going=keep_going, resume=resume, progress=progress
        )
    for summary in summaries:  # for people
        typer.echo("\n".join(summary.lines()), err=True)
    for summary in summaries:  # for programs
        typer.echo(summary.path)


app.command("auto", help="Any data set whose layout can be told from its files; says which it found.")(_convert)
for _item in FORMATS.values():
    app.command(_item.name, help=f"{_item.about}.", cls=_LayoutCommand)(_convert)
