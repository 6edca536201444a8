"""A map checked and explained to a person: what ``vloc map verify`` and ``vloc map info`` print."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vloc_ros.errors import MapError, printable
from vloc_ros.maps.reader import MapBundle, read_map

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Check", "Section", "describe_checks", "describe_map", "verify_map"]

#: Backends that take images as their lens made them.
_ANY_LENS = ("features", "pixloc")


@dataclass(frozen=True)
class Check:
    """One named check: whether it passed, and what was found (or why it failed)."""

    name: str
    passed: bool
    reason: str


def verify_map(path: str | os.PathLike[str]) -> list[Check]:
    """Every check of a map: manifest, then each file's presence, size, SHA-256, tensors, and strangers.

    Never raises for a bad map; a map is good when every check passed.
    """
    try:
        bundle = read_map(path)
    except MapError as problem:
        return [Check("manifest", False, str(problem))]
    manifest = bundle.manifest
    checks = [
        Check("manifest", True, f"format version {manifest.format_version}, backend {manifest.backend}, id {bundle.id}")
    ]
    checks.extend(_check_file(bundle, entry.name) for entry in manifest.files)
    strangers = bundle.unlisted_files()
    checks.append(
        Check(
            "unlisted files",
            not strangers,
            "none" if not strangers else f"not in the manifest, never read: {', '.join(strangers[:8])}",
        )
    )
    return checks


def _check_file(bundle: MapBundle, name: str) -> Check:
    try:
        if name.endswith(".safetensors"):
            count = len(bundle.tensors(name))
            reason = f"{bundle.entry(name).bytes} bytes, SHA-256 agrees, {count} finite tensors"
        else:
            bundle.read(name)
            reason = f"{bundle.entry(name).bytes} bytes, SHA-256 agrees"
    except MapError as problem:
        return Check(name, False, str(problem))
    return Check(name, True, reason)


@dataclass(frozen=True)
class Section:
    """A titled table of texts. ``rich.print`` shows it as one; ``str`` gives plain lines."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left", box=box.SIMPLE)
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            # The map is untrusted: its texts are no markup, and move no cursor.
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    def __str__(self) -> str:
        return "\n".join([self.title, *("  " + "  ".join(map(printable, row)) for row in self.rows)])


def describe_map(bundle: MapBundle) -> list[Section]:
    """What the manifest says, section by section; no file is read."""
    manifest = bundle.manifest
    camera = manifest.camera
    lens = f"{camera.distortion_model} {list(camera.distortion)}" if camera.is_distorted else "none"
    general = [
        ("path", str(bundle.path)),
        ("id", bundle.id),
        ("backend", manifest.backend),
        ("format version", str(manifest.format_version)),
        ("size", _size(bundle.size_bytes)),
        ("camera", f"{camera.width}x{camera.height}, {_field_of_view(bundle)}, distortion {lens}"),
    ]
    if (cameras := _query_cameras(bundle)) is not None:
        general.append(("queries of", cameras))
    sections = [_pairs("Map", general)]
    scenes = []
    for scene in manifest.scenes:
        low, high = np.asarray(scene.area_min), np.asarray(scene.area_max)
        datum = scene.datum
        place = (
            "unknown"
            if datum is None
            else f"{datum.latitude_deg:.7f}, {datum.longitude_deg:.7f}, {datum.altitude_m:.2f} m"
        )
        extent = " x ".join(f"{length:.1f}" for length in high - low)
        scenes.append((scene.name, scene.frame_id, f"{extent} m from {_numbers(scene.area_min)}", place))
    sections.append(Section("Scenes", ("name", "frame", "area", "datum"), tuple(scenes)))
    for title, content in (
        ("Preprocessing", manifest.preprocessing),
        ("Settings", manifest.settings),
        ("Made from", manifest.provenance),
        ("Validation", manifest.validation),
        ("Covariance calibration", manifest.calibration),
    ):
        if content:
            sections.append(_pairs(title, _flat(content)))
    files = tuple((entry.name, _size(entry.bytes), entry.sha256[:16]) for entry in manifest.files)
    sections.append(Section("Files", ("name", "size", "SHA-256"), files))
    return sections


def describe_checks(checks: Sequence[Check]) -> Section:
    """The result of :func:`vloc_ros.maps.verify_map` as a table, failures first."""
    failed = sum(not check.passed for check in checks)
    title = "All checks passed" if not failed else f"{failed} of {len(checks)} checks failed"
    rows = tuple(
        ("ok" if check.passed else "FAILED", check.name, check.reason)
        for check in sorted(checks, key=lambda check: check.passed)
    )
    return Section(title, ("", "check", "found"), rows)


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> Section:
    return Section(title, ("what", "value"), tuple(rows))


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    return list(_flatten(content, prefix))


def _flatten(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{prefix}{name}", text if len(text) <= 500 else text[:497] + "..."


def _query_cameras(bundle: MapBundle) -> str | None:
    """Which cameras may ask the map, as far as its manifest tells."""
    if bundle.manifest.backend in _ANY_LENS:
        return "any calibrated lens"
    for section in bundle.manifest.settings.values():
        least = section.get("least_covered") if isinstance(section, Mapping) else None
        if isinstance(least, float):
            return f"this view at any resolution, or another lens that sees {100 * least:.0f} % of it"
    return None


def _field_of_view(bundle: MapBundle) -> str:
    from vloc_ros.geometry.cameras import field_of_view

    horizontal, vertical = np.degrees(field_of_view(bundle.manifest.camera))
    return f"{horizontal:.1f} x {vertical:.1f} deg"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
