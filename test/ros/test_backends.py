"""Every backend's own launch file, as a user starts it, with a small map of that backend. See conftest.py."""

from __future__ import annotations

import time

import pytest

#: Metres from the truth that are plenty for a map of one small lap, and whether the backend has candidates to show.
BACKENDS = {"retrieval": (1.0, True), "copr": (1.0, True), "irpnet": (3.0, False), "camnet": (1.0, True)}


def _stand(live, until, what, place=12, timeout=30.0, drives=False):
    """Frames of a vehicle on the mapped lap, standing or a frame further each time, with a sensor's noise; T_map_base.

    :param drives: whether it does.
    """
    import numpy as np
    import tiny_drive
    from ros_harness import CAMERA_XYZ, CAMERA_XYZW

    from vloc_ros.geometry.rotations import quaternion_to_matrix
    from vloc_ros.geometry.se3 import inverse, make_transform

    lap, camera = tiny_drive.drive(60), tiny_drive.CAMERA
    noise = np.random.default_rng(0)
    deadline = time.monotonic() + timeout
    while not until():
        if time.monotonic() > deadline:
            logs = "\n".join(process.text[-3000:] for process in live.processes)
            raise AssertionError(f"no {what} within {timeout:g} s; diagnostics {live.values()}\n{logs}")
        stamp = live.stamp = max(live.stamp + 1, time.time_ns())
        live.static_camera()
        live.camera_info(stamp, focal=camera.fx, width=camera.width, height=camera.height)
        pixels = lap.image(place).astype(np.int16)
        place = (place + drives) % len(lap)
        noisy = pixels + noise.normal(0, 1, pixels.shape).round()
        live.image(stamp, np.clip(noisy, 0, 255).astype(np.uint8))
        time.sleep(0.1)
    T_base_cam = make_transform(quaternion_to_matrix(np.array(CAMERA_XYZW)), np.array(CAMERA_XYZ))
    return lap.T_map_cam[place] @ inverse(T_base_cam)


@pytest.mark.parametrize("backend", BACKENDS)
def test_launch_file(live, backend):
    import numpy as np
    import tiny_maps

    allowed_m, has_candidates = BACKENDS[backend]
    launched = live.launch(f"{backend}.launch.py", map=tiny_maps.tiny_map(backend), device="cpu", tf_mode="none")
    live.wait_state("active")
    poses, states, candidates = live.poses(), live.states(), live.candidates()

    def seen():
        return len(poses) >= 3 and (candidates or not has_candidates) and "estimate_position_sigma_m" in live.values()

    truth = _stand(live, seen, "poses, candidates and diagnostics")
    # One picture of a standing vehicle is no evidence, however often it agrees with itself.
    assert states[-1].data == "DEGRADED" and "until the vehicle moves" in live.values()["message"]
    pose, header = poses[-1].pose, poses[-1].header
    position = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
    assert header.frame_id == "map"
    assert np.linalg.norm(position - truth[:3, 3]) < allowed_m
    covariance = np.reshape(pose.covariance, (6, 6))
    assert np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0

    _stand(live, lambda: states[-1].data == "LOCALIZED", "LOCALIZED after driving", drives=True)

    # The launch file's parameter file names the backend; its settings are parameters like any other.
    assert live.get_parameter("backend").string_value == backend
    assert f"{backend}.lost_sigma_m" in live.list_parameters()
    assert "LOST" in live.describe_parameter(f"{backend}.lost_sigma_m").description
    refused = live.set_parameter(f"{backend}.lost_sigma_m", -1.0)
    assert not refused.successful and "at least 0" in refused.reason

    values = live.values()
    assert values["backend"] == backend
    assert values["estimate_nearest_reference"].isdigit(), "a row of the map"
    assert float(values["estimate_position_sigma_m"]) > 0
    if backend == "copr":
        assert values["estimate_regressed"] in ("0", "1")

    launched.interrupt()
    assert launched.wait(30) == 0, launched.text[-3000:]
    assert "Traceback" not in launched.text


def test_cascade_launch_file(live):
    """The coarse map finds the place without a prior, the fine one refines, and the diagnostics say that it did."""
    import numpy as np
    import tiny_maps

    launched = live.launch("cascade.launch.py", map=tiny_maps.tiny_map("cascade"), device="cpu", tf_mode="none")
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    truth = _stand(live, lambda: len(poses) >= 3 and "estimate_refined" in live.values(), "poses and diagnostics")
    assert states[-1].data == "LOCALIZED"
    pose = poses[-1].pose
    position = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
    assert np.linalg.norm(position - truth[:3, 3]) < 1.0
    values = live.values()
    assert values["backend"] == "cascade" and values["estimate_refined"] == "1"
    assert values["estimate_nearest_reference"].isdigit(), "a row of the fine map"
    assert live.get_parameter("backend").string_value == "cascade"
    refused = live.set_parameter("cascade.gate_sigmas", -1.0)
    assert not refused.successful and "0.1" in refused.reason
    launched.interrupt()
    assert launched.wait(30) == 0, launched.text[-3000:]
    assert "Traceback" not in launched.text


def test_pixloc_alone_from_an_initial_pose(live):
    """Without a database in its map it finds nothing, until it is told where to look; then it follows by itself."""
    import numpy as np
    import tiny_maps
    from geometry_msgs.msg import PoseWithCovarianceStamped

    from vloc_ros.geometry.rotations import matrix_to_quaternion

    launched = live.launch("pixloc.launch.py", map=tiny_maps.tiny_map("pixloc"), device="cpu", tf_mode="none")
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    truth = _stand(live, lambda: live.values().get("estimate_failure") == "1", "verdict that there is no prior")
    live.until(lambda: states, "a state")
    assert not poses and states[-1].data == "INITIALIZING"

    # A person points 0.2 m beside the truth.
    publisher = live.publisher(PoseWithCovarianceStamped, "/initialpose")
    live.until(lambda: publisher.get_subscription_count(), "a subscriber of initialpose")
    message = PoseWithCovarianceStamped()
    message.header.frame_id = "map"
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = (float(v) for v in truth[:3, 3] + (0.2, 0.0, 0.0))
    orientation.x, orientation.y, orientation.z, orientation.w = (float(v) for v in matrix_to_quaternion(truth[:3, :3]))
    message.pose.covariance = np.diag([0.09, 0.09, 0.09, 0.01, 0.01, 0.01]).reshape(-1)
    publisher.publish(message)
    live.until(lambda: "initial pose: x" in launched.text, "the pose in the log")

    # Diagnostics come once a second, so those of a frame may come after its pose.
    _stand(
        live, lambda: len(poses) >= 5 and live.values().get("estimate_failure") == "0", "poses after the initial pose"
    )
    assert states[-1].data == "LOCALIZED"
    found = np.array([poses[-1].pose.pose.position.x, poses[-1].pose.pose.position.y, poses[-1].pose.pose.position.z])
    assert np.linalg.norm(found - truth[:3, 3]) < 0.1
    values = live.values()
    assert values["backend"] == "pixloc" and values["estimate_prior_source"] == "0"
    assert values["estimate_nearest_reference"].isdigit()
    launched.interrupt()
    assert launched.wait(30) == 0, launched.text[-3000:]
    assert "Traceback" not in launched.text


def test_settings_in_a_parameter_file(live):
    import tiny_maps

    params = live.tmp_path / "params.yaml"
    # A whole number for a setting that is a fraction, as people write it.
    params.write_text(
        "/**:\n  ros__parameters:\n    diagnostics_period: 0.2\n"
        "    retrieval:\n      k: 3\n      radius_m: 5\n      weights: uniform\n"
    )
    live.launch("retrieval.launch.py", map=tiny_maps.tiny_map("retrieval"), device="cpu", params_file=params)
    live.wait_state("active")
    assert live.get_parameter("retrieval.k").integer_value == 3
    assert live.get_parameter("retrieval.radius_m").double_value == 5.0
    bounds = live.describe_parameter("retrieval.k").integer_range[0]
    assert (bounds.from_value, bounds.to_value) == (1, 1000)
    poses = live.poses()
    _stand(live, lambda: poses and "estimate_averaged" in live.values(), "poses of an average")
    assert live.values()["estimate_averaged"] in ("2", "3"), "the parameter file was not heard"

    # A change takes effect with the next load, and one that makes no sense not at all.
    assert not live.set_parameter("retrieval.weights", "best").successful
    assert live.set_parameter("retrieval.k", 1).successful
    assert live.trigger("/vloc_localizer/load_map").success
    assert live.get_parameter("retrieval.radius_m").double_value == 5.0
    _stand(live, lambda: live.values().get("estimate_averaged") == "1", "the pose of the nearest image")


def test_a_map_of_another_backend_is_refused(live):
    launched = live.launch("retrieval.launch.py", map=live.session.map, device="cpu")
    live.until(lambda: "cannot configure" in launched.text, "the reason in the log", timeout=40)
    assert "expected a map of backend 'retrieval', found one of 'fake'" in launched.text
    assert live.lifecycle() == "unconfigured"
    live.until(lambda: "found one of 'fake'" in live.values().get("message", ""), "the reason in the diagnostics")
