"""The files of 4Seasons beside its images and poses: intrinsics, the stereo pair, and the chain of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import (
    read_yaml,
    transform_from_matrix,
    transform_from_quaternion,
)
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.types import Array, CameraModel

__all__ = [
    "Transformations",
    "calibration_folder",
    "distorted_from_undistorted",
    "read_camera",
    "read_stereo",
    "read_transformations",
]
_FOLDERS = ("calibration", "Calibration", "calib")
#: What turns a lens's camera into the rectified one is small; more is a file of another rig.
_LARGEST_RECTIFICATION_RAD = np.radians(15.0)
#: Their names in the file's comments.
_NAMED = {
    "transform_S_AS": "T_S_AS",
    "TS_cam_imu": "T_cam_imu",
    "transform_w_gpsw": "T_w_gpsw",
    "transform_gps_imu": "T_gps_imu",
    "transform_e_gpsw": "T_e_gpsw",
}


@dataclass(frozen=True)
class Transformations:
    """``Transformations.txt``, each 4x4: S metric SLAM, AS SLAM, w visual world, gpsw its ENU, e Earth (ECEF)."""

    T_S_AS: Array
    T_cam_imu: Array
    T_w_gpsw: Array
    T_gps_imu: Array
    T_e_gpsw: Array


def read_transformations(path: Path) -> Transformations:
    """By the names in the comments: order and blank lines differ between releases.

    :raises DatasetError: a transform is missing, named twice or malformed.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; without it the poses have no place on the Earth")
    found: dict[str, Array] = {}
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        where, text = f"{path}:{number}", line.strip()
        if text.startswith("#"):
            name = text.lstrip("# ").partition(":")[0].strip()
        elif text and name in _NAMED:
            if name in found:
                raise DatasetError(f"{where}: expected {name} once, found it again")
            values = _numbers(text, ",", 7, where, f"{name}: tx,ty,tz,qx,qy,qz,qw")
            T = transform_from_quaternion(values[:3], values[3:], where, Problems())
            assert T is not None  # such problems raise
            found[name] = T
    missing = [name for name in _NAMED if name not in found]
    if missing:
        raise DatasetError(f"{path}: expected a comment '# {missing[0]}: ...' with seven values below, found none")
    return Transformations(**{_NAMED[name]: T for name, T in found.items()})


def calibration_folder(recording: Path, given: str | None) -> Path:
    """The folder that holds the calibration: as given, or in the recording, or beside or above it.

    :raises DatasetError: there is none.
    """
    if given is not None:
        places = [Path(given), recording / given]
    else:
        above = recording.resolve()
        places = [place / name for place in (above, *list(above.parents)[:3]) for name in _FOLDERS]
    for place in places:
        # Archives are unpacked into a folder of their own name: calibration/calibration.
        for folder in (place, *(place / name for name in _FOLDERS)):
            if any(folder.glob("*calib_0.txt")):
                return folder
    raise DatasetError(
        f"{recording}: expected a folder calibration or Calibration with undistorted_calib_0.txt in the recording, "
        f"beside or above it, found none{'' if given is None else f' in {given}'}; download it, or name it "
        "(calibration=PATH)"
    )


def read_camera(path: Path, undistorted: bool) -> CameraModel:
    """``Pinhole fx fy cx cy 0 0 0 0`` or ``Equidistant fx fy cx cy k1 k2 k3 k4``, below it width and height.

    :raises DatasetError: no such file, malformed, or of the other kind.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it holds the intrinsics")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    model, _, rest = (lines[0] if lines else "").strip().partition(" ")
    wanted = "Pinhole" if undistorted else "Equidistant"
    if model.lower() != wanted.lower():
        raise DatasetError(f"{path}:1: expected the camera model {wanted}, found {model[:30]!r}")
    values = _numbers(rest, None, 8, f"{path}:1", "fx fy cx cy and four coefficients")
    width, height = _numbers(lines[1] if len(lines) > 1 else "", None, 2, f"{path}:2", "width height")
    if undistorted and values[4:].any():
        raise DatasetError(f"{path}:1: expected a camera without distortion, found coefficients {values[4:].tolist()}")
    try:
        camera = CameraModel(int(width), int(height), *values[:4].tolist())
        if undistorted:
            return camera
        return replace(camera, distortion_model="equidistant", distortion=tuple(values[4:].tolist()))
    except CameraError as error:
        raise DatasetError(f"{path}: {error}") from error


def read_stereo(path: Path) -> Array:
    """``T_cam1_cam0`` (4, 4). :raises DatasetError: no such file, no transform, or one of the other direction."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it holds where cam1 is")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if line.strip():
            rows.append(_numbers(line.replace(",", " "), None, 4, f"{path}:{number}", "a row of a 4x4 matrix"))
    if len(rows) != 4:
        raise DatasetError(f"{path}: expected four rows of a 4x4 matrix, found {len(rows)}")
    T = transform_from_matrix(np.stack(rows), str(path))
    if not T[0, 3] < 0.0:
        raise DatasetError(
            f"{path}:1: expected T_cam1_cam0 with t_x about -0.3005 m (cam0 lies to the left of cam1), found t_x "
            f"{T[0, 3]:.4f}; the file holds another direction, or the cameras are swapped"
        )
    return T


def distorted_from_undistorted(folder: Path, camera: str, T_undistorted_imu: Array) -> Array:
    """The rotation (4, 4) ``T_distorted_undistorted`` of a camera that undistortion has turned about its centre.

    From ``T_cam_imu`` of Kalibr's ``camchain.yaml``, which is about the lens's camera. Without it none is known.

    :raises DatasetError: no such file, or one of another rig.
    """
    path = folder / "camchain.yaml"
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file; poses are those of the undistorted cameras, and only its T_cam_imu tells how the "
            "distorted ones are turned: complete the calibration, or take images=undistorted"
        )
    content = read_yaml(path)
    T_distorted_imu = _kalibr(content, camera, path)
    T = np.eye(4)
    T[:3, :3] = T_distorted_imu[:3, :3] @ T_undistorted_imu[:3, :3].T
    angle = float(rotation_angle(T[:3, :3], np.eye(3)))
    if angle > _LARGEST_RECTIFICATION_RAD:
        raise DatasetError(
            f"{path}: {camera}: expected T_cam_imu within {np.degrees(_LARGEST_RECTIFICATION_RAD):.0f} deg of the "
            f"undistorted camera's, found {np.degrees(angle):.1f} deg; it is of another rig"
        )
    return T


def _kalibr(content: Any, camera: str, path: Path) -> Array:
    chain = content if isinstance(content, dict) else {}
    entry = chain.get(camera)
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: expected an entry {camera}, found {', '.join(map(str, chain)) or 'none'}")
    if "T_cam_imu" in entry:
        return _matrix(entry["T_cam_imu"], f"{path}: {camera}: T_cam_imu")
    if camera == "cam1" and "T_cn_cnm1" in entry:
        return _matrix(entry["T_cn_cnm1"], f"{path}: {camera}: T_cn_cnm1") @ _kalibr(content, "cam0", path)
    raise DatasetError(f"{path}: {camera}: expected T_cam_imu, found {', '.join(map(str, entry))}")


def _matrix(value: Any, where: str) -> Array:
    try:
        T = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        T = np.zeros(0)
    if T.shape != (4, 4):
        raise DatasetError(f"{where}: expected a 4x4 matrix, found {value!r:.60}")
    return transform_from_matrix(T, where)


def _numbers(text: str, separator: str | None, count: int, where: str, what: str) -> Array:
    fields = text.split(separator)
    try:
        values = np.array([float(field) for field in fields], dtype=np.float64)
    except ValueError:
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise DatasetError(f"{where}: expected {what} ({count} finite numbers), found {text.strip()[:60]!r}")
    return values
