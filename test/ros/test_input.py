"""What the world sends that it should not, and how the node tells. Needs a ROS 2; see conftest.py."""

from __future__ import annotations

import time


def test_bad_maps_leave_it_unconfigured_and_it_says_why(live):
    truncated, altered, version, other = (live.session.make_map(f"bad_{i}") for i in range(4))
    weights = truncated / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    data = bytearray((altered / "weights.safetensors").read_bytes())
    data[-1] ^= 0xFF
    (altered / "weights.safetensors").write_bytes(bytes(data))
    edits = ((version, "format_version: 1", "format_version: 99"), (other, "backend: fake", "backend: x"))
    for folder, old, new in edits:
        manifest = folder / "map.yaml"
        assert old in manifest.read_text()
        manifest.write_text(manifest.read_text().replace(old, new))
    broken = live.session.make_map("bad_warm_up", broken=True)
    empty = live.tmp_path / "empty"
    empty.mkdir()

    node = live.start_node(map=truncated)
    live.until(lambda: "cannot configure" in node.text, "the reason", 60)
    assert live.lifecycle() == "unconfigured"
    live.until(lambda: live.values().get("level") == "2", "ERROR in the diagnostics")
    assert live.values()["message"].startswith("unconfigured: MapChecksumError")
    for folder, error in (
        (truncated, "weights.safetensors"),
        (altered, "SHA-256"),
        (version, "99"),
        (other, "'x'"),
        (empty, "map.yaml"),
        (live.tmp_path / "nothing", "nothing"),
        (broken, "broken on purpose"),
        ("", "set the parameter map"),
    ):
        assert live.set_parameter("map", str(folder)).successful
        answer = live.trigger("/vloc_localizer/load_map")
        assert not answer.success and error in answer.message, (folder, answer.message)
        assert live.lifecycle() == "unconfigured"
    assert live.set_parameter("map", str(live.session.map)).successful
    assert live.set_parameter("backend", "imposing").successful
    answer = live.trigger("/vloc_localizer/load_map")
    assert not answer.success and "imposing" in answer.message
    assert live.set_parameter("backend", "").successful
    assert live.trigger("/vloc_localizer/load_map").success
    live.wait_state("active")
    poses = live.poses()
    live.drive(lambda: poses, "a pose after all")


def test_bad_frames_are_counted_and_nothing_is_published(live):
    import numpy as np
    import vloc_fake_backend

    live.start_node()
    live.wait_state("active")
    poses = live.poses()
    live.static_camera()
    good = vloc_fake_backend.paint(6.0, 3.0)

    def refused(reason, send):
        before = live.value(f"refused_{reason}")

        def again():
            live.stamp = max(live.stamp + 1, live.node.get_clock().now().nanoseconds)
            send(live.stamp)
            return live.value(f"refused_{reason}") > before

        for _ in range(100):
            if again():
                return
            time.sleep(0.05)
        raise AssertionError(f"{reason} was not counted: {live.values()}")

    refused("no_camera_info", lambda s: live.image(s, good))
    refused("bad_camera_info", lambda s: (live.camera_info(s, focal=float("nan")), live.image(s, good)))
    refused("bad_camera_info", lambda s: (live.camera_info(s, focal=0.0), live.image(s, good)))
    refused("camera_mismatch", lambda s: (live.camera_info(s, focal=150.0), live.image(s, good)))
    live.camera_info(live.stamp)
    refused("bad_image", lambda s: (live.camera_info(s), live.image(s, good, step=7)))
    refused("bad_image", lambda s: live.image(s, good, encoding="surprise"))
    refused("bad_image", lambda s: live.image(s, good, width=0, height=0))
    refused("bad_image", lambda s: live.image(s, good[:20]))
    refused("blank_image", lambda s: live.image(s, np.zeros_like(good)))
    refused("blank_image", lambda s: live.image(s, np.full_like(good, 90)))
    refused("bad_transform", lambda s: live.image(s, good, header=_header(s, "no_such_camera")))
    refused("stamp_zero", lambda s: live.image(0, good))
    assert not poses
    assert "refused" in live.values()["message"]

    live.drive(lambda: len(poses) >= 3, "poses after all that")
    last = live.stamp
    count = len(poses)
    refused("stamp_repeated", lambda s: live.image(last, good))
    refused("stamp_out_of_order", lambda s: live.image(last - 50_000_000, good))
    refused("stale", lambda s: live.image(live.node.get_clock().now().nanoseconds - 5 * 10**9, good))
    assert len(poses) == count
    # Another resolution of the same lens is the same camera.
    double = np.repeat(np.repeat(good, 2, axis=0), 2, axis=1)
    before = len(poses)
    for _ in range(100):
        live.stamp = max(live.stamp + 1, live.node.get_clock().now().nanoseconds)
        live.odometry(live.stamp, 0.0)
        live.camera_info(live.stamp, focal=100.0, width=128, height=96)
        live.image(live.stamp, double)
        if len(poses) > before:
            break
        time.sleep(0.1)
    assert len(poses) > before


def _header(stamp, frame):
    from ros_harness import time_message
    from std_msgs.msg import Header

    return Header(stamp=time_message(stamp), frame_id=frame)


def test_lost_means_silence(live):
    live.start_node(**{"tracker.lost_after_frames": 5})
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    live.drive(lambda: len(poses) >= 3, "poses")
    live.drive(lambda: states[-1].data == "LOST", "LOST", confident=False)
    assert live.values()
    count = len(poses)
    live.sent_tf.clear()
    live.drive(lambda: live.values().get("message", "").startswith("lost"), "ERROR in the diagnostics", confident=False)
    for _ in range(5):
        live.frame(confident=False)
    assert len(poses) == count
    assert [t for t in live.sent_tf if t.header.frame_id == "map"] == []
    live.drive(lambda: states[-1].data == "LOCALIZED", "recovery")
    # A camera that falls silent is lost too.
    live.until(lambda: states[-1].data == "LOST", "LOST after silence")


def test_only_the_newest_frame_is_worked_on(live):
    live.start_node(image_transport="compressed", **{"fake.delay_s": 0.3})
    live.wait_state("active")
    poses = live.poses()
    stamps = live.drive(lambda: len(poses) >= 5, "poses", period=0.03, compressed=True, timeout=40)
    live.until(lambda: live.value("frames_dropped") > len(stamps) / 3, "dropped frames")
    assert len(poses) < len(stamps) / 2
    assert float(live.values()["seconds_since_frame"]) < 3


def test_a_reliable_subscription_says_why_it_gets_nothing(live):
    node = live.start_node(image_qos="reliable", no_image_warning=0.5)
    live.wait_state("active")
    live.drive(lambda: "set image_qos to best_effort" in node.text, "the hint")
    assert "no image on /camera/image" in node.text
    live.until(lambda: live.values().get("level") == "2", "ERROR in the diagnostics")
    assert "set image_qos to best_effort" in live.values()["message"]


def test_silence_is_explained_and_again_when_its_reason_changes(live):
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    node = live.start_node(no_image_warning=0.5)
    live.wait_state("active")

    def told(*words):
        values = live.values()
        return values.get("level") == "2" and all(word in values["message"] for word in words)

    live.until(lambda: told("no image on /camera/image: nobody publishes it", "ros2 topic list"), "that nobody sends")
    elsewhere = live.publisher(Image, "/other/image")
    live.until(lambda: told("sensor_msgs/msg/Image is on /other/image: remap"), "where images are")
    compressed = live.publisher(CompressedImage, "/camera/image/compressed")
    live.until(lambda: told("set image_transport to compressed"), "the other transport")
    wrong = live.publisher(CompressedImage, "/camera/image")
    live.until(lambda: told("publishes sensor_msgs/msg/CompressedImage on it", "set image_transport"), "the type")
    for publisher in (elsewhere, compressed, wrong):
        live.node.destroy_publisher(publisher)
    silent = live.node.create_publisher(Image, "/camera/image", 5)
    live.until(lambda: told("/vehicle fits and sends nothing", "rmem_max", "docs/ros.md"), "the buffers")
    live.node.destroy_publisher(silent)
    assert node.text.count("no image on /camera/image: ") >= 5, "each reason is in the log"

    # Images alone are no frames.
    deadline = time.monotonic() + 20
    while not told("no camera_info on /camera/camera_info: nobody publishes it"):
        assert time.monotonic() < deadline, live.values()
        live.image(time.time_ns(), live.paint())
        time.sleep(0.05)
    live.publisher(CameraInfo, "/camera/camera_info")
    poses = live.poses()
    live.drive(lambda: len(poses) >= 3 and live.values().get("level") == "0", "poses, and no complaint")
    rival = live.node.create_publisher(Image, "/camera/image", 5)
    live.drive(lambda: "2 publishers on /camera/image" in live.values()["message"], "the second publisher")
    assert live.values()["level"] == "1"
    live.node.destroy_publisher(rival)
    live.drive(lambda: live.values().get("level") == "0", "the end of it")

    # What acts only at the next configure says so.
    assert live.set_parameter("tf_timeout", 0.1).successful and live.set_parameter("tf_rate", 10.0).successful
    live.until(lambda: "tf_rate: accepted. Takes effect: next configure." in node.text, "when it takes effect")
    assert "tf_timeout: accepted" not in node.text
    assert "Takes effect: next configure." in live.describe_parameter("tf_rate").description


def test_a_stuck_camera_is_named_at_once_and_clears_by_itself(live):
    """The same picture while the odometry moves; and diagnostics that come once in five seconds do not wait."""
    node = live.start_node(diagnostics_period=5.0)
    live.wait_state("active")
    poses, states, pixels = live.poses(), live.states(), live.paint()
    live.drive(lambda: len(poses) >= 3, "poses", odom=0.0)
    count, began, named, x = len(poses), time.monotonic(), None, 0.0
    while states[-1].data != "LOST":
        assert time.monotonic() - began < 20, live.values()
        x += 0.1
        stamp = live.stamp = time.time_ns()
        live.odometry(stamp, x)
        live.camera_info(stamp)
        live.image(stamp, pixels)
        time.sleep(0.05)
        if named is None and "stuck" in live.values().get("message", ""):
            named = time.monotonic() - began
    # Half a second of repeats, the time to look, and a machine that may be busy.
    assert named is not None and named < 3.0 and live.values()["level"] == "2"
    assert "repeated_image" in node.text
    assert len(poses) <= count + 2, "the picture was new once"
    live.drive(lambda: states[-1].data == "LOCALIZED" and "stuck" not in live.values()["message"], "recovery", odom=x)


def test_odometry_that_has_gone_silent_is_not_waited_for(live):
    """Each frame would wait for it in vain, 5 s here, and the frames behind it would be dropped."""
    live.start_node(tf_timeout=5.0)
    live.wait_state("active")
    poses = live.poses()
    live.drive(lambda: len(poses) >= 2, "poses", odom=0.0)
    time.sleep(1.5)  # nothing moves any more
    count, began = len(poses), time.monotonic()
    live.drive(lambda: len(poses) >= count + 4, "poses without odometry", odom=None)
    assert time.monotonic() - began < 10.0


def test_binned_images_whose_intrinsics_are_binned_already(live):
    """A driver that states a binning beside the size and intrinsics of the binned image: the same live as in a bag."""
    live.start_node()
    live.wait_state("active")
    poses = live.poses()
    live.static_camera()
    deadline = time.monotonic() + 20
    while len(poses) < 2:
        assert time.monotonic() < deadline, live.values()
        stamp = live.stamp = time.time_ns()
        live.odometry(stamp, 0.0)
        live.camera_info(stamp, binning_x=2, binning_y=2)
        live.image(stamp, live.paint())
        time.sleep(0.05)


def test_a_mounting_that_moves_is_read_at_the_stamp(live):
    """The camera is 1 m ahead of the base at the first image's stamp; TF says 3 m a little later."""
    from ros_harness import CAMERA_XYZW, stamp_of, transform
    from tf2_msgs.msg import TFMessage

    live.start_node(tf_timeout=0.5)
    live.wait_state("active")
    poses = live.poses()
    tf = live.publisher(TFMessage, "/tf", 100)
    deadline = time.monotonic() + 20
    while len(poses) < 4:
        assert time.monotonic() < deadline, live.values()
        stamp = live.stamp = time.time_ns()
        live.odometry(stamp, 0.0)
        live.camera_info(stamp)
        for after, x in ((0, 1.0), (50_000_000, 3.0)):
            place = transform("base_link", "camera_optical_frame", stamp + after, (x, 0.0, 1.5), CAMERA_XYZW)
            tf.publish(TFMessage(transforms=[place]))
        live.image(stamp, live.paint())
        time.sleep(0.15)
    assert {round(p.pose.pose.position.x, 1) for p in poses if stamp_of(p)} == {5.0}


def test_simulated_time_that_jumps_back(live):
    from ros_harness import stamp_of

    node = live.start_node(use_sim_time=True, **{"tf_timeout": 0.5})
    live.wait_state("active")
    live.until(
        lambda: "no /clock arrives: nobody publishes it" in live.values().get("message", ""), "the clock's absence"
    )
    assert live.values()["level"] == "2"
    poses, states = live.poses(), live.states()
    live.static_camera()

    def play(start_s, condition, what):
        for step in range(400):
            stamp = start_s * 10**9 + step * 10**8
            live.clock(stamp)
            live.frame(stamp=stamp)
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"no {what}: {live.values()}\n{node.text[-3000:]}")

    play(1000, lambda: len(poses) >= 5, "poses")
    assert all(1000 <= stamp_of(p) * 1e-9 < 1100 for p in poses)
    live.buffer.clear()
    # A frame from before the jump may still be at work during it.
    play(500, lambda: sum(stamp_of(p) < 600 * 10**9 for p in list(poses)) >= 5, "poses after the jump")
    seconds = [stamp_of(p) * 1e-9 for p in poses]
    after = next(i for i, s in enumerate(seconds) if s < 600)
    assert all(500 <= s < 600 for s in seconds[after:]), seconds
    assert "the clock went back" in node.text
    live.until(lambda: live.value("clock_jumps") == 1, "the count of jumps")
    assert states[-1].data == "LOCALIZED"
    sent = [stamp_of(t) * 1e-9 for t in live.sent_tf if t.child_frame_id == "odom" and t.header.frame_id == "map"]
    assert any(1000 <= s < 1100 for s in sent), sent
    assert any(500 <= s < 600 for s in sent), f"{sent} {live.values()} {node.text}"
