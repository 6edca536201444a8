"""An upright base for an IMU mounted any way round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vloc_ros.datasets.mounting import quarter_turn, upright_base
from vloc_ros.datasets.sequence import R_BODY_OPTICAL
from vloc_ros.geometry.rotations import rotation_angle, so3_exp

small = hnp.arrays(np.float64, 3, elements=st.floats(-0.35, 0.35))
turns = st.lists(st.sampled_from([0, 1, 2]), max_size=4)


def quarter(axes) -> np.ndarray:
    R = np.eye(3)
    for axis in axes:
        R = R @ np.round(so3_exp(np.pi / 2 * np.eye(3)[axis]))
    return R


@given(turns, small)
def test_the_nearest_quarter_turn_is_found(axes, tilt):
    np.testing.assert_array_equal(quarter_turn(quarter(axes) @ so3_exp(tilt)), quarter(axes))


@given(turns, small)
def test_the_base_is_upright_for_the_camera(axes, tilt):
    T_sensor_cam = np.eye(4)
    T_sensor_cam[:3, :3] = quarter(axes) @ so3_exp(tilt) @ R_BODY_OPTICAL
    T_sensor_cam[:3, 3] = 1.0, 2.0, 3.0
    T_base_sensor = upright_base(T_sensor_cam)
    R_base_cam = (T_base_sensor @ T_sensor_cam)[:3, :3]
    # What is left between base and camera is the tilt, and nothing else.
    assert rotation_angle(R_base_cam, R_BODY_OPTICAL) == pytest.approx(np.linalg.norm(tilt), abs=1e-7)
    np.testing.assert_array_equal(T_base_sensor[:3, 3], 0.0)
