"""COLMAP models with their images as drives: ``MODEL`` holds ``cameras`` and ``images`` as ``.bin`` or ``.txt``.

The model lies in the folder itself, or in ``sparse/0``, ``sparse`` or ``sfm`` below; its images in ``images`` beside
the model unless named. Poses are world to camera with w-first quaternions. A model says nothing about time, metres, or
where up is: stamps count the images in the order of their names unless the names are stamps, the map's frame is the
model's unless ``world`` says how that stands, and ``scale`` is one. ``base_link`` is at the camera, with body axes.
Images that were scaled as a whole since have the model's cameras scaled. Images with a camera of their own each, as
COLMAP makes them unless it is told otherwise, become those of one lens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from vloc_ros.datasets.colmap_model import ColmapImage, find_model, model_suffix, read_model
from vloc_ros.datasets.image_files import FolderImages, is_file
from vloc_ros.datasets.posed_images import (
    Shot,
    World,
    counted_stamp,
    folder_named,
    in_map,
    joined_by_size,
    one_lens,
    stamps_of,
    usable_shots,
)
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, ImageSource, PosedSequence
from vloc_ros.datasets.tables import in_order, stamp_in_ns
from vloc_ros.errors import DatasetError
from vloc_ros.settings import ranged
from vloc_ros.types import CameraModel

__all__ = ["ColmapImages", "Options", "matches", "open_drives"]


@dataclass(frozen=True)
class Options:
    """How to read a model.

    :param images: the folder with its images; None: ``images`` beside the model.
    :param world: how the model's frame stands: with z up, y up, or as its first camera (x right, y down).
    :param scale: metres for each unit of the model.
    :param origin: what becomes the map's origin, in the model's frame, metres.
    :param stamps: what the images' names say: their order alone, or stamps in that unit.
    :param rate_hz: of images whose names say their order.
    :param join: cameras of the same intrinsics are one drive, and so are those of a single image each, which become
        images of one lens; otherwise every camera has its own.
    """

    images: str | None = None
    world: World = "z_up"
    scale: float = ranged(1.0, minimum=1e-9)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stamps: Literal["order", "s", "ms", "us", "ns"] = "order"
    rate_hz: float = ranged(10.0, minimum=1e-3)
    join: bool = True


@dataclass(frozen=True)
class ColmapImages(FolderImages):
    """Image files of a COLMAP model: those of one of its cameras, the names it has for them, and its folder."""

    names: tuple[str, ...]
    model: Path


def matches(path: Path) -> bool:
    """Whether a folder holds a model and no poses of another layout."""
    path = Path(path)
    if (path / "poses.txt").is_file() or (path / "groundtruth.txt").is_file():
        return False
    return any(model_suffix(path / below, points=False) for below in ("", "sparse/0", "sparse", "sfm"))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drives of a model, one a camera, named after the folder and numbered.

    :raises DatasetError: no model, a damaged one, or no images. :raises CameraError: an unsupported camera model.
    """
    path = Path(os.path.abspath(path))
    before = dict(problems.counts)
    folder = find_model(path, points=False)
    model = read_model(folder, problems, points=False)
    if not model.images:
        raise DatasetError(f"{folder}: expected images with poses, found none")
    root = (
        folder_named(options.images, path)
        if options.images is not None
        else _images_beside(path, folder, [i.name for i in model.images])
    )
    if options.stamps == "order":
        in_order([image.name for image in model.images], str(folder))
    groups: dict[CameraModel | int, list[tuple[int, ColmapImage]]] = {}
    for row, image in enumerate(model.images):
        key = model.cameras[image.camera_id] if options.join else image.camera_id
        groups.setdefault(key, []).append((row, image))
    drives = list(groups.values())
    if options.join:
        drives = joined_by_size(drives, lambda member: model.cameras[member[1].camera_id])
    by_place = {image.where: image for image in model.images}
    out: list[PosedSequence] = []
    for number, members in enumerate(drives):
        shots = []
        for row, image in members:
            stamp = _stamp(row, image, options, problems)
            if stamp is None:
                continue
            T = image.T_map_cam.copy()
            T[:3, 3] *= options.scale
            shots.append(Shot(stamp, root / image.name, T, image.where))
        shots = usable_shots(shots, problems)
        if not shots:
            continue
        shots, camera, files = one_lens(shots, lambda shot: model.cameras[by_place[shot.where].camera_id], problems)
        source: ImageSource = files
        if isinstance(files, FolderImages):  # as they are, so that the model's points are theirs
            source = ColmapImages(files.paths, tuple(by_place[s.where].name for s in shots), folder)
        T_map_cam = in_map(shots, options.world, str(folder), options.origin)
        title = path.name + (f"_{number}" if number else "")
        drive = PosedSequence(title, stamps_of(shots), T_map_cam, T_BODY_OPTICAL.copy(), camera, source)
        out.append(replace(drive, dropped=problems.since(before)))
        before = dict(problems.counts)
    if not out:
        raise DatasetError(f"{root}: expected the images of the model {folder}, found none of {len(model.images)}")
    return out


def _stamp(row: int, image: ColmapImage, options: Options, problems: Problems) -> int | None:
    if options.stamps == "order":
        return counted_stamp(row, options.rate_hz)
    try:
        return stamp_in_ns(PurePosixPath(image.name).stem, options.stamps, f"{image.where}: {image.name}")
    except DatasetError as problem:
        problems.fault("name that is no stamp", f"{problem}; or stamps=order")
        return None


def _images_beside(given: Path, folder: Path, names: list[str]) -> Path:
    for root in (given / "images", given, folder.parent / "images", folder.parent.parent / "images"):
        if any(is_file(root / name) for name in names):
            return root
    raise DatasetError(
        f"{given}: expected the model's images ({names[0]}, ...) in a folder 'images' beside it, found none; "
        f"name the folder: colmap:{given},images=FOLDER"
    )
