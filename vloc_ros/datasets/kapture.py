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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vloc_ros.datasets.colmap_model import camera_of_parameters
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.posed_images import (
    START_NS,
    Shot,
    World,
    camera_of_images,
    counted_stamp,
    in_map,
    stamps_of,
    usable_shots,
)
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, GnssTrack, PosedSequence
from vloc_ros.datasets.tables import LATEST_NS, Row, read_rows, stamp_in_ns, transform_from_quaternion
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = [
    "WGS84",
    "Mounting",
    "Options",
    "Trajectories",
    "matches",
    "open_drives",
    "read_gnss",
    "read_mounting",
    "read_trajectories",
    "timestamp",
]
VERSIONS = ("1.0", "1.1")
WGS84 = "EPSG:4326"
#: No int64 has more digits.
_LONGEST = 19


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
        with path.open(encoding="utf-8-sig", errors="replace") as file:
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
    mine, camera = camera_of_images(mine, problems, camera)
    T_map_cam = in_map(mine, options.world, str(path), options.origin)
    source = FolderImages(tuple(s.path for s in mine))
    rig: dict[str, Array] = {}
    if len(devices) == 1:
        rig = {name: T_BODY_OPTICAL @ T for name, T in mounting.beside(devices[0]).items()}
    return PosedSequence(path.name, stamps_of(mine), T_map_cam, T_BODY_OPTICAL.copy(), camera, source, rig=rig)


def timestamp(row: Row, problems: Problems) -> int | None:
    """The first field as the integer that it is; None (a fault) where it is none."""
    text = row.fields[0]
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        problems.fault(
            "timestamp that is no integer", f"{row.where}: expected an integer as timestamp, found {text[:40]!r}"
        )
        return None
    return int(text)


@dataclass(frozen=True)
class Mounting:
    """What is mounted on what: ``T_device_rig`` (4, 4) by device, then by each rig that holds it directly."""

    parents: Mapping[str, Mapping[str, Array]]

    def above(self, device: str) -> dict[str, Array]:
        """``T_device_holder`` of the device itself and of every rig above it, nearest first."""
        out = {device: np.eye(4)}
        waiting = [device]
        for name in waiting:
            for rig, T_name_rig in self.parents.get(name, {}).items():
                if rig not in out:
                    out[rig] = out[name] @ T_name_rig
                    waiting.append(rig)
        return out

    def beside(self, device: str) -> dict[str, Array]:
        """``T_device_other`` of every other device on the same outermost rig, rigs included."""
        above = self.above(device)
        out = {}
        for other in {*self.parents, *above}:
            if other == device:
                continue
            shared = [(rig, T) for rig, T in self.above(other).items() if rig in above]
            if shared:
                rig, T_other_rig = shared[0]
                out[other] = above[rig] @ inverse(T_other_rig)
        return dict(sorted(out.items()))


def read_mounting(path: Path, problems: Problems) -> Mounting:
    """``rigs.txt``, which need not exist: ``rig, sensor, qw, qx, qy, qz, tx, ty, tz``, rig to sensor.

    :raises DatasetError: a rig that holds itself; a malformed row (with file and line).
    """
    parents: dict[str, dict[str, Array]] = {}
    if not path.is_file():
        return Mounting(parents)
    for row in read_rows(path, problems, 9, separator=","):
        rig, device = row.fields[:2]
        T_device_rig = _pose(row, problems)
        if T_device_rig is None:
            continue
        if rig in parents.get(device, {}):
            problems.fault("repeated mounting", f"{row.where}: expected {device} once on {rig}, found it a second time")
            continue
        if device == rig or device in Mounting(parents).above(rig):
            raise DatasetError(
                f"{row.where}: expected rigs without loops, found {device} on {rig}, which it holds itself"
            )
        parents.setdefault(device, {})[rig] = T_device_rig
    return Mounting(parents)


@dataclass(frozen=True)
class Trajectories:
    """Poses ``T_device_world`` (4, 4) by timestamp and device."""

    poses: Mapping[tuple[int, str], Array]

    def at(self, time: int, above: Mapping[str, Array]) -> Array | None:
        """``T_device_world`` of the device that all this is ``above``: its own pose, or from the nearest rig's."""
        for holder, T_device_holder in above.items():
            T_holder_world = self.poses.get((time, holder))
            if T_holder_world is not None:
                out: Array = T_device_holder @ T_holder_world
                return out
        return None


def read_trajectories(path: Path, problems: Problems) -> Trajectories:
    """``trajectories.txt``: ``timestamp, device, qw, qx, qy, qz, tx, ty, tz``, world to device, in any order.

    Poses with an empty rotation or translation, which kapture allows, are counted and left out.
    """
    poses: dict[tuple[int, str], Array] = {}
    for row in read_rows(path, problems, 9, separator=","):
        time = timestamp(row, problems)
        if time is None:
            continue
        if "" in row.fields[2:]:
            problems.skip("pose that is incomplete", f"{row.where}: a pose without rotation or translation")
            continue
        T = _pose(row, problems)
        if T is None:
            continue
        if (time, row.fields[1]) in poses:
            problems.fault(
                "repeated stamp",
                f"{row.where}: expected one pose of {row.fields[1]} at {time}, found a second; remove one, or "
                "--keep-going to keep the first",
            )
            continue
        poses[time, row.fields[1]] = T
    return Trajectories(poses)


def _pose(row: Row, problems: Problems) -> Array | None:
    values = row.numbers(problems, 2)
    if values is None:
        return None
    return transform_from_quaternion(values[4:7], values[[1, 2, 3, 0]], row.where, problems)


def read_gnss(
    path: Path,
    systems: Mapping[str, str],
    stamp_of: Callable[[int, Row], int | None],
    problems: Problems,
) -> GnssTrack | None:
    """``timestamp, device, longitude, latitude, altitude, utc, dop``; None without the file, or without a WGS-84 row.

    Receivers of other coordinate systems are counted and left out; of several receivers the first one is taken.

    :param systems: the coordinate system by receiver, ``EPSG:4326`` where sensors.txt says nothing.
    :param stamp_of: nanoseconds of a timestamp, on the images' clock; None is a fault that has been told.
    :raises DatasetError: a malformed row (with file and line).
    """
    if not path.is_file():
        return None
    chosen: str | None = None
    found: dict[int, Array] = {}
    for row in read_rows(path, problems, 7, separator=","):
        device = row.fields[1]
        if device not in systems:
            problems.fault(
                "record of no receiver", f"{row.where}: expected a gnss {device!r} in sensors.txt, found none"
            )
            continue
        if systems[device] != WGS84:
            problems.skip("position of another system", f"{row.where}: {device} speaks {systems[device]}, not {WGS84}")
            continue
        chosen = chosen or device
        if device != chosen:
            problems.skip("position of another receiver", f"{row.where}: {chosen} was before {device}")
            continue
        time, values = timestamp(row, problems), row.numbers(problems, 2, 5)
        if time is None or values is None:
            continue
        if abs(values[0]) > 180.0 or abs(values[1]) > 90.0:
            problems.fault(
                "position that is none",
                f"{row.where}: expected longitude, latitude in degrees, found {values[0]:g}, {values[1]:g}; x is the "
                "longitude",
            )
            continue
        stamp = stamp_of(time, row)
        if stamp is None:
            continue
        if stamp in found:
            problems.fault("repeated stamp", f"{row.where}: expected one position a stamp, found {time} twice")
            continue
        found[stamp] = values
    if not found or chosen is None:
        return None
    stamps = np.array(sorted(found), dtype=np.int64)
    table = np.stack([found[int(s)] for s in stamps])
    return GnssTrack(stamps, table[:, 1], table[:, 0], table[:, 2], frame_id=chosen)
