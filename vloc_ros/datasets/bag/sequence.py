"""The posed frames of a bag as a sequence, its images read from the bag, and what is left out of it.

Bags are one of the layouts of :mod:`vloc_ros.datasets.formats`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.drive import BagDrive, BagOptions
from vloc_ros.datasets.bag.metadata import FILE_NAME
from vloc_ros.datasets.bag.reader import SUFFIXES, BagReader
from vloc_ros.datasets.bag.truth import candidates, read_places, read_world
from vloc_ros.datasets.posed_images import FARTHEST_M
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import BagError, ImageError
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.images.decode import CompressedImage, RawImage, decode, unused_bits
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["BagImages", "Options", "matches", "open_bag_sequence", "open_drives"]

_log = logging.getLogger(__name__)

#: Clocks further apart than this are told of: images wait for exposure and transport, but not as long.
_CLOCK_WARNING_S = 1.0
#: A mounting that moves less than this is one: publishers round, and joints have play.
_STILL_M, _STILL_RAD = 1e-3, np.radians(0.05)
#: Shorter drives say nothing about where the camera looks.
_VIEW_WAY_M = 5.0

Options = BagOptions


def matches(path: Path) -> bool:
    """Whether a path looks like a bag: a rosbag2 folder (finished or not), or an .mcap, .db3 or .bag file."""
    if path.is_dir():
        return (path / FILE_NAME).is_file() or any(_is_storage(p) for p in path.iterdir())
    return _is_storage(path)


def _is_storage(path: Path) -> bool:
    """Compressed as a whole, too: the reader says what to do about it."""
    return path.suffix in SUFFIXES or (path.suffix == ".zstd" and Path(path.stem).suffix in SUFFIXES)


def open_drives(path: Path, options: BagOptions, problems: Problems) -> list[PosedSequence]:
    """The one drive of a bag; an unfinished bag is a fault."""
    return [open_bag_sequence(path, options, allow_partial=problems.keep_going, report=problems)]


def open_bag_sequence(
    path: str | Path,
    options: BagOptions | None = None,
    allow_partial: bool = False,
    report: Problems | None = None,
) -> PosedSequence:
    """The posed frames of a bag: those with a reference pose and intrinsics, once per stamp.

    :param report: told of what is left out; a pose that is none is a fault.
    :raises BagError: see :class:`BagDrive`; also no truth, no camera_info, cameras that differ, not one posed
        frame, coordinates too large for a map, a camera that cannot be mounted so, or a bag that is unfinished or
        damaged (unless ``allow_partial``).
    :raises DatasetError: a pose that is none.
    """
    report = report or Problems()
    with BagDrive(path, options) as drive:
        if not drive.has_truth:
            lost = f" ({drive.skipped[0]})" if drive.truth_topic and drive.skipped else ""
            raise BagError(
                f"{path}: the bag has images but no truth{lost}; expected poses on /reference/pose, or name them with "
                f"--truth (--pose-topic); poses are on: {candidates(drive.reader)}"
            )
        source = drive.heading_topic, drive.truth_topic
        for text in drive.skipped:
            if text.partition(" at ")[0] in source:
                report.fault("pose that is none", f"{path}: {text}; --keep-going leaves such poses out")
        for kind, count in (drive.fixes.counts if drive.fixes else {}).items():
            report.skip(kind, f"{path}: {drive.truth_topic}: {count} x {kind}", count)
        stamps: list[int] = []
        times: list[int] = []
        poses: list[Array] = []
        mountings: list[Array] = []
        odometry: list[Array | None] = []
        cameras: set[CameraModel] = set()
        left: dict[str, int] = {}
        for frame in drive.frames():
            T_map_base = drive.T_map_base(frame.stamp_ns)
            if frame.stamp_ns <= 0 or (stamps and frame.stamp_ns <= stamps[-1]):
                why = "image with a stamp that is zero, repeated or late"
            elif frame.camera is None:
                why = frame.problem
            elif T_map_base is None:
                why = "image without a pose"
            else:
                stamps.append(frame.stamp_ns)
                times.append(frame.time_ns)
                poses.append(T_map_base @ frame.T_base_cam)
                mountings.append(frame.T_base_cam)
                odometry.append(drive.T_odom_base(frame.stamp_ns))
                cameras.add(frame.camera)
                continue
            left[why] = left.get(why, 0) + 1
        if not allow_partial:
            drive.reader.require_complete()
        elif drive.reader.problem:
            report.skip("part of a damaged bag", f"{path}: {drive.reader.problem}")
        if not stamps:
            raise BagError(f"{path}: not one of {drive.frame_count} images can be used: {_why_none(drive, left)}")
        if len(cameras) > 1:
            raise BagError(f"{path}: the intrinsics change during the drive ({len(cameras)} different camera_info)")
        for kind, count in left.items():
            report.skip(kind, f"{path}: {count} of {drive.frame_count} images: {kind}", count)
        offset = drive.clocks.offset_s(str(drive.image_topic), str(drive.truth_topic))
        if offset is not None and abs(offset) > _CLOCK_WARNING_S:
            _log.warning(
                "%s: by the times of recording, the clocks of %s and %s are %.3f s apart; is --time-offset %.3f right?",
                path, drive.image_topic, drive.truth_topic, offset, drive.options.time_offset_s + offset,
            )  # fmt: skip
        T_map_cam = np.stack(poses)
        _check_place(path, T_map_cam, drive)
        _check_mounting(path, np.stack(mountings))
        _check_view(path, T_map_cam, drive)
        # Fixes that the poses are made of have the poses' clock.
        receiver = drive.truth_topic if drive.fixes is not None else None
        _, gnss = read_places(drive.reader, receiver, round(drive.options.time_offset_s * 1e9))
        rig = drive.tree.mountings(drive.options.base_frame)
        rig.pop(drive.camera_frame, None)
        unknown = np.full((4, 4), np.nan)
        T_odom_base = None
        if any(T is not None for T in odometry):
            T_odom_base = np.stack([unknown if T is None else T for T in odometry])
        camera = cameras.pop()
        world = read_world(path)
        if drive.options.origin is not None:
            world["origin_m"] = tuple(np.add(world.get("origin_m", np.zeros(3)), drive.options.origin).tolist())
        return PosedSequence(
            Path(path).name,
            np.array(stamps, dtype=np.int64),
            T_map_cam,
            mountings[0],
            camera,
            BagImages(Path(path), str(drive.image_topic), stamps, times, camera.size, drive.options.bit_depth),
            T_odom_base,
            drive.frame_id,
            drive.datum,
            gnss,
            rig,
            dict(report.counts),
            **world,
        )


def _why_none(drive: BagDrive, left: dict[str, int]) -> str:
    """The one reason, or the commonest, why no image can be used."""
    why = max(left, key=lambda kind: left[kind], default="none could be read")
    if why == "no camera_info":
        return f"{why}; --camera-info FILE takes a YAML file of camera_calibration"
    unstamped = why.startswith("image with a stamp") and not drive.clocks.has(drive.image_topic)
    if unstamped or why == "image without a pose":
        return drive.missing_truth()
    return why


def _check_place(path: str | Path, T_map_cam: Array, drive: BagDrive) -> None:
    """:raises BagError: coordinates that no float32 map can hold."""
    far = np.abs(T_map_cam[:, :3, 3]).max()
    if far > FARTHEST_M:
        place = ",".join(str(round(float(v))) for v in T_map_cam[0, :3, 3] + (drive.options.origin or np.zeros(3)))
        raise BagError(
            f"{path}: expected poses within {FARTHEST_M:g} m of the map's origin, found {far:.6g} m on "
            f"{drive.truth_name} (UTM?); name the place that is to be the map's origin: "
            f"--origin {place}, or origin=[{place}] in a source"
        )


def _check_mounting(path: str | Path, T_base_cam: Array) -> None:
    """Say so where the camera moves on the vehicle: each image has its own mounting, the drive the first one."""
    away = np.linalg.norm(T_base_cam[:, :3, 3] - T_base_cam[0, :3, 3], axis=1).max()
    turned = rotation_angle(T_base_cam[:, :3, :3], T_base_cam[0, :3, :3]).max()
    if away > _STILL_M or turned > _STILL_RAD:
        _log.warning(
            "%s: the camera's mounting changes during the drive, by up to %.3f m and %.2f deg; the camera's poses "
            "follow it, base_link is by the first one",
            path, away, np.degrees(turned),
        )  # fmt: skip


def _check_view(path: str | Path, T_map_cam: Array, drive: BagDrive) -> None:
    """A camera that looks at the sky while the vehicle drives below it is mounted otherwise than TF or options say.

    :raises BagError: it does, and nothing says where the camera is. Where something says so, it is a warning.
    """
    place = T_map_cam[:, :3, 3]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1))])
    rows = np.unique(np.searchsorted(way, np.arange(0.0, way[-1], 0.5)))
    if way[-1] < _VIEW_WAY_M or len(rows) < 3:
        return
    motion = np.diff(place[rows], axis=0)
    motion /= np.maximum(np.linalg.norm(motion, axis=1, keepdims=True), 1e-9)
    ahead, down = T_map_cam[rows[:-1], :3, 2], T_map_cam[rows[:-1], :3, 1]
    along = float(np.median(np.abs((ahead * motion).sum(axis=1))))
    up, upright = float(np.median(ahead[:, 2])), float(np.median(-down[:, 2]))
    level = float(np.median(np.abs(motion[:, 2]))) < 0.5
    if not level or along > 0.5 or not (up > 0.7 or (abs(up) < 0.5 and upright < 0.3)):
        return
    found = f"looks {np.degrees(np.arcsin(min(up, 1.0))):.0f} deg up" if up > 0.7 else "lies on its side"
    text = (
        f"{path}: by the poses the camera {found} while the vehicle drives level; "
        "optical frames are x right, y down, z forward"
    )
    if not drive.mounting_is_known:
        raise BagError(
            f"{text}: are the poses those of {drive.options.base_frame}'s body? Then say how the camera sits on it: "
            "--extrinsics x,y,z,roll,pitch,yaw"
        )
    _log.warning("%s: is its mounting (TF, --extrinsics) right?", text)


class BagImages:
    """Images of a bag by frame number, decoded when they are asked for.

    Each process opens the bag for itself: file positions are not shared.
    """

    def __init__(
        self,
        path: Path,
        topic: str,
        stamps: list[int],
        times: list[int],
        size: tuple[int, int] | None = None,
        bit_depth: int = 16,
    ) -> None:
        self._path, self._topic, self._stamps, self._times = path, topic, stamps, times
        self._size, self._bit_depth = size, bit_depth
        self._reader: BagReader | None = None
        self._owner = 0
        self._looked_at_bits = False

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None, "_owner": 0}

    def _open(self) -> BagReader:
        if self._reader is None or self._owner != os.getpid():
            self._reader, self._owner = BagReader(self._path), os.getpid()
        return self._reader

    def _recorded(self, index: int) -> RawImage | CompressedImage:
        time = self._times[index]
        for item in self._open().messages([self._topic], time, time + 1):
            if msgs.stamp_ns(item.message) == self._stamps[index]:
                return msgs.message_image(item.message)
        raise BagError(f"{self._path}: frame {index} (stamp {self._stamps[index]} ns) has vanished from {self._topic}")

    def image(self, index: int) -> RgbImage:
        return self._decoded(self._recorded(index), index)

    def encoded(self, index: int) -> tuple[bytes, str] | None:
        """The recorded file and its format; None where pixels were recorded."""
        image = self._recorded(index)
        return (bytes(image.data), image.format) if isinstance(image, CompressedImage) else None

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        index = 0
        for item in self._open().messages([self._topic], min(self._times, default=0)):
            if index < len(self._stamps) and msgs.stamp_ns(item.message) == self._stamps[index]:
                yield index, self._decoded(msgs.message_image(item.message), index)
                index += 1

    def select(self, indices: Sequence[int]) -> BagImages:
        """Some of the images; :meth:`frames` then decodes these alone."""
        rows = [int(i) for i in indices]
        stamps, times = [self._stamps[i] for i in rows], [self._times[i] for i in rows]
        return BagImages(self._path, self._topic, stamps, times, self._size, self._bit_depth)

    def _decoded(self, image: RawImage | CompressedImage, index: int) -> RgbImage:
        where = f"{self._path}: {self._topic}: image {index} (stamp {self._stamps[index]} ns)"
        if not self._looked_at_bits:
            self._looked_at_bits = True
            unused = unused_bits(image, self._bit_depth)
            if unused:
                _log.warning(
                    "%s: the top %d of %d bits are never set, which makes a dark picture: bit_depth=%d",
                    where, unused, self._bit_depth, self._bit_depth - unused,
                )  # fmt: skip
        try:
            return decode(image, self._bit_depth, self._size)
        except ImageError as problem:
            raise BagError(f"{where}: {problem}; --keep-going leaves such images out") from problem
