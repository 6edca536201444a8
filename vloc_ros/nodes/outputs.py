"""The node's topics out: pose and state; candidates, debug image and point clouds only while somebody listens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, NavSatFix, PointCloud2
from std_msgs.msg import String

from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.se3 import inverse
from vloc_ros.nodes.conversions import fix_message, image_message, matches_cloud, points_cloud, pose_array, pose_message
from vloc_ros.nodes.debug_image import draw_debug_image
from vloc_ros.nodes.qos import latched
from vloc_ros.types import Array, Estimate, LocalizationState, RgbImage

__all__ = ["Outputs"]

#: At most this many candidates go into a PoseArray; RViz draws no more than that legibly.
MAX_CANDIDATES = 512


class Outputs:
    """Lifecycle publishers: silent unless the node is active."""

    def __init__(self, node: LifecycleNode, map_frame: str) -> None:
        self._node = node
        self._map_frame = map_frame
        self._state: LocalizationState | None = None
        self._pose = node.create_lifecycle_publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self._states = node.create_lifecycle_publisher(String, "~/state", latched())
        self._candidates = node.create_lifecycle_publisher(PoseArray, "~/candidates", 1)
        self._debug = node.create_lifecycle_publisher(Image, "~/debug_image", 1)
        self._matches = node.create_lifecycle_publisher(PointCloud2, "~/matches", 1)
        self._map_points = node.create_lifecycle_publisher(PointCloud2, "~/map_points", latched())
        self._points_for = 0
        self._fix = node.create_lifecycle_publisher(NavSatFix, "~/fix", 10)

    def destroy(self) -> None:
        """Give up the publishers."""
        for publisher in (
            self._pose, self._states, self._candidates, self._debug, self._matches, self._map_points, self._fix,
        ):  # fmt: skip
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def wants_debug_image(self) -> bool:
        """Whether somebody subscribes to the debug image."""
        return bool(self._debug.get_subscription_count() > 0)

    @property
    def wants_candidates(self) -> bool:
        """Whether somebody looks at candidates, here or in the debug image."""
        return self._candidates.get_subscription_count() > 0 or self.wants_debug_image

    def state(self, state: LocalizationState) -> None:
        """Publish a state that is new. Late joiners get the last one."""
        # What is said while the node is inactive reaches nobody: then it is still to be said.
        if state is not self._state and self._states.is_activated:
            self._state = state
            self._states.publish(String(data=state.value))

    def pose(self, T_map_base: Array, covariance: Array, stamp_ns: int) -> None:
        """Publish the pose of the base."""
        self._pose.publish(pose_message(T_map_base, covariance, stamp_ns, self._map_frame))

    def fix(self, datum: Datum, T_map_base: Array, covariance: Array, stamp_ns: int, frame: str) -> None:
        """Publish where the base is on the Earth, while somebody listens."""
        if self._fix.get_subscription_count() > 0:
            self._fix.publish(fix_message(datum, T_map_base, covariance, stamp_ns, frame))

    def matches(self, estimate: Estimate) -> None:
        """Publish the map's points that the frame shows, while somebody listens."""
        if estimate.matches is not None and self._matches.get_subscription_count() > 0:
            self._matches.publish(matches_cloud(estimate.matches, estimate.stamp_ns, self._map_frame))

    def map_points(self, points: Callable[[], Array | None], stamp_ns: int) -> None:
        """Publish the map's points whenever somebody more listens; nothing is made before.

        :param points: of the map in use, asked for only then.
        """
        listeners = self._map_points.get_subscription_count()
        new, self._points_for = listeners > self._points_for, listeners
        if not new or not self._map_points.is_activated:
            self._points_for = listeners if self._map_points.is_activated else 0
            return
        found = points()
        if found is not None:
            self._map_points.publish(points_cloud(found, stamp_ns, self._map_frame))

    def forget_points(self) -> None:
        """Another map: whoever listens wants its points."""
        self._points_for = 0

    def candidates(self, estimate: Estimate, T_base_cam: Array) -> None:
        """Publish the last step's candidates as poses of the base, best first."""
        if not estimate.candidates or self._candidates.get_subscription_count() == 0:
            return
        step = estimate.candidates[-1]
        best = np.argsort(-step.scores, kind="stable")[:MAX_CANDIDATES]
        poses = step.T_map_cam[best] @ inverse(T_base_cam)
        self._candidates.publish(pose_array(poses, estimate.stamp_ns, self._map_frame))

    def debug_image(
        self, image: RgbImage, estimate: Estimate | None, state: LocalizationState, note: str, stamp_ns: int, frame: str
    ) -> None:
        """Draw and publish what the localizer thinks about ``image``."""
        drawn = draw_debug_image(image, estimate, state, note)
        self._debug.publish(image_message(drawn, stamp_ns, frame))
