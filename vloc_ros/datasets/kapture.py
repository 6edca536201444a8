"""kapture 1.1: ``sensors/{sensors, rigs, trajectories, records_camera}.txt``, comma separated; a drive for each camera.

Poses are world to device with w-first quaternions, and those of ``rigs.txt`` rig to sensor; a rig may hold rigs. A pose
belongs to the camera itself or to a rig that it is in, at exactly its image's timestamp. Images without one (a query
set) are counted and left out. Cameras are COLMAP's models, pixel centres at one half.

kapture does not say what its timestamps are: nanoseconds since 1970 are expected, ``stamp_unit`` names another unit or
``frame`` for counters and ids, which become stamps at ``rate_hz``. Nor does it say where up is (``world``), or where
the world lies: coordinates too large for a map, UTM for example, need ``origin``. Rows may stand in any order.

``base_link`` is at the camera, with body axes; the other sensors of its rig are in the drive's rig. Positions of a
WGS-84 receiver in ``records_gnss.txt`` come with every drive.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vloc_ros.datasets.colmap_cameras import camera_of_parameters
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.kapture_gnss import WGS84, read_gnss
from vloc_ros.datasets.kapture_poses import Mounting, Trajectories, read_mounting, read_trajectories, timestamp
from vloc_ros.datasets.kitti import START_NS
from vloc_ros.datasets.posed_images import (
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
from vloc_ros.datasets.tables import LATEST_NS, Row, read_rows, stamp_in_ns
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives"]

VERSIONS = ("1.0", "1.1")


@dataclass(frozen=True)
class Options:
    """How to read a data set.

    :param camera: one camera's id alone; None: all of them.
    :param stamp_unit: what the timestamps are: ns, us, ms, s, or ``frame`` for counters and other ids.
    :param since_1970: the timestamps count from then, and others are refused; false: from an unknown moment.
    :param rate_hz: of counters.
    :param world: how the world stands: with z up, y up, or as a camera (x right, y down).
    :param origin: what becomes the map's origin, in the data set's world, metres.
    :param join: cameras of the same intrinsics are one drive (data sets that list a camera for every image).
    """

    camera: str | None = None
    stamp_unit: Literal["ns", "us", "ms", "s", "frame"] = "ns"
    since_1970: bool = True
    rate_hz: float = ranged(10.0, minimum=1e-3)
    world: World = "z_up"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    join: bool = False


def matches(path: Path) -> bool:
    """Whether a folder has ``sensors/sensors.txt``."""
    return (Path(path) / "sensors" / "sensors.txt").is_file()


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drives of a data set, one a camera, in the order of ``sensors.txt``.

    :raises DatasetError: something is missing or malformed (with file and line).
    :raises CameraError: a camera model that is not supported, or no calibration.
    """
    path = Path(os.path.abspath(path))  # a link keeps its name
    folder = path / "sensors"
    before = dict(problems.counts)
    kinds, cameras, systems = _sensors(folder / "sensors.txt", problems)
    named = [device for device, kind in kinds.items() if kind == "camera"]
    if options.camera is not None and options.camera not in named:
        raise DatasetError(
            f"{folder / 'sensors.txt'}: expected the camera {options.camera!r} among {', '.join(named[:20]) or 'none'}"
        )
    mounting = read_mounting(folder / "rigs.txt", problems)
    if not (folder / "trajectories.txt").is_file():
        raise DatasetError(
            f"{folder / 'trajectories.txt'}: expected the poses, found no file; a kapture of queries has none"
        )
    trajectories = read_trajectories(folder / "trajectories.txt", problems)
    shots = _shots(folder, kinds, cameras, mounting, trajectories, options, problems)
    groups: dict[CameraModel | str, list[str]] = {}
    for device in named:
        if device in shots:
            groups.setdefault(cameras[device] if options.join else device, []).append(device)
    gnss = read_gnss(
        folder / "records_gnss.txt", systems, lambda time, row: _stamp(time, row, options, problems), problems
    )
    out = []
    for devices in groups.values():
        drive = _drive(path, devices, shots, cameras[devices[0]], mounting, options, problems)
        if drive is not None:
            title = path.name if len(groups) == 1 else f"{path.name}-{devices[0].replace('/', '_')}"
            out.append(replace(drive, name=title, gnss=gnss, dropped=problems.since(before)))
            before = dict(problems.counts)
    if not out:
        raise DatasetError(
            f"{folder / 'records_camera.txt'}: expected images with poses at their timestamps, found none "
            f"({problems.summary() or 'no rows'})"
        )
    return out


def _sensors(path: Path, problems: Problems) -> tuple[dict[str, str], dict[str, CameraModel], dict[str, str]]:
    """Kinds of all devices, the cameras that can be used, and the coordinate systems of receivers."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
        version = first.partition("kapture format:")[2].strip()
        if version and version not in VERSIONS:
            raise DatasetError(f"{path}:1: expected kapture format {' or '.join(VERSIONS)}, found {version!r}")
    kinds: dict[str, str] = {}
    cameras: dict[str, CameraModel] = {}
    systems: dict[str, str] = {}
    for row in read_rows(path, problems, range(1, 100), separator=","):
        if len(row.fields) < 3:
            problems.fault(
                "row of the wrong length",
                f"{row.where}: expected id, name, kind and parameters of a sensor, found {len(row.fields)} fields",
            )
            continue
        device, kind = row.fields[0], row.fields[2]
        if device in kinds:
            problems.fault("repeated sensor", f"{row.where}: expected one sensor {device}, found a second")
            continue
        kinds[device] = kind
        if kind == "gnss":
            systems[device] = (row.fields[3] if len(row.fields) > 3 else "") or WGS84
        if kind != "camera":
            continue
        camera = _camera(row, problems)
        if camera is not None:
            cameras[device] = camera
    return kinds, cameras, systems


def _camera(row: Row, problems: Problems) -> CameraModel | None:
    if len(row.fields) < 6:
        problems.fault(
            "camera without calibration",
            f"{row.where}: expected a camera model, width, height and parameters, found {len(row.fields)} fields",
        )
        return None
    values = row.numbers(problems, 4)
    if values is None:
        return None
    try:
        return camera_of_parameters(
            row.fields[3],
            int(values[0]),
            int(values[1]),
            [float(v) for v in values[2:]],
            f"{row.where}: {row.fields[0]}",
        )
    except CameraError as problem:
        if not problems.keep_going:
            raise
        problems.skip("camera that is not supported", str(problem))
        return None


def _shots(
    folder: Path,
    kinds: Mapping[str, str],
    cameras: Mapping[str, CameraModel],
    mounting: Mounting,
    trajectories: Trajectories,
    options: Options,
    problems: Problems,
) -> dict[str, list[Shot]]:
    """Images with poses by camera."""
    out: dict[str, list[Shot]] = {}
    above = {device: mounting.above(device) for device in cameras}
    for row in read_rows(folder / "records_camera.txt", problems, 3, separator=","):
        device = row.fields[1]
        if options.camera is not None and device != options.camera:
            continue
        if kinds.get(device) != "camera":
            found = f"a sensor of kind {kinds[device]!r}" if device in kinds else "none"
            problems.fault(
                "record of no camera", f"{row.where}: expected a camera {device!r} in sensors.txt, found {found}"
            )
            continue
        if device not in cameras:
            problems.skip("image of a camera that cannot be used", f"{row.where}: its camera {device} cannot be used")
            continue
        time = timestamp(row, problems)
        if time is None:
            continue
        T_device_world = trajectories.at(time, above[device])
        if T_device_world is None:
            problems.skip("image without a pose", f"{row.where}: {row.fields[2]} has no pose in trajectories.txt")
            continue
        stamp = _stamp(time, row, options, problems)
        if stamp is None:
            continue
        image = folder / "records_data" / row.fields[2]
        out.setdefault(device, []).append(Shot(stamp, image, inverse(T_device_world), row.where))
    return out


def _stamp(time: int, row: Row, options: Options, problems: Problems) -> int | None:
    if options.stamp_unit == "frame":
        stamp = counted_stamp(time, options.rate_hz)
        if stamp > LATEST_NS:
            problems.fault(
                "stamp of another unit", f"{row.where}: expected a counter, found {time}; name its stamp_unit"
            )
            return None
        return stamp
    try:
        stamp = stamp_in_ns(str(time), options.stamp_unit, row.where, since_1970=options.since_1970)
    except DatasetError as problem:
        problems.fault(
            "stamp of another unit", f"{problem}; name what it is: stamp_unit=us, ms, s, or frame for counters"
        )
        return None
    return stamp if options.since_1970 else START_NS + stamp


def _drive(
    path: Path,
    devices: Sequence[str],
    shots: Mapping[str, Sequence[Shot]],
    camera: CameraModel,
    mounting: Mounting,
    options: Options,
    problems: Problems,
) -> PosedSequence | None:
    mine = usable_shots([shot for device in devices for shot in shots[device]], problems)
    if not mine:
        return None
    mine, _ = size_of_images(mine, problems, camera.size)
    T_map_cam = in_map(mine, options.world, str(path), options.origin)
    source = FolderImages(tuple(s.path for s in mine))
    rig: dict[str, Array] = {}
    if len(devices) == 1:
        rig = {name: T_BODY_OPTICAL @ T for name, T in mounting.beside(devices[0]).items()}
    return PosedSequence(path.name, stamps_of(mine), T_map_cam, T_BODY_OPTICAL.copy(), camera, source, rig=rig)
