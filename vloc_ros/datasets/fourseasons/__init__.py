"""4Seasons: recordings of a stereo camera with poses that are fused with GNSS, in a map frame on the Earth.

A source is a recording, or a folder of ``recording_*``. The map frame is ENU (east, north, up) at the datum: as given,
or the origin of the data set's own ENU frame (``transform_e_gpsw``) in the first recording of the source, so that the
choice of poses and cameras does not move it. Recordings that are opened one by one and have other origins lie in
other map frames, unless a datum is given.

``T_ecef_cam = T_e_gpsw inv(T_w_gpsw) T_S_AS diag(s, s, s, 1) T_cam``, its rotation normalised again, with s the scale
of the row in ``GNSSPoses.txt`` and 1 for ``result.txt`` and key frames. ``GNSSPoses.txt`` names 11 columns and has
10. Stamps in ``result.txt`` are rounded to 10 us: a pose belongs to the frame of ``times.txt`` within 2 ms. All poses
are those of cam0, undistorted; ``(undistorted_)calib_stereo.txt`` says where cam1 is. ``base_link`` is at the IMU,
turned by quarter turns to x forward, y left, z up (:mod:`vloc_ros.datasets.mounting`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.fourseasons.calibration import (
    Transformations,
    calibration_folder,
    distorted_from_undistorted,
    read_camera,
    read_stereo,
    read_transformations,
)
from vloc_ros.datasets.fourseasons.poses import (
    FrameTimes,
    PoseSample,
    gnss_poses,
    key_frame_poses,
    read_times,
    result_poses,
)
from vloc_ros.datasets.image_files import FolderImages, first_usable
from vloc_ros.datasets.mounting import upright_base
from vloc_ros.datasets.nmea import read_gga
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.datasets.tables import (
    covered_frames,
    images_in,
    stamp_in_ns,
    track_of,
)
from vloc_ros.errors import ConfigError, DatasetError, GeometryError
from vloc_ros.geometry.geodesy import Datum, ecef_to_geodetic, geodetic_to_ecef
from vloc_ros.geometry.rotations import nearest_rotation
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives"]


@dataclass(frozen=True)
class Options:
    """How to read recordings.

    :param camera: left (cam0) or right (cam1).
    :param images: undistorted (pinhole, 800x400), or as the lens made them (equidistant).
    :param poses: gnss (``GNSSPoses.txt``, of key frames, global), result (visual-inertial odometry for every frame,
        which drifts) or keyframes (the same for key frames).
    :param calibration: the folder with the calibration; None: ``calibration`` in, beside or above the recording.
    :param max_gap_s: poses further apart are not interpolated between; 0: only frames that have a pose of their own.
    :param datum: latitude, longitude (deg) and ellipsoidal height (m) of the map's origin; None: see above.
    """

    camera: Literal["cam0", "cam1"] = "cam0"
    images: Literal["undistorted", "distorted"] = "undistorted"
    poses: Literal["gnss", "result", "keyframes"] = "gnss"
    calibration: str | None = None
    max_gap_s: float = ranged(1.0, minimum=0.0)
    datum: tuple[float, float, float] | None = None


def matches(path: Path) -> bool:
    """Whether a folder is a recording, or holds some."""
    path = Path(path)
    return _is_recording(path) or bool(_recordings(path))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drive of a recording, or those of all recordings in a folder, in one map frame.

    :raises DatasetError: something is missing or malformed.
    """
    path = Path(path)
    recordings = [path] if _is_recording(path) else _recordings(path)
    if not recordings:
        raise DatasetError(
            f"{path}: expected a recording with Transformations.txt and undistorted_images or distorted_images, or a "
            "folder of recording_*, found neither"
        )
    datum = _datum(read_transformations(recordings[0] / "Transformations.txt"), options)
    return [_open(recording, options, datum, problems) for recording in recordings]


@dataclass(frozen=True)
class _Mounting:
    """The camera of the images, and what else is on the rig."""

    camera: CameraModel
    calibration: Path
    T_cam0_cam: Array
    T_base_cam: Array
    rig: dict[str, Array]


def _is_recording(path: Path) -> bool:
    return (path / "Transformations.txt").is_file() and any(
        (path / f"{kind}_images").is_dir() for kind in ("undistorted", "distorted")
    )


def _recordings(path: Path) -> list[Path]:
    return sorted(p for p in path.glob("recording_*") if _is_recording(p)) if path.is_dir() else []


def _datum(frames: Transformations, options: Options) -> Datum:
    if options.datum is None:
        return Datum(*(float(v) for v in ecef_to_geodetic(frames.T_e_gpsw[:3, 3])))
    try:
        return Datum(*options.datum)
    except GeometryError as error:
        raise ConfigError(str(error)) from error


def _open(recording: Path, options: Options, datum: Datum, problems: Problems) -> PosedSequence:
    before = dict(problems.counts)
    frames = read_transformations(recording / "Transformations.txt")
    mounting = _mounting(recording, options, frames, problems)
    listed = recording / "times.txt"
    times = read_times(listed, problems) if listed.is_file() or options.poses == "result" else {}
    stamps, paths = _images(recording, options, times, problems)
    begin, _ = first_usable(paths, problems, mounting.camera.size, str(mounting.calibration))
    stamps, paths = stamps[begin:], paths[begin:]
    samples, what = _samples(recording, options, times, problems)
    track = track_of(
        [(s, _chain(frames, datum, T, k), at) for s, T, k, at in samples], what, problems, options.max_gap_s
    )
    kept, T_map_cam0 = covered_frames(stamps, track, str(recording), problems)
    nmea = recording / "septentrio.nmea"
    return PosedSequence(
        recording.resolve().name,
        stamps[kept],
        T_map_cam0 @ mounting.T_cam0_cam,
        mounting.T_base_cam,
        mounting.camera,
        FolderImages(tuple(paths[i] for i in kept)),
        datum=datum,
        gnss=read_gga(nmea, int(stamps[0]), problems) if nmea.is_file() else None,
        rig=mounting.rig,
        dropped=problems.since(before),
    )


def _chain(frames: Transformations, datum: Datum, T_cam: Array, scale: float) -> Array:
    """``T_map_cam`` of a camera's pose in the visual odometry's own world.

    The map's origin is subtracted before anything else is added: ECEF coordinates resolve a nanometre in float64.
    """
    origin = geodetic_to_ecef(datum.latitude_deg, datum.longitude_deg, datum.altitude_m)
    R, t = datum.R_enu_ecef, frames.T_e_gpsw[:3, 3] - origin
    T_map_gpsw = make_transform(R @ frames.T_e_gpsw[:3, :3], R @ t)
    T = T_map_gpsw @ inverse(frames.T_w_gpsw) @ frames.T_S_AS @ np.diag([scale, scale, scale, 1.0]) @ T_cam
    return make_transform(nearest_rotation(T[:3, :3]), T[:3, 3])


def _samples(recording: Path, options: Options, times: FrameTimes, problems: Problems) -> tuple[list[PoseSample], str]:
    """``(stamp_ns, T_cam, scale, where)`` in file order, and what they are from."""
    if options.poses == "gnss":
        path = recording / "GNSSPoses.txt"
        return gnss_poses(path, problems), str(path)
    if options.poses == "keyframes":
        path = recording / "KeyFrameData"
        return key_frame_poses(path, problems), str(path)
    path = recording / "result.txt"
    return result_poses(path, times, problems), str(path)


def _images(
    recording: Path, options: Options, times: FrameTimes, problems: Problems
) -> tuple[npt.NDArray[np.int64], list[Path]]:
    folder = recording / f"{options.images}_images" / options.camera
    found: dict[int, Path] = {}
    for path in images_in(folder):
        try:
            found[stamp_in_ns(path.stem, "ns", f"{path}: name")] = path
        except DatasetError as error:
            problems.fault("image whose name is no stamp", f"{error}; remove the file, or --keep-going")
    for stamp, (_, where) in times.items():
        if stamp not in found:
            problems.fault(
                "listed image that is missing",
                f"{where}: expected the image {folder / f'{stamp}.png'}, found no file; complete the data set, or "
                "--keep-going",
            )
    if not found:
        raise DatasetError(f"{folder}: expected images named by their stamps in ns, found none")
    stamps = sorted(found)
    return np.array(stamps, dtype=np.int64), [found[s] for s in stamps]


def _mounting(recording: Path, options: Options, frames: Transformations, problems: Problems) -> _Mounting:
    folder = calibration_folder(recording, options.calibration)
    undistorted = options.images == "undistorted"
    calibration = folder / f"{'undistorted_' if undistorted else ''}calib_{options.camera[-1]}.txt"
    T_base_imu = upright_base(inverse(frames.T_cam_imu))
    T_base_cam0 = T_base_imu @ inverse(frames.T_cam_imu)

    def in_cam0(camera: str) -> Array:
        """``T_cam0_camera``, cam0 being the undistorted one."""
        T_cam_cam0 = np.eye(4) if camera == "cam0" else read_stereo(folder / "undistorted_calib_stereo.txt")
        if not undistorted:
            T_cam_cam0 = distorted_from_undistorted(folder, camera, T_cam_cam0 @ frames.T_cam_imu) @ T_cam_cam0
        return inverse(T_cam_cam0)

    other = "cam1" if options.camera == "cam0" else "cam0"
    T_cam0_cam = in_cam0(options.camera)
    rig = {"imu": T_base_imu, "gnss": T_base_imu @ inverse(frames.T_gps_imu)}
    try:
        rig[f"{other}_optical_frame"] = T_base_cam0 @ in_cam0(other)
    except DatasetError as error:
        problems.fault("sensor without a calibration", f"{error}; or --keep-going without {other}")
    return _Mounting(read_camera(calibration, undistorted), calibration, T_cam0_cam, T_base_cam0 @ T_cam0_cam, rig)
