"""The map-quality report: how far the drives cover the route, what to expect where, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vloc_ros.evaluation.document import Document, write_json
from vloc_ros.maps import MapBundle
from vloc_ros.staging import staging_beside, writing
from vloc_train.frame_choice.settings import ReportSettings
from vloc_train.map_report.plots import (
    draw_accuracy,
    draw_alike,
    draw_along,
    draw_ambiguous,
    draw_coverage,
    draw_dropped,
    draw_errors,
)
from vloc_train.map_report.scene import SceneReport
from vloc_train.map_report.segments import place_in_words, weak_segments

__all__ = ["write_report"]


def write_report(
    folder: Path, bundle: MapBundle, scenes: Sequence[SceneReport], settings: ReportSettings, points: Path | None = None
) -> Path:
    """Write a report of a map into a folder, which gets it when it is whole; other files there stay.

    ``report.md``, ``report.html`` (one file, pictures inside), ``report.json`` and pictures; returns ``report.md``.

    :param points: the report on the points of a PixLoc map, to be linked and shown.
    :raises ConfigError: matplotlib is not installed.
    """
    # Beside the folder, so that links out of it are the same.
    with writing(folder), staging_beside(folder.resolve(), folder=True) as aside:
        _write(aside, bundle, scenes, settings, None if points is None else points.resolve())
        folder.mkdir(exist_ok=True)
        for file in sorted(aside.iterdir(), key=lambda f: f.name.startswith("report")):  # pictures first
            file.replace(folder / file.name)
    return folder / "report.md"


def _write(
    folder: Path, bundle: MapBundle, scenes: Sequence[SceneReport], settings: ReportSettings, points: Path | None
) -> None:
    manifest = bundle.manifest
    document = Document(f"Map quality: {bundle.path.name}")
    document.table(
        ["map", bundle.path.name],
        [
            ["backend", manifest.backend],
            ["size", f"{bundle.size_bytes / 1e6:.2f} MB"],
            ["made", str(manifest.provenance.get("date", "?"))],
            ["scenes", ", ".join(s.name for s in manifest.scenes)],
            *([["origin", _origin(manifest.scenes[0].datum)]] if manifest.scenes[0].datum else []),
        ],
    )
    figures: dict[str, Any] = {
        "map": bundle.path.name, "backend": manifest.backend, "map_bytes": bundle.size_bytes, "scenes": {}
    }  # fmt: skip
    for scene in scenes:
        figures["scenes"][scene.name] = scene.figures()
        _scene(document, folder, scene, settings, len(scenes) > 1)
    if points is not None and points.is_file():
        document.heading("Points")
        document.paragraph("What the map's points are worth, frame by frame, in a report of its own:")
        document.link("Quality of the sparse model", points)
        for picture in sorted(points.parent.glob("*_map.png")) + sorted(points.parent.glob("*_along.png")):
            document.picture(picture, picture.stem.replace("_", " "))
    write_json(folder / "report.json", figures)
    document.write(folder)


def _scene(document: Document, folder: Path, scene: SceneReport, settings: ReportSettings, named: bool) -> None:
    prefix = f"{scene.name}_" if named else ""
    if named:
        document.heading(f"Scene {scene.name}")
    level = 3 if named else 2
    figures = scene.figures()
    document.heading("What to do", level)
    document.paragraph("" if scene.advice else "Nothing stands out.")
    document.items(scene.advice)
    document.heading("Expected accuracy", level)
    document.paragraph(scene.split.in_words())
    accuracy = figures["accuracy"]
    if accuracy["frames"]:
        inside = accuracy["nees_share_in_95"]
        document.table(
            ["held-out frames", str(accuracy["frames"])],
            [
                [
                    "error, median",
                    f"{accuracy['median_translation_m']:.2f} m, {accuracy['median_rotation_deg']:.2f} deg",
                ],
                ["error, nine of ten below", f"{accuracy['p90_translation_m']:.2f} m"],
                ["error, largest", f"{accuracy['max_translation_m']:.2f} m"],
                ["predicted sigma, median", _metres(accuracy["median_sigma_m"])],
                [
                    "within the 95 % ellipsoid",
                    "not calibrated" if inside is None else f"{100 * inside:.0f} % (fitted on these frames)",
                ],
                [
                    "states (without points in the map: on a track that agrees)",
                    ", ".join(f"{n} {100 * v:.0f} %" for n, v in accuracy["states"].items()),
                ],
            ],
        )
        document.picture(
            draw_accuracy(scene, folder / f"{prefix}accuracy.png"), "Errors and predicted sigma of held-out frames"
        )
        if settings.pictures and (path := draw_errors(scene, folder / f"{prefix}errors.jpg")):
            document.picture(path, "The largest errors")
    elif found := scene.validation:
        document.table(
            ["frames asked of maps without them", str(found["frames"])],
            [
                ["error, median", f"{found['median_translation_m']:.2f} m, {found['median_rotation_deg']:.2f} deg"],
                ["error, mean (lost ones included)", f"{found['mean_translation_m']:.2f} m"],
                ["within 2 m, 5 deg", f"{100 * found['recall_2m_5deg']:.0f} %"],
            ],
        )
    else:
        document.paragraph("No frame was held out by this report: see the map's own validation, `vloc map info`.")
    document.heading("Images against poses", level)
    document.items([one.in_words() for one in scene.agreements])
    document.heading("Coverage", level)
    document.table(
        ["drive", "length", "posed frames", "kept", "left out"],
        [
            [
                c.sequence.name, f"{c.length_m:.0f} m", str(len(c.reason)), str(len(c.kept)),
                ", ".join(f"{n} {name}" for name, n in {**c.counts, **c.sequence.dropped}.items()) or "none",
            ]
            for c in scene.choices
        ],
    )  # fmt: skip
    document.picture(draw_coverage(scene, folder / f"{prefix}coverage.png"), "Frames of the map from above")
    if settings.pictures and (path := draw_dropped(scene, folder / f"{prefix}dropped.jpg")):
        document.picture(path, "Frames that were dropped")
    document.picture(draw_along(scene, folder / f"{prefix}along.png"), "Along the drives")
    document.heading("Weak places", level)
    weak = weak_segments(scene.segments)
    document.paragraph("" if weak else "None.")
    document.items([f"{place_in_words(s)}: {', '.join(s.reasons)}" for s in weak])
    _ambiguous(document, folder, scene, settings, prefix, level)


def _ambiguous(
    document: Document, folder: Path, scene: SceneReport, settings: ReportSettings, prefix: str, level: int
) -> None:
    found = scene.ambiguity
    document.heading("Ambiguous places", level)
    if not found.pairs:
        document.paragraph(
            f"None: by {found.source}, no two places more than {settings.far_m:g} m apart look as much alike as an "
            "image and its own surroundings do."
        )
        return
    document.paragraph(
        f"{100 * found.share:.0f} % of the map's images have a double more than {settings.far_m:g} m away, as similar "
        f"as they are to their own surroundings ({found.own:.2f} in the median, by {found.source})."
    )
    document.table(
        ["pair", "one", "other", "apart", "similarity", "frames"],
        [
            [
                str(k + 1), _place(p.T_a), _place(p.T_b), f"{p.distance_m:.0f} m", f"{p.similarity:.2f}", str(p.frames)
            ]
            for k, p in enumerate(found.pairs)
        ],
    )  # fmt: skip
    document.picture(draw_ambiguous(scene, folder / f"{prefix}ambiguous.png"), "Places that look alike, from above")
    if settings.pictures and (path := draw_alike(scene, folder / f"{prefix}alike.jpg")):
        document.picture(path, "Places that look alike: one and the other")


def _place(T: Any) -> str:
    return f"x {T[0, 3]:.0f}, y {T[1, 3]:.0f}"


def _metres(value: float) -> str:
    return f"{value:.2f} m" if math.isfinite(value) else "unknown"


def _origin(datum: Any) -> str:
    return f"{datum.latitude_deg:.7f}, {datum.longitude_deg:.7f}, {datum.altitude_m:.2f} m (WGS-84)"
