"""The parameters of ``vloc_evaluator``, from which it declares them and docs/parameters.md is made. Imports no ROS."""

from __future__ import annotations

from vloc_ros.nodes.parameters import AT_ONCE, FIXED, ParameterSpec

__all__ = ["EVALUATOR_PARAMETERS"]

EVALUATOR_PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec(
        "reference_type",
        "pose",
        "What says where the vehicle really is, on `reference`: `odometry` (nav_msgs/Odometry), `pose` (PoseStamped), "
        "`pose_covariance` (PoseWithCovarianceStamped), `transform` (TransformStamped), `fix` (NavSatFix, positions "
        "only); or `tf` (`map_frame` -> `reference_frame`).",
        FIXED,
        choices=("pose", "pose_covariance", "odometry", "transform", "fix", "tf"),
    ),
    ParameterSpec("map_frame", "map", "With `tf`: the parent frame.", FIXED),
    ParameterSpec("reference_frame", "base_link_truth", "With `tf`: the frame of the vehicle's true pose.", FIXED),
    ParameterSpec(
        "align",
        False,
        "Move the reference so that it meets the first pose: for odometry, which has a frame of its own. Errors are "
        "then those since the first pose.",
        FIXED,
    ),
    ParameterSpec(
        "count_frames",
        True,
        "Count the frames of `camera_info` that have no pose as infinitely wrong; false counts published poses only.",
        FIXED,
    ),
    ParameterSpec("max_gap", 0.5, "Seconds between reference poses that are interpolated between.", FIXED, 0.0, 60.0),
    ParameterSpec("patience", 2.0, "Seconds after which a frame without a pose gets none any more.", FIXED, 0.0, 60.0),
    ParameterSpec(
        "datum",
        [],
        "With `fix`: latitude, longitude (deg) and height (m) of the map's origin.",
        FIXED,
        check=lambda value: None if len(value) in (0, 3) else f"expected no value or 3, found {len(value)}",
    ),
    ParameterSpec(
        "antenna",
        [],
        "With `fix`: the antenna on the base, `[x, y, z]` in metres; empty: at the base.",
        FIXED,
        check=lambda value: None if len(value) in (0, 3) else f"expected no value or 3, found {len(value)}",
    ),
    ParameterSpec("report", "", "Folder for report and trajectories at the end; empty writes none.", AT_ONCE),
    ParameterSpec("period", 1.0, "Seconds between two messages on `/diagnostics`.", FIXED, 0.05, 60.0),
)
