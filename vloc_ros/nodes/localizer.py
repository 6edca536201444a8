"""The lifecycle node ``vloc_localizer``: camera topics in; pose, TF, state and diagnostics out.

Everything that decides (what is refused, the state, what is published) is in :mod:`vloc_ros.pipeline` and
shared with offline replay. This node translates messages, looks up TF and manages resources:

* unconfigured: no map; parameters, services and diagnostics are there.
* configure: load the map and warm up. A problem is logged, FAILURE is returned, the node stays unconfigured.
* active: one worker thread localizes the newest frame; the executor stays free for TF and services.
* cleanup: the map and the GPU's memory are given back.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import tf2_ros
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import State
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import NavSatFix
from std_srvs.srv import Trigger

from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.localizers.base import available_backends
from vloc_ros.nodes.engine import Engine, cameras_of
from vloc_ros.nodes.health import TICK_S, Health
from vloc_ros.nodes.inputs import ReceivedFrame, RigInput, RigPolicy
from vloc_ros.nodes.outputs import Outputs
from vloc_ros.nodes.qos import image_qos
from vloc_ros.nodes.ros_parameters import NodeParameters
from vloc_ros.nodes.running import PATIENCE_S, run_node
from vloc_ros.nodes.tf_broadcast import TfBroadcast
from vloc_ros.nodes.tf_input import TfInput
from vloc_ros.nodes.worker import Pending, Worker
from vloc_ros.tracking.smoothing import SmoothCorrection

__all__ = ["VlocLocalizer", "main"]

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class VlocLocalizer(LifecycleNode):
    """See the module's text, and docs/ros.md for topics, services and parameters.

    :raises ConfigError: a parameter given at the start is not allowed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("vloc_localizer", automatically_declare_parameters_from_overrides=True, **options)
        self.parameters = NodeParameters(self, available_backends())
        self.engine: Engine | None = None
        self.camera: RigInput | None = None
        self.outputs: Outputs | None = None
        self.tf: TfInput | None = None
        self.broadcast: TfBroadcast | None = None
        self.worker: Worker[list[ReceivedFrame]] = Worker(self._on_frame, self._on_worker_error)
        self.problem = ""
        self._tf_timer: Any = None
        self._bond: Any = None
        self._broadcaster = tf2_ros.TransformBroadcaster(self)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.health = Health(self)
        self._health_timer = self.create_timer(TICK_S, self.health.tick, clock=steady)
        self.create_service(Trigger, "~/relocalize", self._on_relocalize)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/load_map", self._on_load_map)
        self.create_subscription(PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, 10)
        self.create_subscription(NavSatFix, "fix", self._on_fix, image_qos("best_effort"))
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-0.001), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_clock_jump)
        self._start_timer: Any = None
        if self.parameters["autostart"]:
            self._start_timer = self.create_timer(0.01, self._on_start, clock=steady)

    # Lifecycle

    @property
    def is_active(self) -> bool:
        """Whether the node is in the primary state ``active``."""
        return bool(self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE)

    @property
    def lifecycle_label(self) -> str:
        """``unconfigured``, ``inactive``, ``active``, ..."""
        return str(self._state_machine.current_state[1])

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the map, warm up, and open the topics."""
        try:
            self._configure()
        except Exception as error:
            self._explain("cannot configure", error)
            self._release()
            return FAILURE
        self.problem = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start localizing."""
        assert self.engine is not None and self.camera is not None and self.outputs is not None
        result = super().on_activate(state)
        if result != SUCCESS:
            return result
        if self.parameters["bond"] and not self._form_bond():
            super().on_deactivate(state)
            return FAILURE
        self.worker.start()
        self.worker.submit(self.engine.start)  # before the first frame, and never beside a last one from before
        self.camera.restart_silence()
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop localizing; the map stays loaded."""
        self._pause()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the map, the GPU's memory and the topics."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, from any state."""
        self._pause()
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured with everything freed."""
        self._release()
        return SUCCESS

    def _on_start(self) -> None:
        self._start_timer.cancel()
        if self.lifecycle_label == "unconfigured" and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _configure(self) -> None:
        value = self.parameters
        frames = (value["map_frame"], value["odom_frame"], value["base_frame"])
        started = time.monotonic()
        self.tf = TfInput(self, value["base_frame"], lambda: self.worker.stopping)
        smooth = SmoothCorrection(value["tf_smoothing"], value["tf_jump_m"], value["tf_jump_deg"])
        self.broadcast = TfBroadcast(value["tf_mode"], frames, self._broadcaster.sendTransform, self.tf.sent, smooth)
        self.outputs = Outputs(self, value["map_frame"])
        self.engine = Engine(self, self.parameters, self.tf, self.broadcast, self.outputs)
        self.engine.load()
        policy = RigPolicy(value["rig_mode"], value["rig_tolerance"], value["rig_timeout"])
        self.camera = RigInput(self, cameras_of(self.parameters), policy, value["image_qos"], self._offer)
        if value["tf_mode"] == "map_odom":
            self._tf_timer = self.create_timer(1.0 / value["tf_rate"], self._on_tf_timer)
        name = value["map"] or value["maps"][0]
        self.get_logger().info(
            f"loaded {name} ({self.engine.describe()}) in {time.monotonic() - started:.1f} s; "
            f"images from {self.camera.image_topic}, camera info from {self.camera.info_topic}"
        )

    def _form_bond(self) -> bool:
        """Let a lifecycle manager notice when this process dies. False, and the reason, without bond's messages."""
        try:
            from vloc_ros.nodes.bond import Bond
        except ImportError as error:
            self._explain("cannot activate", ConfigError(f"bond: expected the ROS package bond, found none: {error}"))
            return False
        self._bond = Bond(self, self.get_name())
        return True

    def _pause(self) -> None:
        if self._bond is not None:
            self._bond.end()
            self._bond = None
        if not self.worker.stop():
            self.get_logger().warning("the localizer still works on a frame after 10 s; its result is dropped")
        if self.engine is not None and self.outputs is not None:
            self.engine.finish()

    def _release(self) -> None:
        self.worker.stop()
        if self._tf_timer is not None:
            self.destroy_timer(self._tf_timer)
            self._tf_timer = None
        for part in (self.camera, self.engine, self.outputs, self.tf):
            if part is not None:
                part.destroy()
        self.camera = self.engine = self.outputs = self.tf = self.broadcast = None

    # Callbacks on the executor: store, forward, answer

    def _offer(self, frames: list[ReceivedFrame]) -> None:
        if self.is_active:
            self.worker.offer(frames)

    def _on_tf_timer(self) -> None:
        if self.is_active and self.broadcast is not None:
            self.broadcast.tick(self.get_clock().now().nanoseconds, self.parameters["transform_tolerance"])

    def _on_clock_jump(self, jump: Any) -> None:
        if self.engine is None:
            return
        if self.engine.has_frames:  # the first /clock of a simulation is a jump, too, but no news
            self.get_logger().warning("the clock went back: TF buffer, tracker and TF output start anew")
        self.worker.discard()
        if self.camera is not None:
            self.camera.clear()
        engine = self.engine
        engine.on_clock_jump()
        self.worker.submit(engine.after_clock_jump)

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        engine = self.engine
        if engine is None or not self.worker.submit(lambda: engine.initial_pose(message)):
            self.get_logger().warning("initialpose ignored: the node is not active")

    def _on_fix(self, message: NavSatFix) -> None:
        engine = self.engine
        if engine is not None and self.is_active:
            self.worker.submit(lambda: engine.satellite_fix(message))

    def _on_frame(self, frames: list[ReceivedFrame]) -> None:
        engine, camera = self.engine, self.camera
        if not frames and engine is not None and camera is not None:  # the cameras take turns
            turn = camera.next_turn(engine.last_stamp)
            frames = [] if turn is None else [turn]
        if engine is not None and frames:
            engine.process(frames)

    def _on_worker_error(self, error: BaseException) -> None:
        if self.engine is not None:
            self.engine.internal_errors += 1
        self._explain("the frame was dropped", error)

    # Services

    async def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return await self._in_worker(response, lambda e: e.relocalize(), "searching the whole map from the next frame")

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return await self._in_worker(response, lambda e: e.restart(), "starting anew with the next frame")

    async def _on_load_map(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self.parameters["map"]
        if self.is_active:
            return await self._in_worker(response, lambda e: e.load(), f"loaded {path}")
        if self.lifecycle_label == "inactive" and self.engine is not None:
            self._answer(response, self.engine.load, f"loaded {path}")
            return response
        if self.lifecycle_label != "unconfigured":
            response.success, response.message = False, f"the node is {self.lifecycle_label}"
            return response
        # Nothing is loaded, perhaps because an earlier map was bad: this is the start that failed then.
        response.success = self.trigger_configure() == SUCCESS
        response.message = f"loaded {path}" if response.success else self.problem
        if response.success and self.parameters["autostart"]:
            self.trigger_activate()
        return response

    async def _in_worker(
        self, response: Trigger.Response, work: Callable[[Engine], None], done: str
    ) -> Trigger.Response:
        """Run ``work`` between two frames, without blocking the executor, and answer when it is finished."""
        engine = self.engine
        pending = Pending()
        if engine is None or not self.worker.submit(
            pending.wrap(lambda: self._answer(response, lambda: work(engine), done))
        ):
            response.success, response.message = False, f"the node is {self.lifecycle_label}, not active"
            return response
        while not pending.finished and self.worker.running:
            await pending
        if not pending.finished:
            response.success, response.message = False, f"the node was stopped before: it is {self.lifecycle_label}"
        return response

    def _answer(self, response: Trigger.Response, work: Callable[[], None], done: str) -> None:
        try:
            work()
        except Exception as error:
            self._explain("the request failed", error)
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, done
            self.problem = ""

    def _explain(self, what: str, error: BaseException) -> None:
        """Log a named error in one line, anything else with its trace, and keep it for the diagnostics."""
        if isinstance(error, VlocError):
            self.problem = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"{what}: {self.problem}")
        else:
            self.problem = f"unexpected {type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.get_logger().error(f"{what}: {self.problem}\n{trace}")

    def close(self, timeout: float) -> None:
        """End the worker and give everything back, before the node is destroyed.

        :param timeout: seconds to wait for a frame that is at work; its result is dropped, and what it uses is left.
        """
        if self.worker.stop(timeout):
            self._pause()
            self._release()
        elif self.engine is not None:
            self.engine.finish()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (:func:`~vloc_ros.nodes.running.run_node`). Exit code 0 for a clean end."""

    def finish(node: VlocLocalizer) -> int:
        node.close(PATIENCE_S)
        return 0

    return run_node(
        "vloc_localizer", VlocLocalizer, lambda node, error: node._explain("a callback failed", error), finish, args
    )


if __name__ == "__main__":
    sys.exit(main())
