"""A drive in a bag: which topics matter, where the camera sits, and what the truth was; its images streamed.

The first pass reads everything small (TF, camera_info, poses, odometry) into memory; images are streamed in a
second pass and never held.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.camera_file import is_camera_file, read_camera_file
from vloc_ros.datasets.bag.reader import BagMessage, BagReader
from vloc_ros.datasets.bag.transform_tree import MovingFrame, TransformTree
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
    stated_covariance,
)
from vloc_ros.errors import BagError, CameraError, VlocError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.images.decode import CompressedImage, RawImage, image_size
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["NO_TRUTH", "BagDrive", "BagFrame", "BagOptions"]

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
    :param extrinsics: the camera in the base, instead of TF (:func:`vloc_ros.datasets.bag.truth.mounting_of`).
    :param heading: with NavSatFix: a topic with an orientation (Imu, QuaternionStamped, poses), or ``course`` for the
        course of motion.
    :param heading_min_speed: m/s below which there is no course of motion.
    :param antenna: x, y, z (m) of the receiver's antenna in the base, where ``/tf_static`` does not know it.
    :param datum: latitude, longitude (degrees) and altitude (m) of the map's origin; None: that on
        ``/map/datum``, else the first fix.
    :param origin: x, y, z (m) of the map's origin in the frame of the reference poses, for large coordinates (UTM).
    :param bit_depth: significant bits of 16-bit images.
    """

    image: str | None = None
    camera_info: str | None = None
    truth: str | None = None
    odometry: str | None = None
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    image_is_rectified: bool | None = None
    max_gap_s: float = ranged(0.5, minimum=0.0)
    time_offset_s: float = 0.0
    extrinsics: tuple[float, ...] | None = None
    heading: str | None = None
    heading_min_speed: float = ranged(1.0, minimum=0.0)
    antenna: tuple[float, float, float] | None = None
    datum: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] | None = None
    bit_depth: int = ranged(16, minimum=8, maximum=16)


@dataclass(frozen=True)
class BagFrame:
    """One recorded image, undecoded, with its intrinsics; ``camera`` is None when ``problem`` says why.

    ``T_base_cam`` is the camera's mounting as TF had it when the image was taken.
    """

    stamp_ns: int
    time_ns: int
    image: RawImage | CompressedImage
    camera: CameraModel | None
    problem: str = ""
    T_base_cam: Array = field(default_factory=lambda: np.eye(4))


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

    ``frame_id`` is the frame of the truth (``map`` without one), ``T_base_cam`` the camera's mounting at the first
    image, ``image_size`` its width and height in pixels where the message tells.

    :raises BagError: no bag, no image topic, several to choose from, or no transform to the camera.
    """

    def __init__(self, path: str | Path, options: BagOptions | None = None) -> None:
        self.options = options or BagOptions()
        self.reader = BagReader(path)
        try:
            self._choose_topics()
            self._read_small_messages()
            self._place_camera()
            if self.fixes is not None:
                self._add_fixes(self.fixes)
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
                if named in reader.unreadable:
                    found = f"messages that cannot be read ({reader.unreadable[named]})"
                found = "the origin of the map" if named == DATUM_TOPIC and kind else found
                raise BagError(
                    f"{reader.path}: expected poses on {named}, found {found}; poses are on: {candidates(reader)}"
                )
            self.truth_topic = _choose(reader, options.truth, kinds, ("/reference/pose",), "--truth")
        self._choose_heading()
        self.odometry_topic = _choose(reader, options.odometry, ("Odometry",), ("/odometry", "/odom"), None)
        if self.odometry_topic == self.truth_topic:
            self.odometry_topic = None
        self.tf_topics = _tf_topics(reader, self.image_topic)

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
        self.clocks = ClockGap()
        self.tree = TransformTree(int(options.max_gap_s * 1e9))
        # Poses on topics are apart from TF: a bag may hold the same transform there, computed differently.
        self._truth, self._odometry = MovingFrame(), MovingFrame()
        self.infos = _CameraInfos()
        self.truth_covariances: dict[int, Array] = {}
        self.skipped: list[str] = []
        self.frame_id, self.camera_frame = "map", ""
        self._truth_child = self._odom_child = options.base_frame
        self._read_first_image()
        infos: dict[int, CameraModel | str] = {}
        topics = (self.info_topic, self.truth_topic, self.odometry_topic, self.heading_topic)
        wanted = {t for t in (*self.tf_topics, *topics) if t}
        for item in reader.messages(wanted & set(reader.topics)):
            try:
                if item.topic == self.info_topic:
                    self.camera_frame = self.camera_frame or msgs.frame_id(item.message)
                    infos[msgs.stamp_ns(item.message)] = self._camera(item.message)
                elif item.topic in self.tf_topics:
                    self._add_transforms(item)
                else:
                    self._add_pose(item)
            except VlocError as error:
                self._skip(item, error)
            except _NOT_ITS_TYPE as error:
                reader.cannot_use(item, error)
        if options.camera_info is not None and is_camera_file(options.camera_info):
            infos = {0: read_camera_file(options.camera_info, bool(self.rectified))}
        for stamp in sorted(infos):
            self.infos.stamps.append(stamp)
            self.infos.models.append(infos[stamp])
        if self._truth_edge and self.truth_topic is None:
            self.tree.check_connected(*self._truth_edge)
            self.frame_id, self._truth_child = self._truth_edge

    def _read_first_image(self) -> None:
        """Its frame, which is the camera's (as live), and its size."""
        first = next(self.reader.messages([str(self.image_topic)]), None)
        if first is None:
            raise BagError(f"{self.reader.path}: not one image can be read: {self.reader.problem}")
        try:
            self._first = msgs.stamp_ns(first.message), first.time_ns
            self.camera_frame = msgs.frame_id(first.message)
            self.image_size = image_size(msgs.message_image(first.message))
        except _NOT_ITS_TYPE as error:
            raise BagError(f"{self.reader.path}: {self.image_topic}: expected images, found others: {error}") from error

    def _camera(self, message: object) -> CameraModel | str:
        try:
            return msgs.camera_model(message, bool(self.rectified), self.image_size)
        except CameraError as error:
            return str(error)

    def _add_transforms(self, item: BagMessage) -> None:
        """Every transform of a message that is one; another is told, and does not take the rest with it."""
        for transform in item.message.transforms:
            try:
                parent, child = msgs.frame_id(transform), str(transform.child_frame_id).lstrip("/")
                T = msgs.transform(transform)
            except VlocError as error:
                self._skip(item, error)
                continue
            if item.topic.endswith("tf_static"):
                self.tree.add_static(parent, child, T, item.time_ns)
            else:
                self.tree.add(parent, child, msgs.stamp_ns(transform), T)

    def _add_pose(self, item: BagMessage) -> None:
        """One message of the truth, the heading or the odometry."""
        message, stamp = item.message, msgs.stamp_ns(item.message)
        if item.topic == self.odometry_topic:
            self._odom_child = _child(message) or self.options.base_frame
            self._odometry.add(stamp, msgs.transform(message))
            return
        stamp += round(self.options.time_offset_s * 1e9)
        if item.topic == self.heading_topic and self.fixes is not None:
            self.fixes.add_heading(message, stamp)
            return
        self.clocks.add(item.topic, stamp, item.time_ns)
        if self.fixes is not None:
            self.fixes.add_fix(message, stamp)
            return
        self.frame_id = msgs.frame_id(message) or "map"
        self._truth_child = _child(message) or self.options.base_frame
        check_quaternion(message)
        self._truth.add(stamp, msgs.transform(message))
        covariance = stated_covariance(message)
        if covariance is not None:
            self.truth_covariances[stamp] = covariance

    def _skip(self, item: BagMessage, error: VlocError) -> None:
        self.skipped.append(f"{item.topic} at {item.time_ns} ns: {error}")

    def _place_camera(self) -> None:
        options, base, camera = self.options, self.options.base_frame, self.camera_frame
        self._fixed_mounting: Array | None = None
        #: Whether TF or an option says where the camera is, and it is not just taken for the base.
        self.mounting_is_known = base != camera
        if options.extrinsics is not None:
            self._fixed_mounting, self.mounting_is_known = mounting_of(options.extrinsics), True
        elif not camera:
            raise BagError(
                f"{self.reader.path}: neither the images of {self.image_topic} nor camera_info name a frame; say where "
                f"the camera is: {_EXTRINSICS}"
            )
        elif base == camera:
            self._fixed_mounting = np.eye(4)
        else:
            try:
                self.tree.check_connected(base, camera)
            except BagError as error:
                raise BagError(
                    f"{self.reader.path}: {error}; record /tf_static, or say where the camera is: {_EXTRINSICS}"
                    f"{self.tf_note}"
                ) from error
        self.T_base_cam = self.mounting(*self._first)

    def mounting(self, stamp_ns: int, time_ns: int) -> Array:
        """``T_base_cam`` for an image: as TF knew it when the image was recorded, the latest there was.

        :raises BagError: at that moment nothing connects the two.
        """
        if self._fixed_mounting is not None:
            return self._fixed_mounting
        T = self.tree.at(self.options.base_frame, self.camera_frame, stamp_ns, time_ns, latest=True)
        if T is None:
            raise BagError(
                f"{self.reader.path}: no transform from {self.camera_frame!r} to {self.options.base_frame!r} at "
                f"{stamp_ns} ns: their frames hang on different trees then; say where the camera is: {_EXTRINSICS}"
            )
        return T

    @property
    def tf_note(self) -> str:
        """What to know about TF in namespaces; empty where it is where TF belongs."""
        there = [t for t in self.reader.topics if t.endswith(("/tf", "/tf_static")) and t not in self.tf_topics]
        return (
            f"; TF on {', '.join(sorted(there))} belongs to another namespace than {self.image_topic}" if there else ""
        )

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
            self._truth.add(stamp, T)
        self._truth_child = base

    def _known_mounting(self, base: str, frame: str, what: str, remedy: str) -> Array:
        """``T_base_frame``, or the identity with a warning: many bags do not say where the antenna is."""
        if frame in ("", base):
            return np.eye(4)
        try:
            T = self.tree.at(base, frame, *self._first, latest=True)
        except BagError:
            T = None
        if T is None:
            _log.warning("no transform from %r to %r: the %s counts as at the base (%s)", frame, base, what, remedy)
            return np.eye(4)
        return T

    @property
    def datum(self) -> Datum | None:
        """Where the map frame lies on the Earth, where the bag says so or the truth is a satellite receiver's."""
        return read_datum(self.reader) if self.fixes is None else self.fixes.datum

    @property
    def has_truth(self) -> bool:
        """Whether the bag says where the base really was."""
        return self._truth_edge is not None or len(self._truth) > 0

    @property
    def truth_name(self) -> str:
        """The topic or transform that the truth comes from; empty without one."""
        return self.truth_topic or (f"/tf:{'.'.join(self._truth_edge)}" if self._truth_edge else "")

    @property
    def has_odometry(self) -> bool:
        """Whether the bag holds odometry, on a topic or as a moving transform."""
        if len(self._odometry):
            return True
        try:
            return not self.tree.is_static(self.options.odom_frame, self.options.base_frame)
        except BagError:
            return False

    def T_map_base(self, stamp_ns: int) -> Array | None:
        """The true pose of the base at a stamp, interpolated; None where the truth does not reach."""
        if self._truth_edge is not None:
            T = self.tree.at(*self._truth_edge, stamp_ns)
        else:
            T = self._sample(self._truth, stamp_ns)
        T = self._of_base(T, self._truth_child, stamp_ns)
        if T is not None and self.options.origin is not None:
            T = T.copy()
            T[:3, 3] -= self.options.origin
        return T

    def T_odom_base(self, stamp_ns: int) -> Array | None:
        """Odometry at a stamp, from the odometry topic or else from TF; None where it does not reach."""
        if not self.has_odometry:
            return None
        if not len(self._odometry):
            return self.tree.at(self.options.odom_frame, self.options.base_frame, stamp_ns)
        return self._of_base(self._sample(self._odometry, stamp_ns), self._odom_child, stamp_ns)

    def _sample(self, poses: MovingFrame, stamp_ns: int) -> Array | None:
        found = poses.at(stamp_ns, round(self.options.max_gap_s * 1e9))
        return None if found is None else found[1]

    def _of_base(self, T: Array | None, child: str, stamp_ns: int) -> Array | None:
        """The base's pose from that of another frame of the vehicle."""
        base = self.options.base_frame
        if T is None or child == base:
            return T
        step = self.tree.at(child, base, stamp_ns, latest=True)
        return None if step is None else np.asarray(T @ step)

    def truth_covariance(self, stamp_ns: int) -> Array | None:
        """The covariance that the truth's publisher states at exactly this stamp, if any."""
        return self.truth_covariances.get(stamp_ns)

    def missing_truth(self) -> str:
        """Why the images that :meth:`frames` gave have no true pose: one sentence, with what would help."""
        return self.clocks.in_words(
            str(self.image_topic), self.truth_name, self.options.time_offset_s, self.options.max_gap_s
        )

    @property
    def frame_count(self) -> int:
        """Images in the bag."""
        return self.reader.counts.get(str(self.image_topic), 0)

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[BagFrame]:
        """The recorded images in order, ``start <= record time < stop``."""
        for item in self.reader.messages([str(self.image_topic)], start, stop):
            try:
                stamp, image = msgs.stamp_ns(item.message), msgs.message_image(item.message)
            except _NOT_ITS_TYPE as error:
                self.reader.cannot_use(item, error)
                continue
            self.clocks.add(str(self.image_topic), stamp, item.time_ns)
            camera = self.infos.at(stamp)
            problem = camera if isinstance(camera, str) else ""
            model = None if isinstance(camera, str) else camera
            T_base_cam = self.mounting(stamp, item.time_ns)
            yield BagFrame(stamp, item.time_ns, image, model, problem, T_base_cam)

    def close(self) -> None:
        """Close the bag."""
        self.reader.close()

    def __enter__(self) -> BagDrive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: What accessors raise for a message whose fields are not those of its type's name.
_NOT_ITS_TYPE = (AttributeError, TypeError, ValueError, OverflowError)
_EXTRINSICS = "--extrinsics x,y,z,roll,pitch,yaw (of a camera that looks ahead, on the base: 0,0,0,0,0,0)"


def _child(message: object) -> str:
    return str(getattr(message, "child_frame_id", "")).lstrip("/")


def _tf_topics(reader: BagReader, image_topic: str) -> tuple[str, ...]:
    """The topics of TF: the usual ones, and those of the namespace that the images are in, or of the only namespace."""
    there = [t for t in reader.of_type("TFMessage", "tfMessage") if t.rsplit("/", 1)[-1] in ("tf", "tf_static")]
    spaces = {topic.rsplit("/", 1)[0] for topic in there}
    mine = {space for space in spaces if not space or image_topic.startswith(f"{space}/")}
    if not mine and len(spaces) == 1:
        mine = spaces
    return tuple(topic for topic in there if topic.rsplit("/", 1)[0] in mine)


def _choose(
    reader: BagReader, asked: str | None, kinds: tuple[str, ...], usual: tuple[str, ...], option: str | None
) -> str | None:
    """The topic asked for, the usual one, or the only one of its kind; None when there is none."""
    topics = reader.of_type(*kinds)
    if asked is not None:
        if asked in topics:
            return asked
        if asked in reader.unreadable:
            raise BagError(f"{reader.path}: the messages on {asked} cannot be read: {reader.unreadable[asked]}")
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
