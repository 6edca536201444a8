"""``vloc convert``: data sets and synthetic drives to rosbag2."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from vloc_ros.cli.progress import progress_bar
from vloc_ros.convert.sequence import Summary
from vloc_ros.convert.source import Conversion, convert_source
from vloc_ros.datasets.formats import FORMATS, Source, detect
from vloc_ros.settings import assigned, describe_settings

__all__ = ["app", "format_options"]

app = typer.Typer(
    no_args_is_help=True, help="Turn a data set into a rosbag2 with images, CameraInfo, TF and reference poses."
)


class StorageName(str, Enum):
    """Storage plugins of rosbag2."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


class ImageFormatName(str, Enum):
    """How images are stored: pixels (Image) or encoded (CompressedImage)."""

    raw = "raw"
    png = "png"
    jpeg = "jpeg"


class WorldName(str, Enum):
    """How the world of the poses stands."""

    camera = "camera"
    y_up = "y_up"
    z_up = "z_up"


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


def numbers(text: str | None, count: int, option: str) -> tuple[float, ...] | None:
    """``count`` comma-separated numbers, or a usage error."""
    if text is None:
        return None
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"expected {count} numbers with commas, found {text!r}", param_hint=option) from error
    if len(values) != count:
        raise typer.BadParameter(f"expected {count} numbers, found {len(values)}", param_hint=option)
    return values


@app.command()
def kitti(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="KITTI root, sequences/NN, or a flat folder.")],
    out: Out,
    layout: Annotated[
        str | None, typer.Option(help="odometry or flat (images, poses.txt, times*.txt); default: found out.")
    ] = None,
    sequence: Annotated[str | None, typer.Option(help="Sequence of a KITTI root, for example 00.")] = None,
    images: Annotated[str | None, typer.Option(help="Image folder: image_2, left, right, rgb, ...")] = None,
    intrinsics: Annotated[
        str | None, typer.Option(metavar="FX,FY,CX,CY", help="In pixels of the images; default: calib.txt or K.txt.")
    ] = None,
    camera_offset: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            help="Where this camera sits in the axes of the camera of poses.txt (m; x right, y down, z forward).",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Frames a second where there is no times file.")] = 10.0,
    world: Annotated[
        WorldName, typer.Option(help="How the poses' world stands: as its first camera (KITTI), or with y or z up.")
    ] = WorldName.camera,
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
    """KITTI odometry, or a flat folder of the same files. Images are copied unchanged without --image-format."""
    from vloc_ros.convert.source import convert_kitti
    from vloc_ros.datasets.kitti import KittiOptions

    fx_fy_cx_cy = numbers(intrinsics, 4, "--intrinsics")
    offset = numbers(camera_offset, 3, "--camera-offset")
    noise = numbers(odometry_noise, 2, "--odometry-noise")
    options = KittiOptions(
        layout=layout,
        sequence=sequence,
        images=images,
        intrinsics=None if fx_fy_cx_cy is None else (fx_fy_cx_cy[0], fx_fy_cx_cy[1], fx_fy_cx_cy[2], fx_fy_cx_cy[3]),
        camera_offset=None if offset is None else (offset[0], offset[1], offset[2]),
        rate_hz=rate,
        world=world.value,
    )
    with progress_bar("frames") as progress:
        summary = convert_kitti(
            source,
            out,
            options,
            frames=frames,
            hold_out=hold_out,
            part=part.value,
            odometry_noise=None if noise is None else (noise[0], noise[1]),
            seed=seed,
            image_format=None if image_format is None else image_format.value,
            storage=storage.value,
            overwrite=overwrite,
            keep_going=keep_going,
            resume=resume,
            progress=progress,
        )
    _tell([summary])


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
    image_format: Annotated[
        ImageFormatName, typer.Option("--image-format", help="raw: Image; png, jpeg: CompressedImage.")
    ] = ImageFormatName.raw,
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
            image_format=image_format.value,
            storage=storage.value,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    for path in paths:
        typer.echo(path)


@app.command()
def auto(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A bag or data set, or FORMAT:PATH[,OPTION=VALUE...].")],
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
    """Any data set whose layout can be told from its files; says which it found."""
    named = Source.parse(source)
    given = Source(named.format or detect(named.path), named.path, assigned(settings or (), "--set", {**named.options}))
    typer.echo(f"{given.path}: {FORMATS[str(given.format)].about}", err=True)
    conversion = _conversion(frames, hold_out, part, odometry_noise, seed, image_format, storage)
    _convert(given, out, conversion, overwrite, keep_going, resume)


@app.command()
def formats(
    name: Annotated[str | None, typer.Argument(metavar="[FORMAT]", help="One of them; default: all.")] = None,
) -> None:
    """List the layouts that can be converted, each with its options for --set."""
    if name is not None and name not in FORMATS:
        raise typer.BadParameter(f"expected one of {', '.join(FORMATS)}, found {name!r}", param_hint="FORMAT")
    for item in FORMATS.values() if name is None else (FORMATS[name],):
        typer.echo(f"{item.name}: {item.about}")
        for line in format_options(item.name):
            typer.echo(f"  {line}")


def format_options(name: str) -> list[str]:
    """One line for each option of a layout: name, type, default, range and meaning."""
    lines = []
    for row in describe_settings(FORMATS[name].reader().Options):
        allowed = f", {row.range}" if row.range else ""
        # Docstrings are reStructuredText, a terminal is not.
        text = re.sub(r":\w+:`([^`]+)`", r"\1", row.doc).replace("``", "")
        about = f": {text}" if text else ""
        lines.append(f"{row.name}={'none' if row.default is None else row.default} ({row.type}{allowed}){about}")
    return lines


class _FormatCommand(TyperCommand):
    """A command whose help ends with its layout's options; the reader is imported when somebody asks."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [escape(line) for line in format_options(str(self.name))]  # types have brackets, and so has markup
        self.epilog = "\n\n".join(["Options of the layout, for --set:", *lines])
        super().format_help(ctx, formatter)


def _add(name: str, about: str) -> None:
    """``vloc convert NAME SRC OUT`` for one layout."""

    def command(
        source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set: a folder or file.")],
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
        given = Source(name, source, assigned(settings or (), "--set"))
        conversion = _conversion(frames, hold_out, part, odometry_noise, seed, image_format, storage)
        _convert(given, out, conversion, overwrite, keep_going, resume)

    app.command(name, help=f"{about}.", cls=_FormatCommand)(command)


def _conversion(
    frames: str | None,
    hold_out: str | None,
    part: PartName,
    odometry_noise: str | None,
    seed: int,
    image_format: ImageFormatName | None,
    storage: StorageName,
) -> Conversion:
    noise = numbers(odometry_noise, 2, "--odometry-noise")
    return Conversion(
        frames,
        hold_out,
        part.value,
        None if noise is None else (noise[0], noise[1]),
        seed,
        None if image_format is None else image_format.value,
        storage.value,
    )


def _convert(
    source: Source, out: Path, conversion: Conversion, overwrite: bool, keep_going: bool, resume: bool
) -> None:
    with progress_bar("frames") as progress:
        summaries = convert_source(
            source, out, conversion, overwrite=overwrite, keep_going=keep_going, resume=resume, progress=progress
        )
    _tell(summaries)


def _tell(summaries: list[Summary]) -> None:
    """The summary for people on stderr, the paths for programs on stdout."""
    for summary in summaries:
        typer.echo("\n".join(summary.lines()), err=True)
    for summary in summaries:
        typer.echo(summary.path)


for _item in FORMATS.values():
    if _item.name != "kitti":  # has a command of its own, with options from before there were others
        _add(_item.name, _item.about)
