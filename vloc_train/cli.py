"""``vloc train``, ``vloc map build`` and ``vloc map calibrate``, which the command line finds by their entry points."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.logging import RichHandler

from vloc_ros.commands.assignments import assigned
from vloc_ros.datasets import PosedSequence, open_source
from vloc_ros.datasets.formats import Source, detect
from vloc_ros.errors import ConfigError
from vloc_ros.maps import MapBundle

__all__ = ["build", "by_scene", "calibrate", "show_progress", "train"]


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


def by_scene(sources: list[str], truth: str | None) -> dict[str, list[PosedSequence]]:
    """``SRC`` or ``SCENE=SRC`` arguments to drives by scene; sources without a name belong to the scene ``map``.

    A source is a bag, a data-set folder or a COLMAP model (:mod:`vloc_ros.datasets.formats`), or a drive of the
    synthetic town (:mod:`vloc_train.town_source`).
    """
    from vloc_train.town_source import PREFIX, open_town

    scenes: dict[str, list[PosedSequence]] = {}
    for source in sources:
        name, separator, path = source.partition("=")
        if not separator or not name.isidentifier():
            name, path = "map", source
        opened = [open_town(path)] if path.startswith(PREFIX) else _open(path, truth)
        scenes.setdefault(name, []).extend(opened)
    return scenes


def _open(text: str, truth: str | None) -> list[PosedSequence]:
    source = Source.parse(text)
    bag = (source.format or detect(source.path)) == "bag"
    return open_source(source, **({"truth": truth} if bag else {}))


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
Seed = Annotated[int | None, typer.Option(min=0, help="Of everything random.")]
Truth = Annotated[
    str | None, typer.Option(help="Topic of the reference poses (default: /reference/pose, or the only pose topic).")
]
About = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE to note under provenance, for example town.seed=1; repeat.")
]
Extractor = Annotated[
    Path | None, typer.Option(help="A map whose extractor or network to use (retrieval, irpnet, copr, camnet, pixloc).")
]


def train(
    backend: Annotated[
        str, typer.Argument(help="Backend to train: imposing, retrieval, irpnet, camnet, copr or pixloc.")
    ],
    data: Data,
    out: Out,
    more: More = None,
    calibration_data: CalibrationData = None,
    extractor: Extractor = None,
    preset: Annotated[
        str, typer.Option(help="paper: the publication's settings; small: minutes on a CPU; others by backend.")
    ] = "paper",
    config: Config = None,
    assign: Assign = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="End the run after this long, resumed parts included.")
    ] = None,
    seed: Seed = None,
    truth: Truth = None,
    about: About = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or processes) that share each batch.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images; 0: none apart.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run of the same settings.")] = True,
    checkpoint_minutes: Annotated[float, typer.Option(min=0.01, help="A checkpoint at least this often.")] = 2.0,
    progress: Annotated[bool, typer.Option(help="Show the progress bar.")] = True,
) -> None:
    """Train a map of recorded drives. The same command continues after an interruption."""
    from vloc_train.registry import TRAINERS, find
    from vloc_train.run import RunOptions

    show_progress()
    trainer = find(TRAINERS, backend, "train")
    settings = trainer.settings(preset, _changes(config, assign or []), str(config or "command line"))
    limits = {"max_minutes": max_minutes, "seed": seed}
    settings = _with(settings, {k: v for k, v in limits.items() if v is not None}, backend)
    _summary(
        trainer.run(
            by_scene([*data, *(more or [])], truth),
            out,
            settings,
            RunOptions(device, devices, workers, checkpoint_minutes, resume, progress),
            calibration=by_scene(calibration_data, truth) if calibration_data else None,
            about=_changes(None, about or [], "--about"),
            extractor=extractor,
        )
    )


def build(
    backend: Annotated[
        str, typer.Argument(help="Backend whose map is built without training: retrieval, camnet or pixloc.")
    ],
    data: Data,
    out: Out,
    more: More = None,
    calibration_data: CalibrationData = None,
    extractor: Extractor = None,
    preset: Annotated[str | None, typer.Option(help="Named settings; the default is the backend's first.")] = None,
    config: Config = None,
    assign: Assign = None,
    seed: Seed = None,
    truth: Truth = None,
    about: About = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Build a map of recorded drives with what another map has learned (--extractor)."""
    from vloc_train.registry import BUILDERS, find
    from vloc_train.run import RunOptions

    show_progress()
    builder = find(BUILDERS, backend, "map build")
    named = preset or builder.presets[0]
    settings = builder.settings(named, _changes(config, assign or []), str(config or "command line"))
    settings = _with(settings, {} if seed is None else {"seed": seed}, backend)
    _summary(
        builder.run(
            by_scene([*data, *(more or [])], truth),
            out,
            settings,
            RunOptions(device, progress=progress),
            calibration=by_scene(calibration_data, truth) if calibration_data else None,
            about=_changes(None, about or [], "--about"),
            extractor=extractor,
        )
    )


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
    truth: Annotated[str | None, typer.Option(help="Topic of the reference poses.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Fit the covariance of a map to a drive of today: another season, another camera of the same lens.

    The weights stay as they are, and with them the map's id.
    """
    from vloc_train.calibration import recalibrate

    _summary(recalibrate(map_path, by_scene(data, truth), out or map_path, device))


def _summary(bundle: MapBundle) -> None:
    console = Console()
    for scene, found in bundle.manifest.validation.items():
        median = f"median {found['median_translation_m']:.2f} m {found['median_rotation_deg']:.2f} deg"
        recall = f"within 2 m and 5 deg {100 * found['recall_2m_5deg']:.1f} % of {found['frames']} frames"
        console.print(f"{scene}: held-out {median}, {recall}", markup=False)
    size = f"{bundle.size_bytes / 1e6:.2f} MB"
    console.print(f"map: {bundle.path} ({size}); vloc map info {bundle.path}", markup=False)
