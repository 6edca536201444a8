"""Models that COLMAP made: as drives, taken over for recorded drives, aligned, and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_street

from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.errors import CameraMismatchError, DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.se3 import inverse, se3_exp, transform_points
from vloc_ros.types import CameraModel
from vloc_train.mapping.colmap_import import ColmapSettings, import_model, open_colmap

CAMERA = tiny_street.CAMERA


def write_model(folder: Path, T: np.ndarray, names: list[str], line: str = "", seed: int = 0, turn=None) -> np.ndarray:
    """A text model of exact points in front of the poses; ``turn`` (s, T) gives it another frame. Returns points."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([
        np.stack([np.full(150, 9.0), rng.uniform(-6, 4, 150), rng.uniform(0, 4, 150)], 1),
        np.stack([rng.uniform(3, 9, 60), rng.uniform(-5, 4, 60), np.zeros(60)], 1),
    ])  # fmt: skip
    scale, move = turn or (1.0, np.eye(4))
    folder.mkdir(parents=True, exist_ok=True)
    line = line or f"PINHOLE {CAMERA.width} {CAMERA.height} {CAMERA.fx} {CAMERA.fy} {CAMERA.cx + 0.5} {CAMERA.cy + 0.5}"
    (folder / "cameras.txt").write_text(f"# cameras\n7 {line}\n")
    images, tracks = "", {}
    for i, (t, name) in enumerate(zip(T, names, strict=True)):
        pixels, valid = project(CAMERA, transform_points(inverse(t), points))
        there = move @ t
        there[:3, 3] = scale * move[:3, :3] @ t[:3, 3] + move[:3, 3]
        back = inverse(there)
        x, y, z, w = matrix_to_quaternion(back[:3, :3])
        images += f"{i + 1} {w} {x} {y} {z} {back[0, 3]} {back[1, 3]} {back[2, 3]} 7 {name}\n"
        rows = np.flatnonzero(valid)
        images += " ".join(f"{pixels[r, 0] + 0.5} {pixels[r, 1] + 0.5} {r + 1}" for r in rows) + "\n"
        for k, r in enumerate(rows):
            tracks.setdefault(r, []).append(f"{i + 1} {k}")
    (folder / "images.txt").write_text(images)
    moved = scale * points @ move[:3, :3].T + move[:3, 3]
    text = "".join(
        f"{r + 1} {moved[r, 0]} {moved[r, 1]} {moved[r, 2]} 0 0 0 0.1 {' '.join(t)}\n" for r, t in tracks.items()
    )
    (folder / "points3D.txt").write_text(text)
    return points


@pytest.fixture
def folder_drive(tmp_path):
    """A drive of image files, and the names that a model has for them."""
    drive = tiny_street.drive(5)
    paths = tuple(tmp_path / "cam" / f"{i:06d}.png" for i in range(5))
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), drive.image(i))
    return replace(drive, source=FolderImages(paths)), [f"{i:06d}.png" for i in range(5)]


def test_a_model_of_the_drives_frame_is_taken_over(folder_drive, tmp_path):
    drive, names = folder_drive
    points = write_model(tmp_path / "model", drive.T_map_cam, [f"cam/{n}" for n in names[1:]] + ["elsewhere.png"])
    with pytest.raises(DatasetError, match=r"of the drive's"):  # the poses belong to the frames before
        import_model(tmp_path / "model", [drive], ColmapSettings(within_m=0.1))
    points = write_model(tmp_path / "model", drive.T_map_cam, [f"cam/{n}" for n in names])
    model = import_model(tmp_path / "model", [drive])
    assert model.number.tolist() == [0, 1, 2, 3, 4] and model.cameras == (CAMERA,)
    assert model.reprojection_errors().max() < 1e-6
    assert {tuple(p) for p in np.round(model.points, 6)} <= {tuple(p) for p in np.round(points, 6)}
    # A drive that starts later has fewer of the frames, under numbers of its own.
    part = import_model(tmp_path / "model", [drive.select(np.array([2, 4]))])
    assert part.number.tolist() == [0, 1] and np.allclose(part.T_map_cam, drive.T_map_cam[[2, 4]])


def test_a_model_in_a_frame_of_its_own_needs_alignment(folder_drive, tmp_path):
    drive, names = folder_drive
    write_model(tmp_path / "m", drive.T_map_cam, names, turn=(0.13, se3_exp([5.0, -3.0, 1.0, 0.4, -0.2, 1.0])))
    with pytest.raises(DatasetError, match=r"colmap\.align=true"):
        import_model(tmp_path / "m", [drive])
    model = import_model(tmp_path / "m", [drive], ColmapSettings(align=True))
    np.testing.assert_allclose(model.T_map_cam, drive.T_map_cam, atol=1e-6)
    assert tiny_street.on_surface(model.points).max() < 1e-5 and model.reprojection_errors().max() < 1e-4


def test_stamps_name_frames_of_a_bag(tmp_path):
    drive = tiny_street.drive(4)
    write_model(tmp_path / "m", drive.T_map_cam, [f"{s}.jpg" for s in drive.stamps_ns])
    assert import_model(tmp_path / "m", [drive]).stamps_ns.tolist() == drive.stamps_ns.tolist()


def test_a_model_of_smaller_images_is_scaled(folder_drive, tmp_path):
    drive, names = folder_drive
    write_model(tmp_path / "m", drive.T_map_cam, names)
    large = replace(drive, camera=CameraModel(480, 300, 380.0, 380.0, 239.5, 149.5))
    model = import_model(tmp_path / "m", [large])
    assert model.cameras == (large.camera,) and model.reprojection_errors().max() < 1e-6


def test_other_images_and_cameras_are_refused(folder_drive, tmp_path):
    drive, names = folder_drive
    write_model(tmp_path / "m", drive.T_map_cam, [f"other{i}.png" for i in range(5)])
    with pytest.raises(DatasetError, match=r"such as other0\.png.*found none"):
        import_model(tmp_path / "m", [drive])
    write_model(tmp_path / "m", drive.T_map_cam, names, "SIMPLE_PINHOLE 240 150 80 120 75")
    with pytest.raises(CameraMismatchError, match=r"000000\.png: expected the drive's camera"):
        import_model(tmp_path / "m", [drive])
    write_model(tmp_path / "m", drive.T_map_cam, names, "SIMPLE_PINHOLE 240 150 184 120 75")
    with pytest.raises(DatasetError, match=r"within 0\.1 px"):
        import_model(tmp_path / "m", [drive], ColmapSettings(error_px=0.1))


def test_a_model_is_a_drive_by_itself(folder_drive, tmp_path):
    drive, names = folder_drive
    write_model(tmp_path / "scene" / "sparse" / "0", drive.T_map_cam, names)
    (tmp_path / "scene" / "images").symlink_to(tmp_path / "cam")
    (opened,) = open_colmap(f"colmap:{tmp_path / 'scene'}")
    assert opened.camera == CAMERA and len(opened) == 5
    np.testing.assert_allclose(opened.T_map_cam, drive.T_map_cam, atol=1e-9)
    np.testing.assert_array_equal(opened.image(3), drive.image(3))
    assert len(import_model(tmp_path / "scene", [opened]).points) > 100
    (again,) = open_colmap(f"colmap:{tmp_path / 'scene'},{tmp_path / 'cam'}")
    assert len(again) == 5
    with pytest.raises(DatasetError, match="missing"):
        (tmp_path / "cam" / names[2]).unlink()
        open_colmap(f"colmap:{tmp_path / 'scene'}")
    with pytest.raises(DatasetError, match="in sparse/0"):
        open_colmap(f"colmap:{tmp_path / 'cam'}")
