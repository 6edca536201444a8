"""Cambridge Landmarks: ``SCENE/dataset_{train,test}.txt`` and ``SCENE/seqK/frameNNNNN.png``; a drive for each folder.

The two files have three header lines, then ``seqK/frameNNNNN.png X Y Z W P Q R``: the camera's centre C in metres, and
a w-first quaternion world to camera (its inverse is the camera's orientation; t = -R C). A few positions lie kilometres
away, where the reconstruction failed; those beyond ``limit_m`` are left out and counted.

Focal lengths are those of ``reconstruction.nvm`` (which names the images .jpg, at 1920x1080): the median of the
folder's images, which VisualSFM estimated one by one; the principal point is the middle of the image, and the small
radial distortion of that file is left aside, as in the benchmark. The world is assumed to have z up, which no file
states; ``world`` says otherwise.
There are no stamps: the videos were sampled at 2 Hz, frame N of folder seqK is at K hours and N / 2 s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.nvm import read_nvm
from vloc_ros.datasets.posed_images import (
    FARTHEST_M,
    START_NS,
    Shot,
    World,
    counted_stamp,
    in_map,
    size_of_images,
    stamps_of,
    usable_shots,
)
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import natural_key, read_rows, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives", "read_focals"]

FILES = {"train": "dataset_train.txt", "test": "dataset_test.txt"}
HEADER_LINES = 3
MODEL = "reconstruction.nvm"
SIZE = (1920, 1080)
HOUR_NS = 3600 * 10**9


@dataclass(frozen=True)
class Options:
    """How to read a scene.

    :param split: the images of ``dataset_train.txt``, of ``dataset_test.txt``, or of both.
    :param sequence: one folder of images alone, for example ``seq3``.
    :param focal: of the images on disk, pixels; None: from ``reconstruction.nvm``.
    :param limit_m: positions farther from the scene's origin are left out.
    :param rate_hz: frames a second.
    :param world: how the poses' world stands: with z up, y up, or as a camera (x right, y down).
    """

    split: Literal["train", "test", "all"] = "all"
    sequence: str | None = None
    focal: float | None = None
    limit_m: float = ranged(10_000.0, minimum=0.0, maximum=FARTHEST_M)
    rate_hz: float = ranged(2.0, minimum=1e-3)
    world: World = "z_up"


@dataclass(frozen=True)
class _Listed:
    name: PurePosixPath
    T_world_cam: Array
    where: str


def matches(path: Path) -> bool:
    """Whether a folder has one of the two files."""
    return any((Path(path) / name).is_file() for name in FILES.values())


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drives of a scene, one a folder of images, in the order of their numbers.

    :raises DatasetError: something is missing or malformed (with file and line).
    """
    path = Path(os.path.abspath(path))  # a link keeps its name
    splits = ("train", "test") if options.split == "all" else (options.split,)
    listed: list[_Listed] = []
    before = dict(problems.counts)
    for split in splits:
        listed += _read(path / FILES[split], options, problems)
    by_folder: dict[PurePosixPath, list[_Listed]] = {}
    for item in listed:
        by_folder.setdefault(item.name.parent, []).append(item)
    if options.sequence is not None:
        known = ", ".join(str(f) for f in sorted(by_folder, key=lambda f: natural_key(str(f)))) or "none"
        by_folder = {f: items for f, items in by_folder.items() if str(f) == options.sequence}
        if not by_folder:
            raise DatasetError(f"{path}: expected sequence {options.sequence!r} among {known}, found none")
    folders = sorted(by_folder, key=lambda f: natural_key(str(f)))
    numbers = _numbers([f.name for f in folders])
    focals: dict[str, float] | None = None
    if options.focal is None:
        focals = read_focals(path / MODEL, problems)
    out = []
    for number, folder in zip(numbers, folders, strict=True):
        drive = _drive(path, folder, number, by_folder[folder], focals, options, problems)
        if drive is not None:
            out.append(replace(drive, dropped=problems.since(before)))
            before = dict(problems.counts)
    return out


def _read(path: Path, options: Options, problems: Problems) -> list[_Listed]:
    if path.is_file():
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in zip(range(1, HEADER_LINES + 1), file, strict=False):
                if len(line.split()) == 8 and _is_number(line.split()[-1]):
                    raise DatasetError(
                        f"{path}:{number}: expected {HEADER_LINES} header lines, found a pose in line {number}; "
                        "put the header back"
                    )
    out = []
    for row in read_rows(path, problems, 8, header_lines=HEADER_LINES):
        values = row.numbers(problems, 1)
        if values is None:
            continue
        C, q = values[:3], values[3:]
        T = transform_from_quaternion(np.zeros(3), q[[1, 2, 3, 0]], row.where, problems)
        if T is None:
            continue
        if float(np.linalg.norm(C)) > options.limit_m:
            problems.skip(
                "position beyond the limit",
                f"{row.where}: {row.fields[0]} lies {np.linalg.norm(C) / 1000.0:.1f} km away, beyond limit_m="
                f"{options.limit_m:g}",
            )
            continue
        T[:3, :3] = T[:3, :3].T  # the file's rotation is world to camera; its position is the centre already
        T[:3, 3] = C
        out.append(_Listed(PurePosixPath(row.fields[0]), T, row.where))
    if not out:
        raise DatasetError(f"{path}: expected images with poses, found none that can be used")
    return out


def _drive(
    root: Path,
    folder: PurePosixPath,
    number: int,
    listed: Sequence[_Listed],
    focals: dict[str, float] | None,
    options: Options,
    problems: Problems,
) -> PosedSequence | None:
    listed = sorted(listed, key=lambda item: natural_key(str(item.name)))
    begin = START_NS + number * HOUR_NS
    names = list(dict.fromkeys(item.name.stem for item in listed))
    frame = dict(zip(names, _numbers(names), strict=True))
    shots = usable_shots(
        [
            Shot(counted_stamp(frame[i.name.stem], options.rate_hz, begin), root / i.name, i.T_world_cam, i.where)
            for i in listed
        ],
        problems,
    )
    if not shots:
        problems.fault("folder without images", f"{root / folder}: expected the images of {folder}, found none")
        return None
    shots, size = size_of_images(shots, problems)
    if focals is None:
        assert options.focal is not None
        focal = options.focal
    else:
        if size != SIZE:
            raise DatasetError(
                f"{shots[0].path}: expected an image of {SIZE[0]}x{SIZE[1]}, whose focal lengths {MODEL} has, found "
                f"{size[0]}x{size[1]}; give the focal length of these in pixels: focal=F"
            )
        known = [f for s in shots if (f := focals.get(_key(s.path.relative_to(root).as_posix()))) is not None]
        if not known:
            first = _key(shots[0].path.relative_to(root).as_posix())
            raise DatasetError(
                f"{root / MODEL}: expected images of {folder} (such as {first}.jpg), found none; give the focal length "
                "in pixels: focal=F"
            )
        focal = float(np.median(known))
    camera = CameraModel(*size, focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2)
    T_map_cam = in_map(shots, options.world, str(root))
    name = "-".join([root.name, *folder.parts])
    if options.split != "all":
        name += f"-{options.split}"
    source = FolderImages(tuple(s.path for s in shots))
    return PosedSequence(name, stamps_of(shots), T_map_cam, T_BODY_OPTICAL.copy(), camera, source)


def read_focals(path: Path, problems: Problems) -> dict[str, float]:
    """Focal lengths in pixels from VisualSFM's file, by image name without its ending.

    :raises DatasetError: no such file, no such format, or a faulty line.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: expected the reconstruction with the focal lengths, found none; give focal=F")
    out: dict[str, float] = {}
    for camera in read_nvm(path, problems):
        if camera.focal <= 0.0:
            problems.fault(
                "focal length that is none", f"{camera.where}: expected a focal length above 0, found {camera.focal:g}"
            )
            continue
        out[_key(camera.name)] = camera.focal
    return out


def _key(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(names: Sequence[str]) -> list[int]:
    """The number at the end of each name if all have one (no stamp), and they differ; else their places in order.

    Larger numbers than the layout has would be stamps beyond what an int64 holds.
    """
    found = [re.search(r"([0-9]{1,18})$", name) for name in names]
    numbers = [int(m[1]) for m in found if m is not None]
    usable = len(set(numbers)) == len(names) and max(numbers, default=0) < 10**5
    return numbers if usable else list(range(len(names)))
