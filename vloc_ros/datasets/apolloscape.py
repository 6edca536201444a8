"""ApolloScape self-localization: scenes (roads) with images and poses by record and camera.

A scene is a folder with ``image`` and ``pose`` (or ``ColorImage`` and ``Pose``) in it, such as ``Train/Road11``; a
source is a scene or a folder above some. Below ``pose`` lie records, to any depth (``GZ20180310B/Record001``), with
``Camera_5.txt`` or ``Camera 5/pose.txt``, and below ``image`` the same records with folders of images; "Camera 5" and
"Camera_5" both occur. The forms of the pose files: :mod:`vloc_ros.datasets.apolloscape`.

Coordinates are some 10 km: the map's origin is subtracted in float64, and stated as ``origin_m`` of the sequence. All
drives of a source lie in one map frame. Without an ``origin`` it is the first pose of the scene's first pose file in
whole metres, whatever records and camera are asked for; scenes of other folders (Train, Test) that are opened apart
need one ``origin`` to share a map. No file holds the rig: ``base_link`` is at the camera, with body axes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import FolderImages, first_usable
from vloc_ros.datasets.posed_images import counted_stamp
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import Row, images_in, read_rows, too_far, transform_from_matrix
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.cameras import resized
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["CAMERAS", "NamedPose", "Options", "Order", "matches", "name_stamp", "open_drives", "read_named_poses"]
#: As published, at full size.
CAMERAS = {
    "Camera_5": CameraModel(3384, 2710, 2304.54786556982, 2305.875668062, 1686.23787612802, 1354.98486439791),
    "Camera_6": CameraModel(3384, 2710, 2300.39065314361, 2301.31478860597, 1713.21615190657, 1342.91100799715),
}
_FOLDERS = (("pose", "image"), ("Pose", "ColorImage"))
Order = Literal["angles_first", "position_first"]
_STAMP = re.compile(r"(\d{6})_(\d{6})(\d{3})(?!\d)")
#: No angle in radians is larger; coordinates, and angles in degrees, nearly always are.
_LARGEST_ANGLE = 2.0 * np.pi + 1e-3


@dataclass(frozen=True)
class Options:
    """Which drives of a source, and how to read them.

    :param scene: the folder of a scene, such as Road11; None: all of them.
    :param split: the folder above the scenes, Train or Test; None: all of them.
    :param records: such as Record001 or GZ20180310B/Record001; none: all of them.
    :param camera: its number or name, whichever way it is spelled.
    :param subset: a list in the scene's folder ``split`` (``train`` for ``split/train.txt``), of the images to take.
    :param order: what a line of six values has first.
    :param intrinsics: fx, fy, cx, cy of the images on disk; None: those published for cameras 5 and 6, scaled.
    :param origin: x, y, z of the map's origin in the data set's coordinates; None: see above.
    :param rate_hz: of images whose names are no stamps, which are counted in the order of the pose file.
    """

    scene: str | None = None
    split: str | None = None
    records: tuple[str, ...] = ()
    camera: str | int = "Camera_5"
    subset: str | None = None
    order: Order = "angles_first"
    intrinsics: tuple[float, float, float, float] | None = None
    origin: tuple[float, float, float] | None = None
    rate_hz: float = ranged(10.0, minimum=1e-3)


def matches(path: Path) -> bool:
    """Whether a folder is a scene, or holds some at most two levels down."""
    return bool(_scenes(Path(path)))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """A drive for every record. :raises DatasetError: nothing fits the options, or something is malformed."""
    path = Path(path)
    scenes = _scenes(path)
    if not scenes:
        raise DatasetError(f"{path}: expected scenes (folders with image and pose, or ColorImage and Pose), found none")
    everything = [record for scene in scenes for record in _records(scene)]
    camera = _camera_name(str(options.camera))
    chosen = [r for r in everything if r.camera == camera and _asked(r, path, options)]
    if not chosen:
        found = ", ".join(sorted({f"{r.scene.name} {r.name} {r.camera}" for r in everything})[:8])
        asked = [text for text in (options.split, options.scene, *options.records, camera) if text]
        raise DatasetError(f"{path}: expected poses of {' '.join(asked)}, found {found or 'no pose files'}")
    origin = options.origin or _first_position(chosen[0].scene, options, problems)
    drives = []
    for record in chosen:
        if not record.images.is_dir():
            problems.fault(
                "record without images",
                f"{record.images}: no such folder, for the poses in {record.poses}; complete the data set, name the "
                "records (records=[...]), or --keep-going",
            )
            continue
        drive = _open(record, options, origin, problems)
        if drive is not None:
            drives.append(drive)
    return drives


def _scenes(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    levels = [path]
    for folder in _folders(path):
        levels += [folder, *_folders(folder)]
    return [p for p in levels if any((p / pose).is_dir() and (p / image).is_dir() for pose, image in _FOLDERS)]


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:  # a folder of images has many thousand entries
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _camera_name(text: str) -> str:
    number = re.fullmatch(r"(?:camera)?[ _]?(\d+)", text.strip(), re.IGNORECASE)
    return f"Camera_{number[1]}" if number else text.strip()


@dataclass(frozen=True)
class _Record:
    """A pose file with the images that belong to it. ``name`` is that of the record below its scene."""

    scene: Path
    name: str
    camera: str
    poses: Path
    images: Path


def _records(scene: Path) -> list[_Record]:
    pose, image = next(names for names in _FOLDERS if all((scene / name).is_dir() for name in names))
    found = []
    for file in sorted((scene / pose).rglob("*.txt")):
        own = file.parent if file.stem.lower() == "pose" else file.with_suffix("")
        name = own.parent.relative_to(scene / pose).as_posix()
        camera = _camera_name(own.name)
        folder = scene / image / name
        spelled = [own.name, camera, camera.replace("_", " ")]
        images = next((folder / s for s in spelled if (folder / s).is_dir()), folder / own.name)
        found.append(_Record(scene, name, camera, file, images))
    return found


def _asked(record: _Record, path: Path, options: Options) -> bool:
    above = (path.resolve().name, *record.scene.relative_to(path).parts)
    return (
        (options.scene is None or record.scene.resolve().name == options.scene)
        and (options.split is None or options.split in (*above, path.resolve().parent.name))
        and (not options.records or any(record.name == r or record.name.endswith(f"/{r}") for r in options.records))
    )


def _first_position(scene: Path, options: Options, problems: Problems) -> tuple[float, float, float]:
    """Of the scene's first pose that is sound; what is faulty is told where its record is read."""
    file = _records(scene)[0].poses
    try:
        first = read_named_poses(file, options.order, Problems(keep_going=True))[0]
    except DatasetError:
        if problems.keep_going:
            raise
        first = read_named_poses(file, options.order, problems)[0]  # whose message is about the first line
    x, y, z = (float(v) for v in np.round(first.T_world_cam[:3, 3]))
    return x, y, z


def _open(
    record: _Record, options: Options, origin: tuple[float, float, float], problems: Problems
) -> PosedSequence | None:
    before = dict(problems.counts)
    images = {p.name: p for p in images_in(record.images)}
    poses = read_named_poses(record.poses, options.order, problems)
    named = len(images.keys() - {pose.image for pose in poses})
    if named:
        problems.skip("image without a pose", f"{record.images}: {named} images have no pose in {record.poses}", named)
    if options.subset is not None:
        listed = _subset(record, options.subset)
        poses = [pose for pose in poses if pose.image in listed]
        if not poses:
            return None  # lists are of a scene, and need not have images of every record
    poses = [pose for pose in poses if _there(pose, images, record, problems)]
    if not poses:
        raise DatasetError(f"{record.poses}: expected images with poses in {record.images}, found none")
    stamps, poses = _stamped(poses, record, options, problems)
    paths = tuple(images[pose.image] for pose in poses)
    begin, size = first_usable(paths, problems)
    stamps, poses, paths = stamps[begin:], poses[begin:], paths[begin:]
    T = np.stack([pose.T_world_cam for pose in poses])
    T[:, :3, 3] -= np.array(origin)
    return PosedSequence(
        "-".join([record.scene.resolve().name, *record.name.split("/"), record.camera]),
        stamps,
        T,
        T_BODY_OPTICAL.copy(),
        _camera(record, paths[0], size, options),
        FolderImages(paths),
        origin_m=origin,
        dropped=problems.since(before),
    )


def _there(pose: NamedPose, images: dict[str, Path], record: _Record, problems: Problems) -> bool:
    if pose.image in images:
        return True
    problems.fault(
        "listed image that is missing",
        f"{pose.where}: expected the image {record.images / pose.image}, found no file; complete the data set, or "
        "--keep-going",
    )
    return False


def _stamped(
    poses: list[NamedPose], record: _Record, options: Options, problems: Problems
) -> tuple[npt.NDArray[np.int64], list[NamedPose]]:
    """Stamps by the names, in their order; or counted, where no name has one."""
    told = [name_stamp(pose.image) for pose in poses]
    if not any(stamp is not None for stamp in told):
        counted = [counted_stamp(number, options.rate_hz) for number in range(len(poses))]
        return np.array(counted, dtype=np.int64), poses
    by_stamp: dict[int, NamedPose] = {}
    for pose, stamp in zip(poses, told, strict=True):
        if stamp is None:
            problems.fault(
                "image whose name is no stamp",
                f"{pose.where}: expected a name such as 171206_034559609_Camera_5.jpg, found {pose.image}",
            )
        elif stamp in by_stamp:
            problems.fault(
                "repeated stamp", f"{pose.where}: expected one image a stamp, found {by_stamp[stamp].image}, too"
            )
        else:
            by_stamp[stamp] = pose
    stamps = sorted(by_stamp)
    return np.array(stamps, dtype=np.int64), [by_stamp[s] for s in stamps]


def _subset(record: _Record, subset: str) -> set[str]:
    """The names of the record's images that a list has; its lines may name the record before the image."""
    folder = record.scene / "split"
    files = [p for p in (folder / subset, folder / f"{subset}.txt") if p.is_file()]
    if not files:
        found = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) if folder.is_dir() else "no folder split"
        raise DatasetError(f"{folder / f'{subset}.txt'}: no such file; found {found or 'no lists'}")
    listed = set()
    *above, own = record.name.split("/")
    for line in files[0].read_text(encoding="utf-8-sig", errors="replace").splitlines():
        *folders, name = line.strip().split("/")
        name = name.partition(" ")[0]
        # Records of several days have equal names: where the line says the day, it counts.
        day = not above or folders[:1] == [own] or above[-1] in folders
        if name and (not folders or (own in folders and day)):
            listed.add(name if Path(name).suffix else f"{name}.jpg")
    return listed


def _camera(record: _Record, image: Path, size: tuple[int, int], options: Options) -> CameraModel:
    width, height = size
    if options.intrinsics is not None:
        return CameraModel(width, height, *options.intrinsics)
    camera = CAMERAS.get(record.camera)
    if camera is None:
        raise DatasetError(
            f"{record.poses}: expected the intrinsics, which are published for {' and '.join(CAMERAS)} alone, not for "
            f"{record.camera}; give intrinsics=[fx,fy,cx,cy]"
        )
    # Resizing rounds each side to whole pixels.
    if abs(width * camera.height / camera.width - height) > 1.0:
        raise DatasetError(
            f"{image}: expected {camera.width}x{camera.height} pixels or a scaled image, found {width}x{height}, which "
            "has been cropped; give intrinsics=[fx,fy,cx,cy] of these images"
        )
    return resized(camera, width, height)


@dataclass(frozen=True)
class NamedPose:
    """``T_world_cam`` (4, 4) of an image, and where it is written (``path:line``)."""

    image: str
    T_world_cam: Array
    where: str


def read_named_poses(path: Path, order: Order, problems: Problems) -> list[NamedPose]:
    """The poses of a file, in its order. :raises DatasetError: no such file, or a faulty line."""
    poses: dict[str, NamedPose] = {}
    # Spaces may follow the commas: the values are split again.
    for row in read_rows(path, problems, tuple(range(2, 18))):
        fields = " ".join(row.fields).replace(",", " ").split()
        name, values = (
            (fields[-1], fields[:-1]) if len(fields) == 17 and _is_number(fields[0]) else (fields[0], fields[1:])
        )
        if len(values) not in (6, 16):
            problems.fault(
                "row of the wrong length",
                f"{row.where}: expected an image name with roll,pitch,yaw,x,y,z or with the 16 values of a matrix, "
                f"found {len(values)} values",
            )
            continue
        numbers = Row(path, row.number, tuple(values)).numbers(problems)
        if numbers is None:
            continue
        T = (
            _from_angles(numbers, order, row.where, problems)
            if len(values) == 6
            else _rigid(numbers, row.where, problems)
        )
        if T is None:
            continue
        name = name.rsplit("/", 1)[-1]
        if name in poses:
            problems.fault("repeated image", f"{row.where}: expected one pose an image, found {name} twice")
            continue
        poses[name] = NamedPose(name, T, row.where)
    if not poses:
        raise DatasetError(f"{path}: expected poses, found none that can be used")
    return list(poses.values())


def _from_angles(values: Array, order: Order, where: str, problems: Problems) -> Array | None:
    angles, position = (values[:3], values[3:]) if order == "angles_first" else (values[3:], values[:3])
    if float(np.abs(angles).max()) > _LARGEST_ANGLE:
        other = "position_first" if order == "angles_first" else "angles_first"
        swapped = float(np.abs(position).max()) <= _LARGEST_ANGLE
        advice = f"the position stands in their place: order={other}" if swapped else "are they degrees?"
        problems.fault(
            "angles out of range",
            f"{where}: expected roll,pitch,yaw in radians, found {','.join(f'{a:g}' for a in angles)}; {advice}",
        )
        return None
    return None if too_far(position, where, problems) else make_transform(euler_to_matrix(angles), position)


def _rigid(values: Array, where: str, problems: Problems) -> Array | None:
    try:
        return transform_from_matrix(values.reshape(4, 4), where)
    except DatasetError as error:
        problems.fault("matrix that is no pose", str(error))
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which float() allows between digits, as names have it


def name_stamp(name: str) -> int | None:
    """ns since 1970 of a name such as ``171206_034559609_Camera_5.jpg`` (yymmdd_HHMMSSmmm, taken as UTC), or None."""
    found = _STAMP.match(name)
    if not found:
        return None
    try:
        second = datetime.strptime(found[1] + found[2], "%y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(second.timestamp()) * 10**9 + int(found[3]) * 10**6
