"""The live node: poses, TF modes, services, parameters. Needs a ROS 2; see conftest.py."""

from __future__ import annotations

import pytest


def test_a_pose_for_every_frame_and_tf_at_its_stamp(live):
    import numpy as np
    from rclpy.duration import Duration
    from rclpy.time import Time
    from ros_harness import stamp_of

    node = live.start_node()
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    live.drive(lambda: len(poses) >= 3, "first poses", odom=2.0)
    first_fix = stamp_of(poses[0])
    before = len(poses)
    stamps = live.drive(lambda: len(poses) >= before + 10, "poses", odom=2.0)
    heard = [stamp_of(p) for p in poses]
    assert len(set(heard)) == len(heard), "a stamp was published twice"
    # Every frame but those that were on their way when the counting began and ended.
    assert len(set(stamps) - set(heard)) <= 2
    pose = poses[-1]
    assert pose.header.frame_id == "map"
    position = pose.pose.pose.position
    assert (position.x, position.y, position.z) == pytest.approx((5.0, 3.0, 0.0), abs=0.06)
    assert abs(pose.pose.pose.orientation.w) == pytest.approx(1.0, abs=1e-6)
    covariance = np.asarray(pose.pose.covariance).reshape(6, 6)
    assert covariance[0, 0] > 0 and np.allclose(covariance, covariance.T)
    assert states[-1].data == "LOCALIZED"

    # tf2 looks up map -> base at the image stamps without extrapolating.
    live.until(lambda: live.buffer.can_transform("map", "base_link", Time(nanoseconds=heard[-1])), "TF at the stamp")
    for stamp in heard:
        found = live.buffer.lookup_transform("map", "base_link", Time(nanoseconds=stamp), Duration())
        assert found.transform.translation.x == pytest.approx(5.0, abs=0.1)
    corrections = [t for t in live.sent_tf if t.child_frame_id == "odom"]
    sent = [stamp_of(t) for t in corrections]
    assert all(t.header.frame_id == "map" for t in corrections)
    assert sent == sorted(set(sent)), "a transform went back or came twice"
    assert sent[0] >= first_fix, "TF before the first fix"
    assert corrections[-1].transform.translation.x == pytest.approx(3.0, abs=0.1)  # 5 m in the map, 2 m by odometry

    values = live.values()
    assert values["lifecycle"] == "active" and values["state"] == "LOCALIZED" and values["level"] == "0"
    assert values["name"] == "/vloc_localizer: localization"
    assert live.value("tf_sent") > 0 and float(values["time_localize_ms"]) >= 0

    # Candidates and the debug image are made once somebody listens.
    candidates, images = live.candidates(), live.debug_images()
    live.drive(lambda: candidates and images, "candidates and debug image", odom=2.0)
    assert len(candidates[-1].poses) == 5 and candidates[-1].header.frame_id == "map"
    assert candidates[-1].poses[0].position.x == pytest.approx(5.0, abs=0.06)
    assert (images[-1].width, images[-1].height, images[-1].encoding) == (64, 48, "rgb8")

    node.interrupt()
    assert node.wait() == 0
    assert "Traceback" not in node.text


def test_tf_modes_and_lifecycle(live):
    from lifecycle_msgs.msg import Transition
    from rclpy.time import Time
    from ros_harness import stamp_of

    def again(mode):
        assert live.change_state(Transition.TRANSITION_DEACTIVATE)
        assert live.change_state(Transition.TRANSITION_CLEANUP)
        assert live.lifecycle() == "unconfigured"
        assert live.set_parameter("tf_mode", mode).successful
        assert live.change_state(Transition.TRANSITION_CONFIGURE)
        assert live.lifecycle() == "inactive"
        assert live.change_state(Transition.TRANSITION_ACTIVATE)
        live.wait_state("active")
        live.sent_tf.clear()
        poses.clear()

    live.start_node(autostart=False, tf_mode="none")
    live.wait_state("unconfigured")
    assert live.change_state(Transition.TRANSITION_CONFIGURE)
    poses, states = live.poses(), live.states()
    live.static_camera()
    for _ in range(5):
        live.frame()
    assert not poses, "published while inactive"
    assert live.change_state(Transition.TRANSITION_ACTIVATE)
    live.drive(lambda: len(poses) >= 5, "poses with tf_mode none", odom=None)
    assert [t for t in live.sent_tf if t.header.frame_id == "map"] == []

    again("map_base")
    assert states[-1].data == "INITIALIZING"
    live.drive(lambda: len(poses) >= 5, "poses with tf_mode map_base", odom=None)
    live.until(lambda: live.buffer.can_transform("map", "base_link", Time(nanoseconds=stamp_of(poses[-1]))), "map_base")
    stamps = [stamp_of(t) for t in live.sent_tf if (t.header.frame_id, t.child_frame_id) == ("map", "base_link")]
    assert set(stamps) <= {stamp_of(p) for p in poses} and len(set(stamps)) == len(stamps) >= 4

    # A second parent of the base: map_base is refused, the pose goes on.
    live.drive(lambda: "map_base is refused" in live.values().get("tf_conflict", ""), "refusal of map_base")
    assert live.values()["level"] == "2"
    live.sent_tf.clear()
    before = len(poses)
    live.drive(lambda: len(poses) >= before + 3, "poses")
    assert [t for t in live.sent_tf if t.header.frame_id == "map"] == []

    again("map_odom")
    live.drive(lambda: any(t.child_frame_id == "odom" for t in live.sent_tf), "map -> odom")
    assert live.values()["tf_conflict"] == ""
    live.odometry(live.stamp, 0.0, parent="map", child="odom")
    live.drive(lambda: "another node sends map -> odom" in live.values().get("tf_conflict", ""), "warning of a rival")


def test_services_and_parameters(live):
    live.start_node(**{"fake.delay_s": 0.001})
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    live.drive(lambda: len(poses) >= 3, "poses")

    for service in ("relocalize", "reset"):
        assert states[-1].data == "LOCALIZED"
        answer = live.trigger(f"/vloc_localizer/{service}")
        assert answer.success, answer.message
        live.until(lambda: states[-1].data == "INITIALIZING", f"INITIALIZING after {service}")
        live.drive(lambda: states[-1].data == "LOCALIZED", f"a new fix after {service}")

    # load_map takes what the parameter now names; a bad one leaves the old one at work.
    assert live.set_parameter("map", str(live.tmp_path / "missing")).successful
    answer = live.trigger("/vloc_localizer/load_map")
    assert not answer.success and "missing" in answer.message
    before = len(poses)
    live.drive(lambda: len(poses) >= before + 2, "poses of the old map")
    old = live.values()["map"]
    other = live.session.make_map("other_town", delay_s=0.002)
    assert live.set_parameter("map", str(other)).successful
    answer = live.trigger("/vloc_localizer/load_map")
    assert answer.success and str(other) in answer.message
    live.drive(lambda: states[-1].data == "LOCALIZED" and live.values().get("map") not in ("", old), "the other map")

    # Parameters: described, ranged, refused with a reason, the backend's own shown.
    description = live.describe_parameter("transform_tolerance")
    assert "ahead" in description.description
    assert description.floating_point_range[0].to_value == 10.0
    assert live.describe_parameter("autostart").read_only
    for name, value, reason in (
        ("tf_mode", "sideways", "map_odom"),
        ("transform_tolerance", -1.0, "range"),
        ("base_frame", "map", "three different names"),
        ("tf_rate", "fast", "type"),
        ("autostart", False, "read-only"),
        ("camera_extrinsics", [1.0, 2.0], "7"),
    ):
        result = live.set_parameter(name, value)
        assert not result.successful and reason in result.reason.lower(), (name, result.reason)
    assert live.set_parameter("camera_extrinsics", [1.0, 0.0, 1.5, -0.5, 0.5, -0.5, 0.5]).successful
    assert live.get_parameter("fake.delay_s").double_value == pytest.approx(0.001)
    assert live.get_parameter("fake.broken").bool_value is False


def test_initial_pose_in_any_frame(live):
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from ros_harness import time_message

    node = live.start_node()
    live.wait_state("active")
    states, poses = live.states(), live.poses()
    live.drive(lambda: len(poses) >= 3, "poses", odom=2.0)
    publisher = live.publisher(PoseWithCovarianceStamped, "/initialpose")
    live.until(lambda: publisher.get_subscription_count(), "a subscriber of initialpose")

    def give(frame, x, stamp):
        message = PoseWithCovarianceStamped()
        message.header.frame_id, message.header.stamp = frame, time_message(stamp)
        message.pose.pose.position.x, message.pose.pose.position.y = x, 3.0
        message.pose.pose.orientation.w = 1.0
        message.pose.covariance[0] = message.pose.covariance[7] = message.pose.covariance[14] = 0.25
        message.pose.covariance[21] = message.pose.covariance[28] = message.pose.covariance[35] = 0.05
        publisher.publish(message)

    give("map", 5.0, 0)
    live.until(lambda: "initial pose: x 5.00 y 3.00 in map" in node.text, "the pose in map")
    live.drive(lambda: states[-1].data == "LOCALIZED", "a fix", odom=2.0)
    give("odom", 2.0, live.stamp)  # odom is 3 m off along x
    live.until(lambda: node.text.count("initial pose: x") == 2, "the pose in odom")
    x = float(node.text.rsplit("initial pose: x ", 1)[1].split()[0])
    assert x == pytest.approx(5.0, abs=0.1)
    live.drive(lambda: states[-1].data == "LOCALIZED", "a fix", odom=2.0)
    give("nowhere", 2.0, live.stamp)
    live.until(lambda: "TF does not connect its frame 'nowhere'" in node.text, "the refusal")
    # The window holds: a confident estimate elsewhere is not published while the user's pose stands.
    give("map", 20.0, 0)
    live.until(lambda: node.text.count("initial pose: x") == 3, "the wrong pose")
    live.drive(lambda: states[-1].data == "INITIALIZING", "INITIALIZING", odom=2.0)
    count = len(poses)
    for _ in range(5):
        live.frame(odom=2.0)
    live.until(lambda: live.value("tracker_jump") > 0, "a rejected estimate")
    assert len(poses) == count


def test_the_last_pose_is_restored(live):
    file = live.tmp_path / "pose.json"
    node = live.start_node(pose_file=file)
    live.wait_state("active")
    poses = live.poses()
    live.drive(lambda: len(poses) >= 3, "poses")
    node.interrupt()
    assert node.wait() == 0
    assert file.is_file()
    again = live.start_node(pose_file=file)
    live.wait_state("active")
    live.until(lambda: f"search starts at the pose of {file}" in again.text, "the restored pose")
    before = len(poses)
    live.drive(lambda: len(poses) > before, "poses after the restart")


def test_what_ends_a_silence_is_sent_at_its_stamp_and_ahead(live):
    """Between a first transform at the image's stamp and the timer's next one every look-up would extrapolate."""
    import numpy as np

    from vloc_ros.nodes.tf_broadcast import TfBroadcast
    from vloc_ros.tracking.correction import Correction
    from vloc_ros.tracking.smoothing import SmoothCorrection

    sent = []
    made = TfBroadcast(
        "map_odom", ("map", "odom", "base_link"), sent.append, lambda message: None, SmoothCorrection(0.0, 2.0, 20.0)
    )
    known = Correction(np.eye(4), np.eye(4), np.zeros(6))
    made.tick(10**9, 0.5)
    assert not sent and made.correct(known, 2 * 10**9, int(2.1e9))
    made.tick(int(2.1e9), 0.5)
    assert not made.correct(known, 3 * 10**9, int(3.1e9))
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in sent]
    assert np.allclose(stamps, [2.0, 2.6])
    made.silence()
    assert made.correct(known, 4 * 10**9, int(4.1e9)) and len(sent) == 3


def test_the_first_fix_is_found_by_look_ups_at_once(live):
    """The timer of map -> odom is slow here: the transform ahead does not wait for it."""
    live.start_node(tf_rate=0.1, transform_tolerance=5.0)
    live.wait_state("active")
    poses = live.poses()
    live.drive(lambda: poses, "a pose")

    def ahead():
        found = [t.header.stamp.sec for t in live.sent_tf if t.child_frame_id == "odom"]
        return found and max(found) - poses[0].header.stamp.sec >= 4

    live.until(ahead, "a transform ahead of now", 3.0)
