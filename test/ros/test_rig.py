"""Several cameras at one node: together, in turn, and each of the ways in which one of them can fail."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIDE_Y = 0.8


def documented(live):
    """The node's topics, services and parameters are those of the documentation, and the reverse."""
    page = (ROOT / "docs/ros.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page[page.index("## Topics") : page.index("## Lifecycle")], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    prefix = "/vloc_localizer/"
    node = live.node

    def names(found):
        return {name.replace(prefix, "~/") for name, _ in found}

    out = names(node.get_publisher_names_and_types_by_node("vloc_localizer", "/"))
    into = names(node.get_subscriber_names_and_types_by_node("vloc_localizer", "/"))
    services = names(node.get_service_names_and_types_by_node("vloc_localizer", "/"))
    own = {"/rosout", "/parameter_events", "~/transition_event", "/clock", "/bond"}
    told_in = {"image", "camera_info", "initialpose", "fix", "/tf", "/tf_static"}
    cameras = {"/camera/image": "image", "/side/image": "image"}
    cameras |= {"/camera/camera_info": "camera_info", "/side/camera_info": "camera_info"}
    assert {
        cameras.get(name, name.lstrip("/") if name.lstrip("/") in told_in else name) for name in into
    } - own == told_in
    assert out - own == {n for n in named if n not in told_in and n not in services} | {"/tf"}
    of_rclpy = ("get_", "set_", "list_", "describe_", "change_")
    assert {s for s in services if not s.removeprefix("~/").startswith(of_rclpy)} == named - out - told_in
    table = (ROOT / "docs/parameters.md").read_text(encoding="utf-8").partition("## Parameters of a backend")[0]
    written = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    expected = {n.replace("<name>", c) for n in written for c in ("front", "side")}
    declared = {n for n in live.list_parameters() if not n.startswith(("fake.", "use_sim_time", "start_type", "qos_"))}
    assert declared == expected


def test_a_rig_goes_on_while_one_camera_fails(live):
    import vloc_fake_backend
    from lifecycle_msgs.msg import Transition
    from ros_harness import CAMERA_XYZ, CAMERA_XYZW, TFMessage, stamp_of, transform

    node = live.start_node(
        cameras='["front", "side"]',
        bond=True,
        **{"camera.front.image": "/camera/image", "camera.side.image": "/side/image", "rig_timeout": 0.4},
    )
    live.wait_state("active")
    from bond.msg import Status

    beats = live.hear(Status, "/bond")
    live.until(lambda: len(beats) >= 2, "the heartbeats that a lifecycle manager waits for")
    assert {(b.id, b.active) for b in beats} == {("vloc_localizer", True)} and beats[0].heartbeat_timeout == 4.0
    poses, states = live.poses(), live.states()
    count = [0]

    def both(side="seen", frame="", info=True, apart_s=0.0):
        """One moment of both cameras; ``side`` is what the second one shows."""
        count[0] += 1
        stamp = live.frame()
        if side == "silent":
            return
        pixels = vloc_fake_backend.paint(5.0 + CAMERA_XYZ[0], 3.0 + SIDE_Y, True)
        pixels = pixels * 0 if side == "black" else pixels
        live.other_camera("side", stamp + 2_000_000 - int(apart_s * 1e9), pixels, frame, info)

    def until(condition, what, **how):
        live.static_camera()
        live.until(lambda: (both(**how), live.until_soon(0.08), condition())[-1], what)

    def told(text):
        return lambda: text in live.values().get("camera_side", "")

    # What the start may lack: intrinsics, then a place; the front camera does not wait for either.
    until(lambda: len(poses) >= 2, "poses of the front camera", info=False)
    until(told("no_camera_info"), "a camera without intrinsics named", info=False)
    until(told("expected TF to connect base_link with side_optical_frame"), "a camera without extrinsics named")
    until(told("which is camera front's"), "cameras that share a frame", frame="camera_optical_frame")
    live._static.publish(
        TFMessage(
            transforms=[
                transform("base_link", "camera_optical_frame", 0, CAMERA_XYZ, CAMERA_XYZW),
                transform("base_link", "side_optical_frame", 0, (CAMERA_XYZ[0], SIDE_Y, CAMERA_XYZ[2]), CAMERA_XYZW),
            ]
        )
    )
    until(lambda: live.values().get("camera_side") == "used" and live.values()["level"] == "0", "both cameras")
    assert live.values()["estimate_rig_fused"] == "2" and states[-1].data == "LOCALIZED"
    x, y = poses[-1].pose.pose.position.x, poses[-1].pose.pose.position.y
    assert abs(x - 5.0) < 0.1 and abs(y - 3.0) < 0.1

    # A blinded camera, a silent one, one of another clock: no frame is lost, each is named, and it comes back.
    for how, text in (
        ({"side": "black"}, "blank_image"),
        ({"side": "silent"}, "no image for"),
        ({"apart_s": 0.05}, "from those of the others"),
    ):
        before, first = count[0], len(poses)
        until(told(text), text, **how)
        assert live.values()["level"] == "1" and "camera side is left out" in live.values()["message"]
        until(lambda: live.values().get("camera_side") == "used", f"the camera back after {text}")
        live.until(lambda f=first, b=before: len(poses) - f >= 0.8 * (count[0] - b) - 2, "a pose for each moment")
        assert states[-1].data == "LOCALIZED"
    stamps = [stamp_of(p) for p in poses]
    assert stamps == sorted(set(stamps))

    # Points of the map once for everybody who asks, matched ones with each frame; nothing before.
    from sensor_msgs.msg import PointCloud2
    from sensor_msgs_py import point_cloud2

    points = live.hear(PointCloud2, "/vloc_localizer/map_points", latched=True)
    matches, drawn = live.hear(PointCloud2, "/vloc_localizer/matches"), live.debug_images()
    until(lambda: points and matches and drawn, "clouds and a debug image", side="silent")
    assert point_cloud2.read_points_numpy(points[0]).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert points[0].header.frame_id == "map" == matches[0].header.frame_id and len(points) == 1
    assert [tuple(row) for row in point_cloud2.read_points(matches[-1])] == [(1.0, 2.0, 3.0, 7.0, 8.0, 0)]
    assert stamp_of(matches[-1]) in {stamp_of(p) for p in poses}
    assert drawn[-1].encoding == "rgb8" and drawn[-1].header.frame_id == "camera_optical_frame"
    # An encoding that the core does not know (a thermal camera's) is cv_bridge's.
    thermal = np.random.default_rng(0).uniform(280.0, 310.0, (48, 64)).astype(np.float32)
    before = live.value("camera_side_left_out")

    def warm():
        stamp = live.frame()
        live.other_camera("side", stamp + 2_000_000, thermal + len(live.sent_tf), encoding="32FC1", step=256)
        live.until_soon(0.08)
        return live.values().get("camera_side") == "used" and live.value("frames") > frames + 4

    frames = live.value("frames")
    live.until(warm, "a thermal camera in use")
    assert before == live.value("camera_side_left_out")

    # Satellites: the pose on the Earth, and a fix that cannot be.
    from ros_harness import DATUM, time_message
    from sensor_msgs.msg import NavSatFix

    from vloc_ros.geometry.geodesy import Datum

    fixes = live.hear(NavSatFix, "/vloc_localizer/fix")
    until(lambda: fixes, "a fix of the vehicle", side="silent")
    enu = DATUM.to_enu(fixes[-1].latitude, fixes[-1].longitude, fixes[-1].altitude)
    assert np.abs(enu[:2] - (5.0, 3.0)).max() < 0.1 and fixes[-1].header.frame_id == "base_link"
    assert fixes[-1].position_covariance_type == NavSatFix.COVARIANCE_TYPE_KNOWN
    assert np.allclose(
        np.diag(np.reshape(fixes[-1].position_covariance, (3, 3))), poses[-1].pose.covariance[0], rtol=0.5
    )

    def heard(datum, text):
        message = NavSatFix(latitude=datum.latitude_deg, longitude=datum.longitude_deg, altitude=datum.altitude_m)
        message.header.stamp, message.status.status = time_message(live.stamp), 0
        live.publisher(NavSatFix, "/fix").publish(message)
        return text in live.values()["message"] if text else "fix_problem" not in live.values()

    until(lambda: heard(Datum(47.0, 11.0, 500.0), "m outside the map's area"), "a fix far away", side="silent")
    until(
        lambda: heard(Datum(*map(float, DATUM.to_geodetic(np.array([8.0, 3.0, 0.0])))), ""), "a good fix", side="silent"
    )

    documented(live)

    # In turn: each frame is one camera's, and both have theirs.
    assert live.set_parameter("rig_mode", "in_turn").successful
    for step in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        assert live.change_state(getattr(Transition, f"TRANSITION_{step}"))
    live.until(lambda: any(not b.active for b in beats), "the bond ended by the deactivation")
    live.until(lambda: len({b.instance_id for b in beats}) == 2, "the bond of the new activation")
    poses.clear()
    until(lambda: len(poses) >= 6, "poses in turn")
    offsets = {stamp_of(p) % 10 for p in poses}
    assert "estimate_rig_fused" not in live.values() and offsets
    assert all(abs(p.pose.pose.position.y - 3.0) < 0.1 for p in poses)
    assert node.popen.poll() is None
