"""Microsoft's 7-Scenes: ``SCENE/seq-XX/frame-NNNNNN.{color.png, depth.png, pose.txt}``; a drive for each sequence.

Colour: 640x480, focal length 525 (nominal; 585 is the depth camera's), centre (320, 240); the data set has no
calibration. The poses (4x4, camera to world) are those of KinectFusion, which tracked the depth camera; the benchmark
takes them for the colour camera's, and so does this reader. Other poses are chosen by ``poses`` and named in the drive:
a folder with the same ``seq-XX/frame-NNNNNN.pose.txt``, or the SfM poses of Brachmann et al. (ICCV 2021), a file or
folder of ``SCENE_{train,test}.txt`` with lines ``seq-XX/frame-NNNNNN.color.png qw qx qy qz tx ty tz f``, world to
camera, whose focal lengths then hold unless others are given, with the centre in the middle of the image.

The world is assumed to stand as a camera that is held upright (y down, z forward), as KinectFusion begins; ``world``
says otherwise. There are no stamps: frame N of sequence XX is at XX hours and N / 30 s after the start of the clock.

Depth is 16 bit, in millimetres; 0 and 65535 are unknown. It is not registered to the colour image. By default it is
carried over with the nominal intrinsics of both cameras and no distance between them (a Kinect has about 2.5 cm:
``depth_offset``), which puts it within some pixels of the truth; what needs better depth needs a calibration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from vloc_ros.datasets.depth_images import DepthCamera, DepthImages
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.posed_images import (
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
from vloc_ros.datasets.tables import read_rows, transform_from_matrix, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["FramePose", "Options", "PoseFiles", "PoseTable", "Poses", "matches", "open_drives", "read_matrix"]
SPLITS = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
SIZE = (640, 480)
INTRINSICS = (525.0, 525.0, 320.0, 240.0)
HOUR_NS = 3600 * 10**9
_SEQUENCE = re.compile(r"seq-(\d{1,6})")
_NAME = re.compile(r"(?:.*/)?seq-(\d{1,6})[/-]frame-(\d{1,6})(?:\.color)?(?:\.png|\.jpg)?")


@dataclass(frozen=True)
class Options:
    """How to read a scene or one of its sequences.

    :param split: the sequences of ``TrainSplit.txt`` or ``TestSplit.txt``, or all that are there (a sequence's own
        folder is always itself).
    :param poses: ``original``, or the file or folder of another set of poses.
    :param intrinsics: fx, fy, cx, cy in pixels; None: the nominal ones, or those that came with the poses.
    :param rate_hz: frames a second.
    :param world: how the poses' world stands: as a camera (x right, y down, z forward), or with y or z up.
    :param depth: ``registered`` to the colour image by the two nominal cameras, ``raw`` as it is stored, or ``none``.
    :param depth_intrinsics: fx, fy, cx, cy of the depth camera.
    :param depth_offset: where the depth camera is, metres in the colour camera's axes (x right, y down, z forward).
    """

    split: Literal["train", "test", "all"] = "all"
    poses: str = "original"
    intrinsics: tuple[float, float, float, float] | None = None
    rate_hz: float = ranged(30.0, minimum=1e-3)
    world: World = "camera"
    depth: Literal["registered", "raw", "none"] = "registered"
    depth_intrinsics: tuple[float, float, float, float] = (585.0, 585.0, 320.0, 240.0)
    depth_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


def matches(path: Path) -> bool:
    """Whether a folder is a sequence with such images, or holds one."""
    path = Path(path)
    if not path.is_dir():
        return False
    if _SEQUENCE.fullmatch(Path(os.path.abspath(path)).name):
        return any(path.glob("frame-*.color.png"))
    return any(path.glob("seq-*/frame-*.color.png"))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drives of a scene, one a sequence, in the order of their numbers.

    :raises DatasetError: something is missing or malformed (with file and line).
    """
    path = Path(os.path.abspath(path))  # a link keeps its name
    alone = _SEQUENCE.fullmatch(path.name) is not None
    scene = path.parent if alone else path
    sequences = [path] if alone else _sequences(scene, options, problems)
    poses = _poses(scene, options, problems)
    return [drive for folder in sequences if (drive := _drive(folder, poses, options, problems)) is not None]


def _sequences(scene: Path, options: Options, problems: Problems) -> list[Path]:
    if options.split == "all":
        found = [p for p in scene.glob("seq-*") if _SEQUENCE.fullmatch(p.name) and p.is_dir()]
        if not found:
            raise DatasetError(f"{scene}: expected folders seq-01, seq-02, ..., found none; name a scene of 7-Scenes")
        return sorted(found, key=_number)
    out = []
    for row in read_rows(scene / SPLITS[options.split], problems, 1):
        named = re.fullmatch(r"seq(?:uence)?-?(\d+)", row.fields[0])
        if named is None:
            problems.fault("split that cannot be read", f"{row.where}: expected sequenceN, found {row.fields[0]!r}")
            continue
        folder = scene / f"seq-{int(named[1]):02d}"
        if not folder.is_dir():
            problems.fault("missing sequence", f"{row.where}: expected the folder {folder}, found none; unpack it")
            continue
        out.append(folder)
    if not out:
        raise DatasetError(f"{scene / SPLITS[options.split]}: expected sequences, found none that can be used")
    return sorted(set(out), key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("seq-"))


def _drive(folder: Path, poses: Poses, options: Options, problems: Problems) -> PosedSequence | None:
    before = dict(problems.counts)
    begin = START_NS + _number(folder) * HOUR_NS
    numbers = {int(m[1]) for p in folder.iterdir() if (m := re.match(r"frame-(\d{1,6})\.(color|pose|depth)\.", p.name))}
    shots, focals = [], {}
    for number in sorted(numbers):
        found = poses.at(_number(folder), number, problems)
        if found is None:
            continue
        stamp = counted_stamp(number, options.rate_hz, begin)
        shots.append(Shot(stamp, folder / f"frame-{number:06d}.color.png", found.T_world_cam, found.where))
        focals[stamp] = found.focal
    shots = usable_shots(shots, problems)
    depth_paths: dict[int, Path] = {}
    if options.depth != "none":
        depth_paths = {s.stamp_ns: s.path.with_name(s.path.name.replace(".color.", ".depth.")) for s in shots}
        there = {stamp for stamp, path in depth_paths.items() if path.is_file()}
        if there and len(there) < len(shots):  # colour alone is a choice; a gap in the depth is a fault
            for shot in shots:
                if shot.stamp_ns not in there:
                    problems.fault(
                        "missing depth",
                        f"{depth_paths[shot.stamp_ns]}: expected the depth of {shot.path.name}, found no file; "
                        "complete the sequence, or depth=none",
                    )
            shots = [shot for shot in shots if shot.stamp_ns in there]
        if not there:
            depth_paths = {}
    if not shots:
        tell = problems.fault if options.poses == "original" else problems.skip
        tell("sequence without frames", f"{folder}: expected frames with poses, found none")
        return None
    shots, size = size_of_images(shots, problems)
    camera = _camera(shots, size, {focals[s.stamp_ns] for s in shots} - {None}, options)
    paths = tuple(s.path for s in shots)
    source = FolderImages(paths)
    if depth_paths:
        T = np.eye(4)
        T[:3, 3] = options.depth_offset
        depth_camera = DepthCamera(options.depth_intrinsics, T) if options.depth == "registered" else None
        source = DepthImages(paths, tuple(depth_paths[s.stamp_ns] for s in shots), camera, depth_camera)
    name = f"{folder.parent.name}-{folder.name}"
    if options.poses != "original":
        name += f"-poses-{Path(options.poses).name}"
    T_map_cam = in_map(shots, options.world, str(folder))
    drive = PosedSequence(name, stamps_of(shots), T_map_cam, T_BODY_OPTICAL.copy(), camera, source)
    return replace(drive, dropped=problems.since(before))


def _camera(shots: list[Shot], size: tuple[int, int], focals: set[float | None], options: Options) -> CameraModel:
    if options.intrinsics is not None:
        return CameraModel(*size, *options.intrinsics)
    if size != SIZE:
        raise DatasetError(
            f"{shots[0].path}: expected an image of {SIZE[0]}x{SIZE[1]}, found {size[0]}x{size[1]}; "
            "give the intrinsics of these: intrinsics=[fx,fy,cx,cy]"
        )
    if not focals:
        return CameraModel(*size, *INTRINSICS)
    if len(focals) > 1:
        raise DatasetError(
            f"{shots[0].where}: expected one focal length for the frames of {shots[0].path.parent}, found "
            f"{', '.join(f'{f:g}' for f in sorted(f for f in focals if f))}; give intrinsics=[fx,fy,cx,cy]"
        )
    focal = focals.pop()
    assert focal is not None
    return CameraModel(*size, focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2)


def _poses(scene: Path, options: Options, problems: Problems) -> Poses:
    if options.poses == "original":
        return PoseFiles(scene, complete=True)
    path = Path(options.poses)
    tables = [path] if path.is_file() else sorted(path.glob(f"{scene.name}_*.txt"))
    if tables:
        return PoseTable(tables, problems)
    if any(path.glob("seq-*/frame-*.pose.txt")):
        return PoseFiles(path, complete=False)
    raise DatasetError(
        f"{path}: expected poses=original, a folder with seq-XX/frame-NNNNNN.pose.txt or {scene.name}_train.txt, or "
        "such a text file, found none of them"
    )


@dataclass(frozen=True)
class FramePose:
    """The camera's pose ``T_world_cam`` (4, 4), where it stands, and the focal length in pixels if one came with it."""

    T_world_cam: Array
    where: str
    focal: float | None = None


class Poses(Protocol):
    """Poses by sequence and frame; None where there is none, which has been counted."""

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None: ...


@dataclass(frozen=True)
class PoseFiles:
    """``seq-XX/frame-NNNNNN.pose.txt`` below a folder; of a ``complete`` set, a missing one is a fault."""

    folder: Path
    complete: bool

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None:
        path = self.folder / f"seq-{sequence:02d}" / f"frame-{frame:06d}.pose.txt"
        if not path.is_file():
            message = f"{path}: expected a pose, found no file"
            if self.complete:
                problems.fault("missing pose", f"{message}; complete the sequence, or --keep-going")
            else:
                problems.skip("image without a pose", message)
            return None
        try:
            return FramePose(read_matrix(path), str(path))
        except DatasetError as problem:
            problems.fault("pose that cannot be used", str(problem))
            return None


class PoseTable:
    """Text files with lines ``seq-XX/frame-NNNNNN.color.png qw qx qy qz tx ty tz f``, world to camera.

    Frames that structure from motion did not find have no line; they are counted, and are no fault.
    """

    def __init__(self, paths: Sequence[Path], problems: Problems) -> None:
        self._what = ", ".join(str(p) for p in paths)
        self._poses: dict[tuple[int, int], FramePose] = {}
        for path in paths:
            self._read(path, problems)

    def _read(self, path: Path, problems: Problems) -> None:
        for row in read_rows(path, problems, (8, 9)):
            named = _NAME.fullmatch(row.fields[0])
            if named is None:
                problems.fault(
                    "name that cannot be read",
                    f"{row.where}: expected seq-XX/frame-NNNNNN.color.png, found {row.fields[0][:60]!r}",
                )
                continue
            values = row.numbers(problems, 1)
            if values is None:
                continue
            T = transform_from_quaternion(values[4:7], values[[1, 2, 3, 0]], row.where, problems)
            if T is None:
                continue
            key = int(named[1]), int(named[2])
            if key in self._poses:
                problems.fault(
                    "repeated pose", f"{row.where}: expected one pose of {row.fields[0]}, found one more, first at "
                    f"{self._poses[key].where}",
                )  # fmt: skip
                continue
            self._poses[key] = FramePose(inverse(T), row.where, float(values[7]) if len(values) == 8 else None)

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None:
        found = self._poses.get((sequence, frame))
        if found is None:
            problems.skip(
                "image without a pose", f"{self._what}: no pose of seq-{sequence:02d}/frame-{frame:06d}.color.png"
            )
        return found


def read_matrix(path: Path) -> Array:
    """A 4x4 transform of four lines; its rotation, written with few digits, is made orthonormal again.

    :raises DatasetError: names the file and the line.
    """
    rows = []
    for row in read_rows(path, Problems(), 4):
        values = row.numbers(Problems())
        assert values is not None
        rows.append(values)
    if len(rows) != 4:
        raise DatasetError(f"{path}:{len(rows) + 1}: expected 4 rows of 4 values, found {len(rows)} rows")
    return transform_from_matrix(np.stack(rows), f"{path}:1")
