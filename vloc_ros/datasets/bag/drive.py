"""A drive in a bag: which topics matter, where the camera sits, what the truth was; and its images, streamed.

The first pass reads everything small (TF, camera_info, poses, odometry) into memory; images are streamed in a
second pass and never held.
"""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.camera_file import is_camera_file, read_camera_file
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.transform_tree import TransformTree
from vloc_ros.datasets.bag.truth import (
    COURSE,
    DATUM_TOPIC,
    HEADING_TYPES,
    TRUTH_TYPES,
    ClockGap,
    FixTrack,
    candidates,
    check_quaternion,
    mounting_of,
    read_datum,
)
from vloc_ros.errors import BagError, CameraError, ImageError, VlocError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.images.decode import CompressedImage, RawImage, decode
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["BagDrive", "BagFrame", "BagImages", "BagOptions"]


# The images of a bag's drive, by number or in one pass, decoded when they are asked for.


class BagImages:
    """Images of a bag by frame number. Each process opens the bag for itself: file positions are not shared."""

    def __init__(
        self, path: Path, topic: str, stamps: list[int], times: list[int], size: tuple[int, int] | None = None
    ) -> None:
        self._path, self._topic, self._stamps, self._times, self._size = path, topic, stamps, times, size
        self._reader: BagReader | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None, "_owner": 0}

    def _open(self) -> BagReader:
        if self._reader is None or self._owner != os.getpid():
            self._reader, self._owner = BagReader(self._path), os.getpid()
        return self._reader

    def image(self, index: int) -> RgbImage:
        time = self._times[index]
        for item in self._open().messages([self._topic], time, time + 1):
            if msgs.stamp_ns(item.message) == self._stamps[index]:
                return self._decoded(item.message, index)
        raise self._vanished(index)

    def encoded(self, index: int) -> tuple[bytes, str] | None:
        """The recorded file and its format; None where pixels were recorded."""
        time = self._times[index]
        for item in self._open().messages([self._topic], time, time + 1):
            if msgs.stamp_ns(item.message) == self._stamps[index]:
                image = msgs.message_image(item.message)
                return (bytes(image.data), image.format) if isinstance(image, CompressedImage) else None
        raise self._vanished(index)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        index = 0
        for item in self._open().messages([self._topic], min(self._times, default=0)):
            if index < len(self._stamps) and msgs.stamp_ns(item.message) == self._stamps[index]:
                yield index, self._decoded(item.message, index)
                index += 1

    def select(self, indices: Sequence[int]) -> BagImages:
        """Some of the images; :meth:`frames` then decodes these alone."""
        rows = [int(i) for i in indices]
        return BagImages(
            self._path, self._topic, [self._stamps[i] for i in rows], [self._times[i] for i in rows], self._size
        )

    def _vanished(self, index: int) -> BagError:
        return BagError(f"{self._path}: frame {index} (stamp {self._stamps[index]} ns) has vanished from {self._topic}")

    def _decoded(self, message: object, index: int) -> RgbImage:
        where = f"{self._path}: {self._topic}: image {index} (stamp {self._stamps[index]} ns)"
        try:
            image = decode(msgs.message_image(message))
        except ImageError as problem:
            raise BagError(f"{where}: {problem}") from problem
        if self._size is not None and image.shape[1::-1] != self._size:
            raise BagError(
                f"{where}: expected {self._size[0]}x{self._size[1]} as camera_info says, found "
                f"{image.shape[1]}x{image.shape[0]}; --keep-going leaves such images out"
            )
        return image


_log = logging.getLogger(__name__)

NO_TRUTH = "none"


@dataclass(frozen=True)
class BagOptions:
    """Which topics and frames to use; None picks the usual name, or the only topic of a fitting type.

    ``image_is_rectified`` None means: when the topic's name says so (``image_rect``).

    :param camera_info: a topic, or a YAML file of camera_calibration for a bag without one.
    :param truth: a topic of poses of the base in the map (PoseStamped, PoseWithCovarianceStamped, TransformStamped,
        Odometry), or of NavSatFix; ``/tf:map.base_link`` for a transform; or ``none``.
    :param max_gap_s: poses further apart are not interpolated between.
    :param time_offset_s: added to the stamps of the poses, which makes them the images' clock.
    :param extrinsics: the camera in the base, instead of ``/tf_static`` (:func:`pose_topics.mounting_of`).
    :param heading: with NavSatFix: a topic with an orientation (Imu, QuaternionStamped, poses), or ``course`` for the
        course of motion.
    :param heading_min_speed: m/s below which there is no course of motion.
    :param antenna: x, y, z (m) of the receiver's antenna in the base, where ``/tf_static`` does not know it.
    :param datum: latitude, longitude (degrees) and altitude (m) of the map's origin; None: that on
        ``/map/datum``, else the first fix.
    """

    image: str | None = None
    camera_info: str | None = None
    truth: str | None = None
    odometry: str | None = None
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    image_is_rectified: bool | None = None
    max_gap_s: float = 0.5
    time_offset_s: float = 0.0
    extrinsics: tuple[float, ...] | None = None
    heading: str | None = None
    heading_min_speed: float = 1.0
    antenna: tuple[float, float, float] | None = None
    datum: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class BagFrame:
    """One recorded image, undecoded, with its intrinsics; ``camera`` is None when ``problem`` says why."""

    stamp_ns: int
    time_ns: int
    image: RawImage | CompressedImage
    camera: CameraModel | None
    problem: str = ""


@dataclass
class _CameraInfos:
    """The camera models of the drive by stamp; most drives repeat one."""

    stamps: list[int] = field(default_factory=list)
    models: list[CameraModel | str] = field(default_factory=list)

    def at(self, stamp_ns: int) -> CameraModel | str:
        """The model in force at a stamp: the last one not after it, or the first; a string says what is wrong."""
        if not self.stamps:
            return "no camera_info"
        return self.models[max(bisect.bisect_right(self.stamps, stamp_ns) - 1, 0)]


class BagDrive:
    """An opened drive; a context manager.

    ``frame_id`` is the frame of the truth (``map`` without one), ``T_base_cam`` the camera's mounting.

    :raises BagError: no bag, no image topic, several to choose from, or no transform to the camera.
    """

    def __init__(self, path: str | Path, options: BagOptions | None = None) -> None:
        self.options = options or BagOptions()
        self.reader = BagReader(path)
        try:
            self._choose_topics()
            self._read_small_messages()
        except BaseException:
            self.reader.close()
            raise

    def _choose_topics(self) -> None:
        reader, options = self.reader, self.options
        self.image_topic = _choose(
            reader,
            options.image,
            ("Image", "CompressedImage"),
            ("/camera/image", "/camera/image/compressed"),
            "--image",
        )
        if self.image_topic is None:
            raise BagError(f"{reader.path}: the bag holds no images; its topics: {', '.join(sorted(reader.topics))}")
        self.rectified = options.image_is_rectified
        if self.rectified is None:
            self.rectified = "image_rect" in self.image_topic
        folder = self.image_topic.removesuffix("/compressed").rsplit("/", 1)[0]
        self.info_topic: str | None = None
        if not is_camera_file(options.camera_info):
            self.info_topic = _choose(
                reader, options.camera_info, ("CameraInfo",), (f"{folder}/camera_info",), "--camera-info"
            )
        self.truth_topic: str | None = None
        self._truth_edge: tuple[str, str] | None = None
        if options.truth and options.truth.startswith("/tf:"):
            parent, _, child = options.truth[4:].partition(".")
            if not parent or not child:
                raise BagError(f"--truth {options.truth}: expected /tf:PARENT.CHILD, for example /tf:map.base_link")
            self._truth_edge = parent, child
        elif options.truth != NO_TRUTH:
            # Odometry drifts: it is taken for truth only when asked for by name.
            kinds = TRUTH_TYPES if options.truth else TRUTH_TYPES[:2]
            named = options.truth
            if named is not None and (named not in reader.of_type(*kinds) or named == DATUM_TOPIC):
                kind = reader.topics.get(named)
                found = f"messages of type {kind} there" if kind else "no such topic"
                found = "the origin of the map" if named == DATUM_TOPIC and kind else found
                raise BagError(
                    f"{reader.path}: expected poses on {named}, found {found}; poses are on: {candidates(reader)}"
                )
            self.truth_topic = _choose(reader, options.truth, kinds, ("/reference/pose",), "--truth")
        self._choose_heading()
        self.odometry_topic = _choose(reader, options.odometry, ("Odometry",), ("/odometry", "/odom"), None)
        if self.odometry_topic == self.truth_topic:
            self.odometry_topic = None

    def _choose_heading(self) -> None:
        """What to do with satellite fixes, where they are the truth."""
        options = self.options
        self.fixes: FixTrack | None = None
        self.heading_topic: str | None = None
        if self.truth_topic is None or not self.reader.topics[self.truth_topic].endswith("/NavSatFix"):
            return
        datum = read_datum(self.reader) if options.datum is None else Datum(*options.datum)
        self.fixes = FixTrack(datum, options.heading_min_speed, options.max_gap_s)
        if options.heading not in (None, COURSE):
            self.heading_topic = _choose(self.reader, options.heading, HEADING_TYPES, (), "--heading")

    def _read_small_messages(self) -> None:
        reader, options = self.reader, self.options
        offset_ns = round(options.time_offset_s * 1e9)
        self.clocks = ClockGap()
        self.tree = TransformTree(int(options.max_gap_s * 1e9))
        self.infos = _CameraInfos()
        self.truth_covariances: dict[int, Array] = {}
        self.skipped: list[str] = []
        self.frame_id = "map"
        self._truth_child = options.base_frame
        self._odom_edge: tuple[str, str] | None = None
        self._odom_child = options.base_frame
        infos: dict[int, CameraModel | str] = {}
        # Pose topics get edges of their own: a bag may hold the same transform on /tf, computed differently.
        topics = (self.info_topic, self.truth_topic, self.odometry_topic, self.heading_topic)
        wanted = {t for t in ("/tf", "/tf_static", *topics) if t}
        self.camera_frame = ""
        for item in reader.messages(wanted & set(reader.topics)):
            message = item.message
            try:
                if item.topic == self.info_topic:
                    self.camera_frame = self.camera_frame or msgs.frame_id(message)
                    try:
                        infos[msgs.stamp_ns(message)] = msgs.camera_model(message, bool(self.rectified))
                    except CameraError as error:
                        infos[msgs.stamp_ns(message)] = str(error)
                elif item.topic in ("/tf", "/tf_static"):
                    self._add_transforms(message, item.topic == "/tf_static")
                elif item.topic == self.truth_topic and self.fixes is not None:
                    stamp = msgs.stamp_ns(message) + offset_ns
                    self.clocks.add(item.topic, stamp, item.time_ns)
                    self.fixes.add_fix(message, stamp)
                elif item.topic == self.heading_topic and self.fixes is not None:
                    self.fixes.add_heading(message, msgs.stamp_ns(message) + offset_ns)
                elif item.topic == self.truth_topic:
                    self.frame_id = msgs.frame_id(message) or "map"
                    self._truth_child = _child(message) or options.base_frame
                    stamp = msgs.stamp_ns(message) + offset_ns
                    self.clocks.add(item.topic, stamp, item.time_ns)
                    check_quaternion(message)
                    self.tree.add("truth parent", "truth child", stamp, msgs.transform(message))
                    covariance = msgs.pose_covariance(message)
                    if covariance is not None:
                        self.truth_covariances[stamp] = covariance
                    self._truth_edge = "truth parent", "truth child"
                else:
                    self._odom_child = _child(message) or options.base_frame
                    self.tree.add("odometry parent", "odometry child", msgs.stamp_ns(message), msgs.transform(message))
                    self._odom_edge = "odometry parent", "odometry child"
            except VlocError as error:
                self.skipped.append(f"{item.topic} at {item.time_ns} ns: {error}")
        if options.camera_info is not None and is_camera_file(options.camera_info):
            infos = {0: read_camera_file(options.camera_info, bool(self.rectified))}
        for stamp in sorted(infos):
            self.infos.stamps.append(stamp)
            self.infos.models.append(infos[stamp])
        if self._truth_edge and self.truth_topic is None:
            self.tree.path(*self._truth_edge)  # raises where TF does not connect them
            self.frame_id, self._truth_child = self._truth_edge
        if not self.camera_frame:
            first = next(reader.messages([str(self.image_topic)]), None)
            if first is None:
                raise BagError(f"{reader.path}: not one image can be read: {reader.problem}")
            self.camera_frame = msgs.frame_id(first.message)
        if options.extrinsics is not None:
            self.T_base_cam = mounting_of(options.extrinsics)
        else:
            self.T_base_cam = self._mounting(options.base_frame, self.camera_frame)
        if self.fixes is not None:
            self._add_fixes(self.fixes)

    def _add_fixes(self, fixes: FixTrack) -> None:
        """Poses of the base from fixes and headings, once the mountings are known."""
        options, base = self.options, self.options.base_frame
        t, R = np.zeros(3), np.eye(3)
        if options.antenna is not None:
            t = np.asarray(options.antenna, dtype=np.float64)
        else:
            t = self._known_mounting(base, fixes.frame, "antenna", "--antenna x,y,z")[:3, 3]
        if self.heading_topic is not None and fixes.heading_frame:
            R = self._known_mounting(base, fixes.heading_frame, "sensor of the heading", "a transform in /tf_static")[
                :3, :3
            ]
        heading = options.heading or COURSE
        if options.heading is None:
            _log.warning(
                "%s: no --heading: the course of motion is taken, as of a vehicle that drives forwards",
                self.truth_topic,
            )
        for stamp, T in fixes.poses(str(self.truth_topic), heading, t, R):
            self.tree.add("truth parent", "truth child", stamp, T)
        self._truth_edge = "truth parent", "truth child"
        self._truth_child = base

    def _known_mounting(self, base: str, frame: str, what: str, remedy: str) -> Array:
        """``T_base_frame``, or the identity with a warning: many bags do not say where the antenna is."""
        if frame in ("", base):
            return np.eye(4)
        try:
            return self.tree.static(base, frame)
        except BagError:
            _log.warning("no transform from %r to %r: the %s counts as at the base (%s)", frame, base, what, remedy)
            return np.eye(4)

    @property
    def datum(self) -> Datum | None:
        """Where the map frame lies on the Earth, where the bag says so or the truth is a satellite receiver's."""
        return read_datum(self.reader) if self.fixes is None else self.fixes.datum

    def _add_transforms(self, message: object, static: bool) -> None:
        for item in message.transforms:  # type: ignore[attr-defined]
            parent, child = msgs.frame_id(item), str(item.child_frame_id).lstrip("/")
            if static:
                self.tree.add_static(parent, child, msgs.transform(item))
            else:
                self.tree.add(parent, child, msgs.stamp_ns(item), msgs.transform(item))

    def _mounting(self, base: str, camera: str) -> Array:
        if base == camera:
            return np.eye(4)
        try:
            return self.tree.static(base, camera)
        except BagError as error:
            raise BagError(
                f"{self.reader.path}: {error}; record /tf_static, or name the camera itself: --base-frame {camera}"
            ) from error

    @property
    def has_truth(self) -> bool:
        """Whether the bag says where the base really was."""
        return self._truth_edge is not None

    @property
    def truth_name(self) -> str:
        """The topic or transform that the truth comes from; empty without one."""
        return self.truth_topic or (f"/tf:{'.'.join(self._truth_edge)}" if self._truth_edge else "")

    @property
    def has_odometry(self) -> bool:
        """Whether the bag holds odometry, on a topic or as a moving transform."""
        if self._odom_edge is not None:
            return True
        try:
            return not self.tree.is_static(self.options.odom_frame, self.options.base_frame)
        except BagError:
            return False

    def T_map_base(self, stamp_ns: int) -> Array | None:
        """The true pose of the base at a stamp, interpolated; None where the truth does not reach."""
        if self._truth_edge is None:
            return None
        T = self.tree.at(*self._truth_edge, stamp_ns)
        if T is None or self._truth_child == self.options.base_frame:
            return T
        out: Array = T @ self.tree.static(self._truth_child, self.options.base_frame)
        return out

    def truth_covariance(self, stamp_ns: int) -> Array | None:
        """The covariance that the truth's publisher states at exactly this stamp, if any."""
        return self.truth_covariances.get(stamp_ns)

    def T_odom_base(self, stamp_ns: int) -> Array | None:
        """Odometry at a stamp, from the odometry topic or else from TF; None where it does not reach."""
        options = self.options
        if not self.has_odometry:
            return None
        if self._odom_edge is None:
            return self.tree.at(options.odom_frame, options.base_frame, stamp_ns)
        T = self.tree.at(*self._odom_edge, stamp_ns)
        if T is None or self._odom_child == options.base_frame:
            return T
        out: Array = T @ self.tree.static(self._odom_child, options.base_frame)
        return out

    @property
    def frame_count(self) -> int:
        """Images in the bag."""
        return self.reader.counts.get(str(self.image_topic), 0)

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[BagFrame]:
        """The recorded images in order, ``start <= record time < stop``."""
        for item in self.reader.messages([str(self.image_topic)], start, stop):
            stamp = msgs.stamp_ns(item.message)
            camera = self.infos.at(stamp)
            problem = camera if isinstance(camera, str) else ""
            model = None if isinstance(camera, str) else camera
            yield BagFrame(stamp, item.time_ns, msgs.message_image(item.message), model, problem)

    def close(self) -> None:
        """Close the bag."""
        self.reader.close()

    def __enter__(self) -> BagDrive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _child(message: object) -> str:
    return str(getattr(message, "child_frame_id", "")).lstrip("/")


def _choose(
    reader: BagReader, asked: str | None, kinds: tuple[str, ...], usual: tuple[str, ...], option: str | None
) -> str | None:
    """The topic asked for, the usual one, or the only one of its kind; None when there is none."""
    topics = reader.of_type(*kinds)
    if asked is not None:
        if asked in topics:
            return asked
        found = ", ".join(topics) or "none"
        raise BagError(
            f"{reader.path}: no messages of type {' or '.join(kinds)} on {asked}; topics of that type: {found}"
        )
    for name in usual:
        if name in topics:
            return name
    if len(topics) > 1 and option is not None:
        raise BagError(f"{reader.path}: several topics to choose from ({', '.join(topics)}); name one with {option}")
    return topics[0] if topics else None
