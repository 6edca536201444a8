"""Several cameras at one node: together, in turn, and each of the ways in which one of them can fail."""

from __future__ import annotations

SIDE_Y = 0.8


def test_a_rig_goes_on_while_one_camera_fails(live):
    import vloc_fake_backend
    from lifecycle_msgs.msg import Transition
    from ros_harness import CAMERA_XYZ, CAMERA_XYZW, TFMessage, stamp_of, transform

    node = live.start_node(
        cameras='["front", "side"]',
        **{"camera.front.image": "/camera/image", "camera.side.image": "/side/image", "rig_timeout": 0.4},
    )
    live.wait_state("active")
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

    # In turn: each frame is one camera's, and both have theirs.
    assert live.set_parameter("rig_mode", "in_turn").successful
    for step in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        assert live.change_state(getattr(Transition, f"TRANSITION_{step}"))
    poses.clear()
    until(lambda: len(poses) >= 6, "poses in turn")
    offsets = {stamp_of(p) % 10 for p in poses}
    assert "estimate_rig_fused" not in live.values() and offsets
    assert all(abs(p.pose.pose.position.y - 3.0) < 0.1 for p in poses)
    assert node.popen.poll() is None
