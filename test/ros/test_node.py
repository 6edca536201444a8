"""The live node: topics, TF modes, services, bad input. Needs a ROS 2; see conftest.py."""

from __future__ import annotations

import pytest


def test_a_pose_for_every_frame_at_its_stamp(live):
    from ros_harness import stamp_of

    node = live.start_node()
    live.wait_state("active")
    poses, states = live.poses(), live.states()
    live.drive(lambda: len(poses) >= 3, "first poses")
    before = len(poses)
    stamps = live.drive(lambda: len(poses) >= before + 10, "poses")
    sent, heard = set(stamps), [stamp_of(p) for p in poses]
    assert len(set(heard)) == len(heard), "a stamp was published twice"
    # Every frame but those that were on their way when the counting began and ended.
    assert len(sent - set(heard)) <= 2
    pose = poses[-1]
    assert pose.header.frame_id == "map"
    assert pose.pose.pose.position.x == pytest.approx(5.0, abs=0.06)
    assert pose.pose.pose.position.y == pytest.approx(3.0, abs=0.06)
    assert pose.pose.pose.position.z == pytest.approx(0.0, abs=0.01)
    assert abs(pose.pose.pose.orientation.w) == pytest.approx(1.0, abs=1e-6)
    covariance = pose.pose.covariance.reshape(6, 6)
    assert covariance[0, 0] > 0 and (abs(covariance - covariance.T) < 1e-9).all()
    assert [s.data for s in states][-1] == "LOCALIZED"
    node.interrupt()
    assert node.wait() == 0
    assert "Traceback" not in node.text
