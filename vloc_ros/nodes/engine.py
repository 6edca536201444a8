"""What happens to a frame in the worker's thread: look up TF, run the pipeline, publish what it allows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from vloc_ros.errors import ConfigError, DeviceError, GeometryError, MapNotFoundError, VlocError
from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.images.decode import CompressedImage, RawImage, decode, image_size, is_supported
from vloc_ros.localizers.base import Localizer, load_localizer
from vloc_ros.maps import read_map
from vloc_ros.maps.atlas import Atlas
from vloc_ros.messages import (
    camera_model,
    frame_id,
    message_image,
    pose_covariance,
    satellite_fix,
    stamp_ns,
    transform,
)
from vloc_ros.nodes.bridges import decode_rare, quaternion_of_angles
from vloc_ros.nodes.inputs import ReceivedFrame
from vloc_ros.nodes.map_switch import MapSwitch
from vloc_ros.nodes.outputs import Outputs
from vloc_ros.nodes.rig import CameraSpec
from vloc_ros.nodes.ros_parameters import NodeParameters
from vloc_ros.nodes.tf_broadcast import TfBroadcast
from vloc_ros.nodes.tf_input import TfInput
from vloc_ros.pipeline import Frame, FrameResult, Pipeline, PipelineSettings
from vloc_ros.settings import settings_from_mapping
from vloc_ros.tracking import INITIAL_POSE_SIGMAS, Tracker, TrackerSettings
from vloc_ros.tracking.fixes import FixSettings, SatelliteFix
from vloc_ros.tracking.store import SavedPose, load_pose, save_pose
from vloc_ros.types import Array, LocalizationState, RgbImage

__all__ = ["Engine", "cameras_of", "make_pipeline"]


# The pipeline with the settings that the node's parameters ask for.


def make_pipeline(
    localizer: Localizer, parameters: NodeParameters, spare: Callable[[], Localizer] | None = None
) -> Pipeline:
    """A fresh pipeline around ``localizer``.

    :param spare: makes the localizer that takes over where the device fails.
    :raises ConfigError: settings that do not go together.
    """
    tracker = Tracker(settings_from_mapping(TrackerSettings, parameters.group("tracker."), "parameters tracker.*"))
    own = {
        "publish_degraded": parameters["publish_degraded"],
        "max_age_s": parameters["max_image_age"],
        **parameters.group("pipeline."),
    }
    fixes = settings_from_mapping(FixSettings, parameters.group("fix."), "parameters fix.*")
    settings = settings_from_mapping(PipelineSettings, own, "parameters pipeline.*")
    return Pipeline(localizer, settings, tracker, fixes, spare)


def cameras_of(parameters: NodeParameters) -> list[CameraSpec]:
    """The vehicle's cameras: those of the rig, or the one of the parameters without a name."""
    transport = parameters["image_transport"]
    names = parameters["cameras"]
    if not names:
        fixed = _mounting(parameters["camera_extrinsics"])
        return [CameraSpec("", "image", "camera_info", transport, parameters["camera_frame"], fixed)]
    out = []
    for name in names:
        own = parameters.group(f"camera.{name}.")
        out.append(
            CameraSpec(
                name, own["image"] or f"{name}/image", own["camera_info"], own["transport"] or transport, own["frame"],
                _mounting(own["extrinsics"]),
            )
        )  # fmt: skip
    return out


def _mounting(values: list[float]) -> Array | None:
    """``[x, y, z, qx, qy, qz, qw]`` or ``[x, y, z, roll, pitch, yaw]`` as T_base_cam; None for no values."""
    if not values:
        return None
    if len(values) == 6:
        values = [*values[:3], *quaternion_of_angles(*values[3:])]
    return make_transform(quaternion_to_matrix(np.asarray(values[3:])), np.asarray(values[:3]))


#: A camera whose stamps fall back this far has been restarted (a bag that loops): TF from before is useless.
BACKWARDS_NS = 1_000_000_000
LOG_PERIOD_S = 5.0
#: So long the odometry alone says which of several maps the vehicle is in.
RECKONED_NS = 30_000_000_000


class _Unusable(Exception):
    """An image that cannot become a frame; ``key`` is one of the pipeline's refusals."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Engine:
    """Owns the localizer and the pipeline. All methods but :meth:`on_clock_jump` run where the localizer runs."""

    def __init__(
        self, node: LifecycleNode, parameters: NodeParameters, tf: TfInput, broadcast: TfBroadcast, outputs: Outputs
    ) -> None:
        self._node = node
        self._log = node.get_logger()
        self._parameters = parameters
        self._tf = tf
        self._cancelled = tf.cancelled
        self._broadcast = broadcast
        self._outputs = outputs
        self._localizer: Localizer | None = None
        self._maps: MapSwitch | None = None
        self.pipeline: Pipeline | None = None
        #: Frames without odometry at their stamp, and frames dropped by an unexpected exception.
        self.odometry_missing = self.internal_errors = 0
        self.last_result: FrameResult | None = None
        self.tf_conflict = ""
        self._last_stamp = 0
        self._last_turn_ns = 0
        #: Map -> odom while there was a track, and the stamp.
        self._known: tuple[Array, int] | None = None
        self._cleared = False
        self._logged: dict[str, float] = {}
        self._saved_at = 0.0
        self._names = [camera.name for camera in cameras_of(parameters)]
        self._map, self._odom = parameters["map_frame"], parameters["odom_frame"]
        self._base = parameters["base_frame"]
        self._rectified, self._pose_file = parameters["image_is_rectified"], parameters["pose_file"]

    # Life

    @property
    def state(self) -> LocalizationState:
        """The state of the sequence."""
        return self.pipeline.state if self.pipeline is not None else LocalizationState.INITIALIZING

    def describe(self) -> str:
        """Backend, device and map in a few words."""
        assert self._localizer is not None
        return f"{self._localizer.backend} on {self._localizer.device}, map {self._localizer.map_id[:12]}"

    def load(self) -> None:
        """Load what ``map``, ``backend`` and ``device`` name now, and warm up. A failure keeps the map in use.

        :raises VlocError: the map cannot be used; the message says why.
        """
        atlas = self._atlas()
        path = os.path.expanduser(self._parameters["map"]) or (atlas.names[0] if atlas is not None else "")
        if atlas is not None and path not in atlas.names:
            raise ConfigError(f"map: expected one of maps ({', '.join(atlas.names)}), found {path!r}")
        if not path:
            raise MapNotFoundError("map: expected the path of a map, found an empty name; set the parameter map")
        localizer = self._opened(path)

        def on_cpu() -> Localizer:
            self._localizer = self._opened(path, "cpu")
            return self._localizer

        # Of several maps the one of the moment is not known here: then frames are refused while the device is full.
        spare = None if localizer.device.type == "cpu" or atlas is not None else on_cpu
        try:
            pipeline = make_pipeline(localizer, self._parameters, spare)
        except BaseException:
            localizer.close()
            raise
        if self._maps is not None:
            self._maps.close()
        old, self._localizer, self.pipeline = self._localizer, localizer, pipeline
        if old is not None:
            old.close()
        self._parameters.show_backend(localizer.backend, localizer.settings)
        frames = {scene.frame_id for scene in localizer.manifest.scenes}
        if self._map not in frames:
            self._log.warning(
                f"the map's frame is {', '.join(sorted(frames))}, poses are published in {self._map} "
                "(parameter map_frame)"
            )
        self.odometry_missing = self.internal_errors = 0
        self._outputs.forget_points()
        self._withdraw()
        self._restore_pose()

        self._maps = None
        if atlas is not None:
            search_s = self._parameters["map_search"]
            self._maps = MapSwitch(atlas, atlas.names.index(path), self._opened, self._log.info, search_s)

    def _opened(self, path: str, device: str = "") -> Localizer:
        """The localizer of a map, warmed up; on the CPU where ``auto`` found a GPU with too little memory."""
        backend = self._parameters["backend"] or read_map(path).manifest.backend
        settings, asked = self._parameters.backend_settings(backend), device or self._parameters["device"]
        localizer = load_localizer(path, asked, self._parameters["backend"] or None, settings)
        try:
            localizer.warm_up()
        except DeviceError as problem:
            localizer.close()
            if asked != "auto":
                raise
            self._log.error(f"{problem}; the CPU takes over")
            return self._opened(path, "cpu")
        except BaseException:
            localizer.close()
            raise
        return localizer

    def _atlas(self) -> Atlas | None:
        """The maps to change between; None where there is one."""
        names = [os.path.expanduser(name) for name in self._parameters["maps"]]
        if not names:
            return None
        manifests = [(name, read_map(name).manifest) for name in names]
        return Atlas(manifests, self._parameters["map_hysteresis"], self._parameters["map_ahead"])

    def _change_map(self, T_odom_base: Array | None) -> None:
        """Go on in the map that the vehicle has come to, once that is loaded. Lost, look into one after the other."""
        pipeline, maps = self.pipeline, self._maps
        if maps is None or pipeline is None or self._localizer is None:
            return
        position = self._position(pipeline, T_odom_base)
        if position is not None:
            localizer = maps.at(position, self._localizer)
        elif pipeline.tracker.last.reason == "confirming":
            localizer = None
        else:
            localizer = maps.search(self._last_stamp, self._localizer)
        if localizer is None:
            return
        self._localizer = localizer
        pipeline.use(localizer)
        self._outputs.forget_points()
        self._log.info(f"map {maps.atlas.names[maps.current]}: {self.describe()}")

    def _position(self, pipeline: Pipeline, T_odom_base: Array | None) -> Array | None:
        """Where the vehicle is (3,), well enough to know its map: by the track, an initial pose, a satellite fix, or
        for a while after the track was lost (between two maps, say) by the odometry since then."""
        tracker, stamp = pipeline.tracker, self._last_stamp
        if tracker.T_map_base is not None:
            if tracker.T_map_odom is not None:
                self._known = tracker.T_map_odom, stamp
            return tracker.T_map_base[:3, 3]
        window = tracker.prior(stamp, T_odom_base) if tracker.searching else None
        if window is not None:
            return window.T_map_cam[:3, 3]
        by_fix = pipeline.fixes.position(stamp)
        if by_fix is not None or self._known is None or T_odom_base is None:
            return by_fix
        T_map_odom, since = self._known
        return (T_map_odom @ T_odom_base)[:3, 3] if 0 <= stamp - since < RECKONED_NS else None

    def start(self) -> None:
        """Before the first frame after an activation: an old pose and old stamps mean nothing now."""
        assert self.pipeline is not None
        if self._last_stamp:
            self.pipeline.reset()
        self._last_stamp, self._known = 0, None
        self._outputs.state(self.state)

    def finish(self) -> None:
        """After the last frame before a deactivation: keep the pose, withdraw the state."""
        self._save_pose(force=True)
        self._withdraw(LocalizationState.INITIALIZING)

    def destroy(self) -> None:
        """Give back the localizers and the GPU's memory."""
        if self._maps is not None:
            self._maps.close()
            self._maps = None
        if self._localizer is not None:
            self._localizer.close()
        self._localizer = self.pipeline = self.last_result = None

    def on_clock_jump(self) -> None:
        """At once, on the executor: TF from before the jump must not meet TF from after it."""
        self._tf.clear()
        self._broadcast.restart()
        self._cleared = True

    def after_clock_jump(self) -> None:
        """The same between two frames: a frame from before the jump may have been at work during it."""
        assert self.pipeline is not None
        self._tf.clear()
        self._broadcast.restart()
        if self._last_stamp:  # the first /clock of a simulation is no news
            self.pipeline.clock_jumped()
        self._forget()

    def restart(self) -> None:
        """Forget pose and stamps. Counters go on."""
        assert self.pipeline is not None
        self.pipeline.reset()
        self._forget()

    def _forget(self) -> None:
        self._last_stamp, self._known = 0, None
        self._withdraw()

    def relocalize(self) -> None:
        """Forget where the vehicle was believed to be and search the whole map."""
        assert self.pipeline is not None
        self._known = None
        self.pipeline.relocalize()
        self._withdraw()

    def expire(self) -> None:
        """Let time pass without frames: a camera that fell silent ends in LOST."""
        if self._localizer is not None:
            localizer, scene = self._localizer, self._parameters["scene"] or None
            now_ns = int(self._node.get_clock().now().nanoseconds)
            self._outputs.map_points(lambda: localizer.map_points(scene), now_ns)
        now = self.now_in_stamps()
        if self.pipeline is None or now is None:
            return
        state = self.pipeline.expire(now)
        if state is LocalizationState.LOST:
            self._broadcast.silence()
        self._outputs.state(state)

    @property
    def last_stamp(self) -> int:
        """The stamp of the last frame that was worked on since the last start; 0 before."""
        return self._last_stamp

    @property
    def has_frames(self) -> bool:
        """Whether a frame has been worked on since the last start."""
        return self._last_stamp > 0

    def now_in_stamps(self) -> int | None:
        """The present in the camera's clock, which need not be ours: the last stamp plus the time since its turn."""
        if not self._last_stamp:
            return None
        return self._last_stamp + max(0, int(self._node.get_clock().now().nanoseconds) - self._last_turn_ns)

    def _withdraw(self, state: LocalizationState | None = None) -> None:
        self._broadcast.silence()
        self.last_result = None
        self._outputs.state(state or self.state)

    # One frame

    def process(self, received: list[ReceivedFrame]) -> None:
        """Localize the images of one moment, of one camera or of several, and publish what the pipeline allows."""
        pipeline = self.pipeline
        assert pipeline is not None
        # Of a rig the latest: stamps of successive moments rise, whichever cameras they have.
        stamp = max(stamp_ns(each.image) for each in received)
        self._watch_stamps(stamp)
        members: list[Frame] = []
        problem = "no_camera_info", "no image"
        rig = len(self._names) > 1
        frames: dict[str, str] = {}
        for each in received:
            try:
                member = self._member(each, rig, frames)
            except _Unusable as error:
                if not members and problem[1] == "no image":
                    problem = error.key, str(error)
                if rig:
                    pipeline.left_out(each.camera.name, f"{error.key}: {error}")
                continue
            members.append(member)
        if not members:
            self._publish(pipeline.refuse(stamp, *problem), received)
            return
        turn = self._node.get_clock().now().nanoseconds
        frame = replace(
            members[0], stamp_ns=stamp, T_odom_base=self._odometry(stamp), received_ns=turn,
            scene=self._parameters["scene"] or None, keep_candidates=self._outputs.wants_candidates,
            others=tuple(members[1:]),
        )  # fmt: skip
        result = pipeline.process(frame)
        if self._cancelled():
            return  # deactivated meanwhile: TF is no lifecycle publisher, nobody else would hold it back
        if stamp > 0:
            self._last_stamp, self._last_turn_ns = stamp, turn
        self._publish(result, received)
        self._change_map(frame.T_odom_base)

    def _member(self, each: ReceivedFrame, rig: bool, frames: dict[str, str]) -> Frame:
        """One camera's image as a frame. :raises _Unusable: why it cannot be one."""
        stamp, camera = stamp_ns(each.image), each.camera
        message = message_image(each.image)
        image: RawImage | CompressedImage | RgbImage = message
        if isinstance(message, RawImage) and not is_supported(message.encoding):
            try:
                image = decode_rare(each.image)
            except VlocError as error:
                raise _Unusable("bad_image", str(error)) from error
        try:
            info = self._camera_info(each, wait=not rig)
            model = None if info is None else camera_model(info, self._rectified, image_size(message))
        except VlocError as error:
            raise _Unusable("bad_camera_info", str(error)) from error
        if rig and model is None:
            raise _Unusable("no_camera_info", "no camera_info for the image; check its topic")
        try:
            T_base_cam = self._extrinsics(each, frames)
        except VlocError as error:
            raise _Unusable("bad_transform", str(error)) from error
        odometry = self._tf.at(self._odom, self._base, stamp, self._parameters["tf_timeout"]) if rig else None
        return Frame(stamp, image, model, self._rectified, T_base_cam, odometry, name=camera.name)

    def _publish(self, result: FrameResult, received: list[ReceivedFrame]) -> None:
        self.last_result = result
        if result.refused is not None:
            self._say(result.refused, f"frame refused ({result.refused}): {result.message}")
        self._outputs.state(result.state)
        self._broadcast_tf(result)
        if result.publish and result.T_map_base is not None and result.covariance_base is not None:
            self._outputs.pose(result.T_map_base, result.covariance_base, result.stamp_ns)
            if self.pipeline is not None and self.pipeline.fixes.datum is not None:
                datum = self.pipeline.fixes.datum
                self._outputs.fix(datum, result.T_map_base, result.covariance_base, result.stamp_ns, self._base)
            self._save_pose()
        if result.estimate is not None and result.T_base_cam is not None:
            self._outputs.candidates(result.estimate, result.T_base_cam)
            self._outputs.matches(result.estimate)
        self._draw(result, next((r for r in received if r.camera.name == result.camera), received[0]))

    def _broadcast_tf(self, result: FrameResult) -> None:
        if self._tf_refused() or result.state is LocalizationState.LOST:
            self._broadcast.silence()
            return
        now = self._node.get_clock().now().nanoseconds
        # A frame that corrected nothing leaves what is known: but its odometry may have begun anew.
        if result.T_map_odom is None:
            self._broadcast.silence()
        elif result.correction is not None and self._broadcast.correct(result.correction, result.stamp_ns, now):
            self._broadcast.tick(now, self._parameters["transform_tolerance"])
        if result.publish and result.T_map_base is not None:
            self._broadcast.place(result.T_map_base, result.stamp_ns)

    def _tf_refused(self) -> bool:
        """Whether broadcasting would fight another node; the reason is kept for the diagnostics."""
        base, map_frame = self._base, self._map
        parent = self._tf.foreign_base_parent
        if self._broadcast.mode == "map_base" and parent:
            self.tf_conflict = (
                f"tf_mode map_base is refused: another node publishes {parent} -> {base}, and a frame has one parent; "
                "use map_odom"
            )
            self._say("tf_conflict", self.tf_conflict)
            return True
        others = [f"{a} -> {b}" for a, b in list(self._tf.foreign) if a == map_frame]
        self.tf_conflict = f"another node sends {', '.join(others)} too: use tf_mode none" if others else ""
        if others:
            self._say("tf_conflict", self.tf_conflict)
        return False

    def _camera_info(self, received: ReceivedFrame, wait: bool) -> Any:
        """:param wait: for one that comes after its image; of a rig the other cameras do not wait."""
        deadline = time.monotonic() + self._parameters["tf_timeout"]
        while (info := received.info()) is None and wait and time.monotonic() < deadline and not self._cancelled():
            time.sleep(0.005)
        return info

    def _extrinsics(self, received: ReceivedFrame, frames: dict[str, str]) -> Array:
        """:param frames: whose optical frame each is that TF gave a place, in this moment."""
        name, prefix = received.camera.name, f"camera.{received.camera.name}." if received.camera.name else "camera_"
        if received.camera.T_base_cam is not None:
            return received.camera.T_base_cam
        camera = received.camera.frame or frame_id(received.image)
        base, stamp, timeout = self._base, stamp_ns(received.image), self._parameters["tf_timeout"]
        if not camera:
            raise GeometryError(f"expected the image to name its frame, found none; set the parameter {prefix}frame")
        if camera in frames:
            raise GeometryError(
                f"expected a frame of its own, found {camera}, which is camera {frames[camera]}'s: two cameras are not "
                f"in one place; set {prefix}frame or {prefix}extrinsics"
            )
        frames[camera] = name
        connected = not name or self._tf.static(base, camera, 0.0) is not None
        T = self._tf.mounting(base, camera, stamp, timeout if connected else 0.0)
        if T is None:
            there = self._tf.static(base, camera, 0.0) is not None
            found = "other times only" if there else "nothing"
            raise GeometryError(
                f"expected TF to connect {base} with {camera} at the image's stamp, found {found}; publish that on "
                f"/tf_static, or set {prefix}extrinsics"
            )
        return T

    def _odometry(self, stamp: int) -> Array | None:
        odom, base = self._odom, self._base
        T = self._tf.at(odom, base, stamp, self._parameters["tf_timeout"]) if stamp > 0 else None
        if T is None:
            self.odometry_missing += 1
            if self._broadcast.mode == "map_odom":
                self._say(
                    "odometry_missing", f"TF has no {odom} -> {base} at the image's stamp: no {odom} correction from it"
                )
        return T

    def _watch_stamps(self, stamp: int) -> None:
        if 0 < stamp < self._last_stamp - BACKWARDS_NS:
            if not self._cleared:
                self._tf.clear()
            self._broadcast.restart()
        self._cleared = False

    def _draw(self, result: FrameResult, received: ReceivedFrame) -> None:
        if not self._outputs.wants_debug_image:
            return
        try:
            message = message_image(received.image)
            rare = isinstance(message, RawImage) and not is_supported(message.encoding)
            image = decode_rare(received.image) if rare else decode(message)
        except VlocError:
            return
        self._outputs.debug_image(
            image,
            result.estimate,
            result.state,
            f"refused: {result.refused}" if result.refused else result.reason,
            result.stamp_ns,
            frame_id(received.image),
        )

    # Initial and stored poses

    def initial_pose(self, message: Any) -> None:
        """Take a pose of the base in any frame that TF connects with the map; its covariance is the search window."""
        assert self.pipeline is not None
        map_frame = self._map
        source = frame_id(message) or map_frame
        try:
            T = transform(message)
            covariance = pose_covariance(message)
        except VlocError as error:
            self._log.warning(f"initialpose refused: {error}")
            return
        if covariance is None:
            covariance = np.diag(np.square(INITIAL_POSE_SIGMAS))
        stamp = stamp_ns(message)
        if source != map_frame:
            T_map_source = self._tf.at(map_frame, source, stamp, self._parameters["tf_timeout"]) if stamp else None
            if T_map_source is None:
                T_map_source = self._tf.static(map_frame, source, self._parameters["tf_timeout"])
            if T_map_source is None:
                self._log.warning(f"initialpose refused: TF does not connect its frame {source!r} with {map_frame!r}")
                return
            rotate = np.kron(np.eye(2), T_map_source[:3, :3])
            T, covariance = T_map_source @ T, rotate @ covariance @ rotate.T
        odom, base = self._odom, self._base
        T_odom_base = self._tf.at(odom, base, stamp, 0.0) if stamp else None
        try:
            self.pipeline.set_initial_pose(T, covariance, stamp, T_odom_base, self._parameters["scene"])
        except GeometryError as error:
            self._log.warning(f"initialpose refused: {error}")
            return
        self._withdraw()
        self._log.info(f"initial pose: x {T[0, 3]:.2f} y {T[1, 3]:.2f} in {map_frame}")

    def satellite_fix(self, message: Any) -> None:
        """Take a NavSatFix: where to look while nothing is known, and what contradicts it."""
        if self.pipeline is None:
            return
        found = satellite_fix(message)
        if found is None:
            self._say("fix", f"the receiver has no fix (status {message.status.status})")
            return
        antenna, frame = self._parameters["antenna"], frame_id(message)
        lever = np.asarray(antenna, dtype=np.float64) if antenna else np.zeros(3)
        if not antenna and frame not in ("", self._base):
            T = self._tf.static(self._base, frame, 0.0)
            lever = lever if T is None else T[:3, 3]
        try:
            self.pipeline.fixes.offer(SatelliteFix(stamp_ns(message), *found[0], found[1], lever))
        except VlocError as error:
            self._say("fix", f"satellite fix refused: {error}")

    def _restore_pose(self) -> None:
        name = self._pose_file
        if not name or self.pipeline is None or self._localizer is None:
            return
        try:
            stored = load_pose(name)
        except ConfigError as error:
            self._log.warning(str(error))
            return
        if stored is not None and stored.map_id == self._localizer.map_id:
            # The vehicle may have been moved a little since: the window is at least the default's.
            covariance = stored.covariance + np.diag(np.square(INITIAL_POSE_SIGMAS))
            self.pipeline.set_initial_pose(stored.T_map_base, covariance, scene=stored.scene)
            self._log.info(f"search starts at the pose of {name}")

    def _save_pose(self, force: bool = False) -> None:
        name, result = self._pose_file, self.last_result
        if not name or result is None or self._localizer is None or not result.publish:
            return
        now = time.monotonic()
        if not force and now - self._saved_at < self._parameters["pose_file_period"]:
            return
        self._saved_at = now
        if result.T_map_base is None or result.covariance_base is None:
            return
        scene = result.estimate.scene if result.estimate is not None else ""
        pose = SavedPose(
            self._localizer.map_id,
            self._map,
            result.stamp_ns,
            result.T_map_base,
            result.covariance_base,
            scene,
        )
        try:
            save_pose(name, pose)
        except VlocError as error:
            self._say("pose_file", str(error))

    def _say(self, topic: str, text: str) -> None:
        """A warning, at most once in a while for each topic."""
        now = time.monotonic()
        if now - self._logged.get(topic, -LOG_PERIOD_S) >= LOG_PERIOD_S:
            self._logged[topic] = now
            self._log.warning(text)
