"""What tests of data-set readers write: poses that mean nothing and are exact, and images of some pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.se3 import se3_exp


def poses(count: int, seed: int = 0, spread_m: float = 3.0) -> np.ndarray:
    """(count, 4, 4) transforms of every orientation."""
    rng = np.random.default_rng(seed)
    xi = np.concatenate([rng.uniform(-spread_m, spread_m, (count, 3)), rng.uniform(-1.8, 1.8, (count, 3))], axis=1)
    return se3_exp(xi)


def wxyz(T: np.ndarray) -> list[float]:
    """The rotation as a w-first quaternion."""
    x, y, z, w = (float(v) for v in matrix_to_quaternion(T[:3, :3]))
    return [w, x, y, z]


def text(values, separator: str = " ") -> str:
    """Numbers with every digit."""
    return separator.join(repr(float(v)) for v in values)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    """Write an image (width, height), and return it as RGB."""
    image = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return image[..., ::-1]


def same_drive(back: PosedSequence, drive: PosedSequence) -> None:
    """Stamps to the nanosecond, poses to 1e-9, every image bit by bit, and the camera."""
    np.testing.assert_array_equal(back.stamps_ns, drive.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, drive.T_map_cam, atol=1e-9)
    for index in range(len(drive)):
        np.testing.assert_array_equal(back.image(index), drive.image(index))
    np.testing.assert_array_equal(back.camera.K, drive.camera.K)
    assert back.camera.size == drive.camera.size and back.camera.is_distorted == drive.camera.is_distorted
    if drive.camera.is_distorted:  # a bag says "no distortion" as five zeros
        assert back.camera == drive.camera


def truncate(path: Path) -> None:
    """Leave the first quarter of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 4])
