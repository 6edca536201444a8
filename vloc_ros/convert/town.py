"""Synthetic drives as bags: the same streets, each drive in its own light, lane and traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.convert.parts import is_finished
from vloc_ros.convert.sequence import ImageFormat, identity_of, write_drive
from vloc_ros.convert.source import select_frames
from vloc_ros.convert.writer import Storage
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import BagError, ConfigError
from vloc_ros.town import CONDITIONS, Renderer, Town, Traversal, default_camera
from vloc_ros.types import RgbImage

__all__ = ["convert_town", "town_sequence"]


@dataclass(frozen=True)
class _RenderedImages:
    """Renders each frame when it is asked for."""

    renderer: Renderer
    traversal: Traversal

    def image(self, index: int) -> RgbImage:
        return self.renderer.render(self.traversal, index).rgb

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.traversal)):
            yield index, self.image(index)

    def depth(self, index: int) -> npt.NDArray[np.float32]:
        """(H, W) metres along the optical axis at the pixels of the image; infinity in the sky."""
        return self.renderer.render(self.traversal, index).depth


def town_sequence(renderer: Renderer, traversal: Traversal) -> PosedSequence:
    """A traversal as a sequence whose images are rendered on demand."""
    return PosedSequence(
        traversal.name,
        np.asarray(traversal.stamps_ns, dtype=np.int64),
        traversal.T_map_cam,
        traversal.T_base_cam,
        renderer.camera,
        _RenderedImages(renderer, traversal),
        traversal.T_odom_base,
    )


def convert_town(
    out: str | Path,
    seed: int,
    loop_m: float = 200.0,
    traversals: int = 5,
    *,
    first: int = 0,
    width: int = 240,
    height: int = 135,
    spacing_m: float = 0.5,
    laps: float = 1.0,
    traffic: float = 1.0,
    lights: Sequence[str] | None = None,
    frames: str | None = None,
    image_format: ImageFormat = "raw",
    storage: Storage = "mcap",
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Render drives ``first`` ... ``first + traversals - 1`` to bags ``OUT/traversal_<index>``; returns their paths.

    A drive depends on the seed, the loop and its own index alone: drive 7 is the same whether made with others or by
    itself. ``lights`` names the light of each drive; by default the index decides. ``resume`` continues an interrupted
    call with the same arguments: drives that it finished are left as they are.

    :raises ConfigError: a setting is out of range. :raises BagError: a bag exists.
    """
    if traversals < 1:
        raise ConfigError(f"traversals: expected at least 1, found {traversals}")
    if not (16 <= width <= 4096 and 16 <= height <= 4096):
        raise ConfigError(f"image: expected 16 to 4096 pixels in width and height, found {width}x{height}")
    if lights is not None and len(lights) not in (1, traversals):
        raise ConfigError(f"lights: expected 1 or {traversals} names, found {len(lights)}")
    unknown = sorted(set(lights or ()) - set(CONDITIONS))
    if unknown:
        raise ConfigError(f"lights: expected names among {', '.join(CONDITIONS)}, found {', '.join(unknown)}")
    paths = [Path(out) / f"traversal_{first + i}" for i in range(traversals)]
    existing = [p for p in paths if p.exists()]
    if existing and not overwrite and not resume:  # before minutes of rendering, not after
        raise BagError(f"{existing[0]}: already exists; delete it or name another output")
    town = Town(seed, loop_m)
    renderer = Renderer(town, default_camera(width, height))
    drives = [
        Traversal(
            town,
            first + i,
            spacing_m=spacing_m,
            laps=laps,
            traffic=traffic,
            light=None if lights is None else lights[i % len(lights)],
        )
        for i in range(traversals)
    ]
    kept = [select_frames(len(drive), frames) for drive in drives]
    sequences = [
        town_sequence(renderer, drive).select(keep) if len(keep) < len(drive) else town_sequence(renderer, drive)
        for drive, keep in zip(drives, kept, strict=True)
    ]
    settings: dict[str, Any] = {
        "town": seed,
        "loop_m": loop_m,
        "spacing_m": spacing_m,
        "laps": laps,
        "traffic": traffic,
    }
    settings.update(lights=lights and list(lights), frames=frames, image_format=image_format, storage=storage)
    identities = [identity_of(s, {**settings, "drive": first + i}) for i, s in enumerate(sequences)]
    done = [resume and is_finished(path, key) for path, key in zip(paths, identities, strict=True)]
    for path, finished in zip(paths, done, strict=True):
        if path.exists() and not overwrite and (not finished or all(done)):
            raise BagError(f"{path}: already exists; delete it or name another output")
    total, before = sum(len(s) for s in sequences), 0
    for sequence, path, key, finished in zip(sequences, paths, identities, done, strict=True):
        base = before
        before += len(sequence)
        if finished and not overwrite:
            continue

        def report(count: int, _: int, base: int = base) -> None:
            if progress:
                progress(base + count, total)

        write_drive(
            sequence, path, image_format=image_format, storage=storage, overwrite=overwrite, progress=report,
            identity=key, resume=resume,
        )  # fmt: skip
    return paths
