"""4Seasons: recordings of a stereo camera with poses that are fused with GNSS, in a map frame on the Earth.

A source is a recording, or a folder of ``recording_*``. The map frame is ENU (east, north, up) at the datum: as given,
or the origin of the data set's own ENU frame (``transform_e_gpsw``) in the first recording of the source, so that the
choice of poses and cameras does not move it. Recordings that are opened one by one and have other origins lie in
other map frames, unless a datum is given.

``T_ecef_cam = T_e_gpsw inv(T_w_gpsw) T_S_AS diag(s, s, s, 1) T_cam``, its rotation normalised again, with s the scale
of the row in ``GNSSPoses.txt`` and 1 for ``result.txt`` and key frames. ``GNSSPoses.txt`` names 11 columns and has
10. Stamps in ``result.txt`` are rounded to 10 us: a pose belongs to the frame of ``times.txt`` within 2 ms. All poses
are those of cam0, undistorted; where cam1 is: :mod:`vloc_ros.datasets.fourseasons`. ``base_link`` is at the IMU,
turned by quarter turns to x forward, y left, z up (:mod:`vloc_ros.datasets.mounting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from vloc_ros.datasets.image_files import FolderImages, first_usable
from vloc_ros.datasets.mounting import upright_base
from vloc_ros.datasets.nmea import read_gga
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.datasets.tables import (
    Row,
    covered_frames,
    images_in,
    pose_samples,
    read_rows,
    stamp_in_ns,
    stamp_of,
    track_of,
    transform_from_matrix,
    transform_from_quaternion,
)
from vloc_ros.errors import CameraError, ConfigError, DatasetError, GeometryError
from vloc_ros.geometry.geodesy import Datum, ecef_to_geodetic, geodetic_to_ecef
from vloc_ros.geometry.rotations import nearest_rotation, rotation_angle
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = [
    "FrameTimes",
    "Options",
    "PoseSample",
    "Transformations",
    "calibration_folder",
    "distorted_from_undistorted",
    "gnss_poses",
    "key_frame_poses",
    "matches",
    "open_drives",
    "read_camera",
    "read_stereo",
    "read_times",
    "read_transformations",
    "result_poses",
]


# The pose files of 4Seasons: cam0 to the visual odometry's world, each in columns, units and stamps of its own.


#: ``(stamp_ns, T_cam, scale, where)``.
PoseSample = tuple[int, Array, float, str]
#: By frame id (ns, the name of the image): the frame's time (ns), and ``path:line``.
FrameTimes = Mapping[int, tuple[int, str]]
#: result.txt is rounded to 10 us, and frames are 33 ms apart.
_SAME_FRAME_NS = 2_000_000


def gnss_poses(path: Path, problems: Problems) -> list[PoseSample]:
    """``GNSSPoses.txt``: stamp_ns, t, q xyzw, scale, fusion quality and, in the header alone, v3.

    :raises DatasetError: no such file, or a faulty row.
    """
    samples = []
    for row in read_rows(path, problems, (10, 11), ","):
        if row.number == 1 and not row.fields[0].isdigit():
            continue  # the header, where it is no comment
        stamp = stamp_of(row, problems, "ns")
        values = None if stamp is None else row.numbers(problems, 1, 9)
        if stamp is None or values is None:
            continue
        if not values[7] > 0.0:
            problems.fault("pose without a scale", f"{row.where}: expected a positive scale, found {row.fields[8]}")
            continue
        T = transform_from_quaternion(values[:3], values[3:7], row.where, problems)
        if T is not None:
            samples.append((stamp, T, float(values[7]), row.where))
    return samples


def read_times(path: Path, problems: Problems) -> dict[int, tuple[int, str]]:
    """``times.txt``: by frame id (ns, the name of the image), the frame's time (ns), and the line.

    :raises DatasetError: no such file, or a row whose id and time differ by more than a millisecond.
    """
    times: dict[int, tuple[int, str]] = {}
    for row in read_rows(path, problems, (2, 3)):
        frame, time = stamp_of(row, problems, "ns"), stamp_of(row, problems, "s", 1)
        if frame is None or time is None:
            continue
        if abs(frame - time) > 1_000_000:
            problems.fault(
                "frame whose id is not its time",
                f"{row.where}: expected a frame id in ns and the same time in s, found {row.fields[0]} and "
                f"{row.fields[1]}",
            )
        elif frame in times:
            problems.fault("repeated stamp", f"{row.where}: expected one frame a stamp, found {frame} ns twice")
        else:
            times[frame] = time, row.where
    return times


def result_poses(path: Path, times: FrameTimes, problems: Problems) -> list[PoseSample]:
    """``result.txt``: time_s, t, q xyzw, at the stamps of the frames that they belong to.

    :param times: of :func:`read_times`.
    :raises DatasetError: no such file, a faulty row, or one with no frame within 2 ms.
    """
    frames = np.array(sorted(times, key=lambda frame: times[frame][0]), dtype=np.int64)
    at = np.array([times[int(frame)][0] for frame in frames], dtype=np.int64)
    if not len(frames):
        raise DatasetError(f"{path}: expected frames in times.txt to belong to, found none")
    samples = []
    for stamp, T, where in pose_samples(read_rows(path, problems, 8), problems, "s"):
        after = int(np.searchsorted(at, stamp))
        near = min(max(after - 1, 0), len(at) - 1), min(after, len(at) - 1)
        nearest = min(near, key=lambda row: abs(int(at[row]) - stamp))
        if abs(int(at[nearest]) - stamp) > _SAME_FRAME_NS:
            problems.fault(
                "pose without a frame",
                f"{where}: expected a frame of times.txt within 2 ms, found the nearest "
                f"{abs(int(at[nearest]) - stamp) / 1e6:.1f} ms away",
            )
            continue
        samples.append((int(frames[nearest]), T, 1.0, where))
    return samples


def key_frame_poses(folder: Path, problems: Problems) -> list[PoseSample]:
    """``KeyFrame_<ns>.txt``: seven comma values below the comment ``# camToWorld``.

    :raises DatasetError: no such files, or one without a pose.
    """
    named = {path: path.stem.partition("_")[2] for path in folder.glob("KeyFrame_*.txt")}
    paths = sorted(named, key=lambda path: (len(named[path]), named[path]))
    if not paths:
        raise DatasetError(f"{folder}: expected files KeyFrame_<ns>.txt, found none")
    samples = []
    for path in paths:
        row = _cam_to_world(path)
        if row is None:
            problems.fault(
                "key frame without a pose", f"{path}: expected a comment '# camToWorld' and seven values, found none"
            )
            continue
        stamp = stamp_of(Row(path, 1, (named[path],)), problems, "ns")
        if len(row.fields) != 7:
            problems.fault("row of the wrong length", f"{row.where}: expected 7 fields, found {len(row.fields)}")
            continue
        values = row.numbers(problems)
        if stamp is None or values is None:
            continue
        T = transform_from_quaternion(values[:3], values[3:], row.where, problems)
        if T is not None:
            samples.append((stamp, T, 1.0, row.where))
    return samples


def _cam_to_world(path: Path) -> Row | None:
    """The line below the comment; what comes after it, a point cloud, is not read."""
    tagged = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if text.startswith("#"):
                tagged = "camtoworld" in text.lower()
            elif tagged and text:
                return Row(path, number, tuple(field.strip() for field in text.split(",")))
    return None


# The files of 4Seasons beside its images and poses: intrinsics, the stereo pair, and the chain of frames.


_FOLDERS = ("calibration", "Calibration", "calib")
#: What turns a lens's camera into the rectified one is small; more is a file of another rig.
_LARGEST_RECTIFICATION_RAD = np.radians(15.0)


@dataclass(frozen=True)
class Transformations:
    """``Transformations.txt``, each 4x4: S metric SLAM, AS SLAM, w visual world, gpsw its ENU, e Earth (ECEF)."""

    T_S_AS: Array
    T_cam_imu: Array
    T_w_gpsw: Array
    T_gps_imu: Array
    T_e_gpsw: Array


#: Their names in the file's comments.
_NAMED = {
    "transform_S_AS": "T_S_AS",
    "TS_cam_imu": "T_cam_imu",
    "transform_w_gpsw": "T_w_gpsw",
    "transform_gps_imu": "T_gps_imu",
    "transform_e_gpsw": "T_e_gpsw",
}


def read_transformations(path: Path) -> Transformations:
    """By the names in the comments: order and blank lines differ between releases.

    :raises DatasetError: a transform is missing, named twice or malformed.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; without it the poses have no place on the Earth")
    found: dict[str, Array] = {}
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
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
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
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
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError as error:
        raise DatasetError(f"{path}: expected YAML, found {' '.join(str(error).split())[:200]}") from error
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
    except (TypeError, ValueError):
        T = np.zeros(0)
    if T.shape != (4, 4):
        raise DatasetError(f"{where}: expected a 4x4 matrix, found {str(value)[:60]}")
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


@dataclass(frozen=True)
class _Mounting:
    """The camera of the images, and what else is on the rig."""

    camera: CameraModel
    calibration: Path
    T_cam0_cam: Array
    T_base_cam: Array
    rig: dict[str, Array]


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
