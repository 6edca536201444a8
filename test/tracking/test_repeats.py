from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.tracking import PictureMemory, TrackerSettings

SECOND = 1_000_000_000
WORLD = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(120, 4000, 1)), (0, 0), 3.0)
WORLD = np.clip(128 + 60 * WORLD / WORLD.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def view(metres: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """What a camera sees that passes a wall: 20 pixels a metre."""
    image = WORLD[:, round(20 * metres) :][:, :160].astype(float)
    return np.clip(image + np.random.default_rng(seed).normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def odometry(metres: float, turned_deg: float = 0.0) -> np.ndarray:
    return make_transform(so3_exp([0.0, 0.0, np.radians(turned_deg)]), [metres, 0.0, 0.0])


@pytest.fixture
def memory() -> PictureMemory:
    return PictureMemory(TrackerSettings())


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("with_odometry", [True, False])
@pytest.mark.parametrize("speed", [0.3, 2.0, 10.0])
def test_a_drive_is_all_news(memory, with_odometry, speed):
    for k in range(60):
        x = speed * k / 10
        T = odometry(x) if with_odometry else None
        assert memory.judge(view(x, 1.0, k), SECOND + k * SECOND // 10, T, speed) is None
        assert memory.repeated_s == 0.0 and not memory.stuck


@pytest.mark.parametrize("with_odometry", [True, False])
def test_the_same_picture_with_new_stamps(memory, with_odometry):
    image = view(0.0, 1.0)
    for k in range(20):
        T = odometry(k * 0.1) if with_odometry else None
        why = memory.judge(image, SECOND + k * SECOND // 10, T, 1.0)
        assert (why is None) == (k == 0)
        assert memory.repeated_s == pytest.approx(k / 10)
        assert memory.stuck == (k > 5) and not (memory.stuck and memory.standing)
        if why:
            assert ("moved" if with_odometry else "no odometry") in why
    assert memory.judge(view(1.9, 1.0, 7), SECOND * 3, odometry(1.9), 1.0) is None
    assert memory.repeated_s == 0.0 and not memory.stuck


def test_creeping_adds_up(memory):
    """A millimetre a frame is no motion, twenty are."""
    image = view(0.0)
    found = [memory.judge(image, SECOND + k * SECOND // 30, odometry(0.001 * k)) for k in range(2000)]
    assert found[0] is None and found[5] is None
    assert found[-1] is not None and "moved" in found[-1]


def test_turning_on_the_spot_is_motion(memory):
    image = view(0.0)
    assert memory.judge(image, SECOND, odometry(0.0)) is None
    assert "turned" in str(memory.judge(image, SECOND + SECOND // 10, odometry(0.0, 1.0)))


def test_a_picture_of_a_while_ago_in_turn_with_others(memory):
    for k in range(8):
        assert memory.judge(view(0.5 * k), SECOND + k * SECOND // 10, None) is None
    for k in range(8, 20):
        assert memory.judge(view(0.5 * (4 + k % 4)), SECOND + k * SECOND // 10, None) is not None
    assert memory.stuck


@pytest.mark.parametrize("change", ["noise", "jpeg"])
def test_a_picture_that_stays_but_for_noise_while_the_odometry_moves(memory, change):
    for k in range(40):
        image = view(0.0, 2.0, k) if change == "noise" else recompressed(view(0.0), 60 + k % 30)
        why = memory.judge(image, SECOND + k * SECOND // 10, odometry(0.1 * k))
        assert (why is not None) == (k >= 4), (k, why)
    assert memory.stuck and not memory.standing


def test_no_vehicle_stops_between_two_frames(memory):
    """Without odometry: at 10 m/s a picture that stays is a stuck camera's, and goes on being one."""
    for k in range(10):
        assert memory.judge(view(k * 1.0, 1.0, k), SECOND + k * SECOND // 10, None, 10.0) is None
    for k in range(10, 60):
        why = memory.judge(view(9.0, 1.0, k), SECOND + k * SECOND // 10, None, 10.0 if k == 10 else 0.0)
        assert why is not None and "10.0 m/s" in why
    assert memory.judge(view(9.5, 1.0, 99), SECOND * 9, None, 0.0) is None


@pytest.mark.parametrize("with_odometry", [True, False])
def test_a_vehicle_that_stops_keeps_what_it_sees(memory, with_odometry):
    """Braking at 4 m/s^2 from 8 m/s, then standing for a minute: the noise of its pictures is life."""
    x, speed = 0.0, 8.0
    for k in range(700):
        if k > 20:
            speed = max(0.0, speed - 0.4)
        x += speed * 0.1
        T = odometry(x) if with_odometry else None
        assert memory.judge(view(x, 1.0, k), SECOND + k * SECOND // 10, T, speed) is None, k
        assert not memory.stuck


def test_a_camera_without_noise(memory):
    """Its vehicle may stand as long as the odometry says so; then it is said, and costs nothing."""
    for k in range(100):
        assert memory.judge(view(3.0), SECOND + k * SECOND // 10, odometry(3.0)) is None
    assert memory.stuck and memory.standing
    assert memory.judge(view(3.0), SECOND * 20, None) is not None, "without odometry it cannot be told from a stuck one"
    assert memory.judge(view(3.5), SECOND * 21, odometry(3.5)) is None


def test_dark_pictures_are_told_apart_by_their_own_contrast(memory):
    for k in range(30):
        dark = (view(0.5 * k) / 12).astype(np.uint8)
        assert memory.judge(dark, SECOND + k * SECOND // 10, odometry(0.5 * k)) is None, k


def test_any_size(memory):
    random = np.random.default_rng(0)
    for k, shape in enumerate([(1, 1, 3), (48, 64, 3), (49, 63, 3), (20, 3000, 3), (1080, 1920, 3)]):
        assert memory.judge(random.integers(0, 256, shape, dtype=np.uint8), SECOND + k, None) is None
    memory.clear()
    assert memory.repeated_s == 0.0
