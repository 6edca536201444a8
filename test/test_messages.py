"""Accessors read every spelling, and refuse what is not a pose."""

from __future__ import annotations

from array import array
from types import SimpleNamespace as Message

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import CameraError, GeometryError
from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp
from vloc_ros.messages import (
    camera_model,
    message_image,
    pose_covariance,
    raw_image,
    satellite_fix,
    stamp_ns,
    transform,
)


@pytest.mark.parametrize("names", [("sec", "nanosec"), ("secs", "nsecs")])
def test_stamps_of_both_worlds(names):
    time = Message(**dict(zip(names, (1_700_000_000, 123_456_789), strict=True)))
    expected = 1_700_000_000_123_456_789
    assert stamp_ns(time) == stamp_ns(Message(stamp=time)) == stamp_ns(Message(header=Message(stamp=time))) == expected


def info(upper: bool, **changes):
    values = {"d": [0.1, 0.2, 0.0, 0.0, 0.0], "k": [30.0, 0, 16, 0, 31, 9, 0, 0, 1], "r": list(np.eye(3).ravel()),
              "p": [28.0, 0, 15.5, 0, 0, 29, 8.5, 0, 0, 0, 1, 0]}  # fmt: skip
    values.update(changes)
    named = {k.upper() if upper else k: v for k, v in values.items()}
    roi = Message(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    return Message(width=32, height=18, distortion_model="plumb_bob", binning_x=0, binning_y=0, roi=roi, **named)


@pytest.mark.parametrize("upper", [True, False])
def test_camera_info_of_both_worlds(upper):
    camera = camera_model(info(upper))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (30, 31, 16, 9) and camera.distortion[:2] == (0.1, 0.2)
    rectified = camera_model(info(upper), rectified=True)
    assert (rectified.fx, rectified.cy) == (28, 8.5) and not rectified.is_distorted


def test_bad_camera_info():
    with pytest.raises(CameraError):
        camera_model(info(False, k=[0.0] * 9, p=[0.0] * 12))
    with pytest.raises(CameraError):
        camera_model(info(False, k=[float("nan"), 0, 16, 0, 31, 9, 0, 0, 1]))
    with pytest.raises(CameraError, match="camera_info"):
        camera_model(Message(width=1, height=1))


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, lambda b: array("B", b), lambda b: np.frombuffer(b, np.uint8), list]
)
def test_payloads_of_every_kind(kind):
    data = bytes(range(24))
    image = raw_image(Message(encoding="rgb8", width=4, height=2, step=12, is_bigendian=0, data=kind(data)))
    assert bytes(image.data) == data


def test_image_kinds_are_told_apart():
    assert message_image(Message(format="jpeg", data=b"x")).format == "jpeg"
    plain = Message(encoding="mono8", width=1, height=1, step=1, is_bigendian=0, data=b"x")
    assert message_image(plain).encoding == "mono8"


def xyz(values):
    return Message(x=values[0], y=values[1], z=values[2])


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_transform_of_every_wrapping(rotation, translation):
    R = so3_exp(np.array(rotation))
    q = matrix_to_quaternion(R) * 1.0001  # publishers in float32 are not quite normalised
    quaternion = Message(x=q[0], y=q[1], z=q[2], w=q[3])
    pose = Message(position=xyz(translation), orientation=quaternion)
    tf = Message(translation=xyz(translation), rotation=quaternion)
    wrapped = [
        pose,
        Message(pose=pose),
        Message(pose=Message(pose=pose, covariance=[0] * 36)),
        tf,
        Message(transform=tf),
    ]
    for message in wrapped:
        T = transform(message)
        np.testing.assert_allclose(T[:3, :3], R, atol=1e-9)
        np.testing.assert_allclose(T[:3, 3], translation)


def test_an_unset_quaternion_is_refused():
    zero = Message(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(GeometryError, match="quaternion"):
        transform(Message(position=xyz((0, 0, 0)), orientation=zero))


def test_covariance():
    C = np.diag(np.arange(1.0, 7.0))
    inner = Message(pose=None, covariance=C.ravel())
    np.testing.assert_array_equal(pose_covariance(Message(pose=inner)), C)
    assert pose_covariance(Message(pose=Message(pose=None, covariance=np.zeros(36)))) is None
    assert pose_covariance(Message(pose=Message(position=None))) is None


def test_a_satellite_fix_may_lack_a_covariance_or_be_none():
    def message(status=0, kind=2):
        return Message(
            status=Message(status=status), latitude=48.0, longitude=11.0, altitude=500.0,
            position_covariance=[4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 16.0], position_covariance_type=kind,
        )  # fmt: skip

    place, covariance = satellite_fix(message())
    assert place == (48.0, 11.0, 500.0) and np.diag(covariance).tolist() == [4.0, 4.0, 16.0]
    assert satellite_fix(message(kind=0)) == ((48.0, 11.0, 500.0), None), "unknown is not zero"
    assert satellite_fix(message(status=-1)) is None and satellite_fix(message(status=-2)) is None
