"""A small recording of 4Seasons in the exact layout."""

from __future__ import annotations

from decimal import Decimal

import cv2
import numpy as np
import yaml

from vloc_ros.datasets.formats import open_source
from vloc_ros.datasets.nmea import checksum
from vloc_ros.geometry.geodesy import Datum, geodetic_to_ecef
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, so3_exp

START = 1_602_074_877_621_449_728  # 2020-10-07 12:47:57 UTC
STEP = 33_333_333
COUNT = 6
SCALES = [0.969397, 0.9694, 0.97, 0.971, 0.9705, 0.9699]
# As published: seven values each, the quaternions of six digits.
PUBLISHED = {
    "transform_S_AS": "0.000000,0.000000,0.000000,0.000590,-0.005845,0.005162,0.999969",
    "TS_cam_imu": "0.175412,0.003689,-0.058106,-0.007202,0.708623,-0.705546,-0.002350",
    "transform_w_gpsw": "0.321948,-0.029350,0.156487,-0.000720,-0.000459,0.125142,0.992138",
    "transform_gps_imu": "0.100000,0.200000,-0.300000,0.000000,0.000000,0.000000,1.000000",
    "transform_e_gpsw": "4172814.292643,857504.007380,4731704.606937,0.225469,0.276513,0.724007,0.590354",
}
T_CAM1_CAM0 = np.eye(4)
T_CAM1_CAM0[:3, 3] = -0.3004961618953472, 1e-4, -2e-4
R_LENS = so3_exp(np.array([0.002, -0.004, 0.003]))  # how rectification has turned cam0
HEADER = "# timestamp_ns, tran_x, tran_y, tran_z, quat_x, quat_y, quat_z, quat_w, scale, fusion_quality, v3"


def stamp(i: int) -> int:
    return START + i * STEP


def matrix(text: str) -> np.ndarray:
    v = np.array([float(x) for x in text.split(",")])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = quaternion_to_matrix(v[3:]), v[:3]
    return T


def cam_to_world(k: float) -> np.ndarray:
    """Forward along the odometry's z, in its own scale, turning a little."""
    T = np.eye(4)
    T[:3, :3] = so3_exp(np.array([0.01, 0.02 * k, 0.005]))
    T[:3, 3] = 0.1 * k, -0.02, 1.2 * k
    return T


def in_ecef(T: np.ndarray, scale: float) -> np.ndarray:
    """The published formula, word for word."""
    t = {name: matrix(text) for name, text in PUBLISHED.items()}
    S = np.diag([scale, scale, scale, 1.0])
    out = t["transform_e_gpsw"] @ np.linalg.inv(t["transform_w_gpsw"]) @ t["transform_S_AS"] @ S @ T
    out[:3, :3] /= scale
    return out


def in_map(T_ecef: np.ndarray, datum: Datum) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = datum.R_enu_ecef @ T_ecef[:3, :3]
    origin = geodetic_to_ecef(datum.latitude_deg, datum.longitude_deg, datum.altitude_m)
    out[:3, 3] = datum.R_enu_ecef @ (T_ecef[:3, 3] - origin)
    return out


def pose_text(T, separator: str) -> str:
    return separator.join(repr(float(v)) for v in [*T[:3, 3], *matrix_to_quaternion(T[:3, :3])])


def seconds(ns: int, digits: int = 9) -> str:
    return str(round(Decimal(ns) / 10**9, digits))


def gga(clock: str, quality: str = "4", latitude: str = "4815.00000000,N") -> str:
    body = f"GPGGA,{clock},{latitude},01130.00000000,E,{quality},17,0.9,540.5000,M,46.5000,M,1.0,0149"
    return f"${body}*{checksum(body):02X}"


def transformations(blank: bool = True) -> str:
    gap = "\n\n" if blank else "\n"
    parts = [f"# {name}: translation vector, rotation quaternion\n{text}" for name, text in PUBLISHED.items()]
    return gap.join([*parts, "# GNSS scale\n0.969397"]) + "\n"


def write_calibration(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in "01":
        size = "8 6\ncrop\n8 6\n"
        (folder / f"undistorted_calib_{n}.txt").write_text(f"Pinhole 7.0 7.0 4.2 2.5 0.0 0.0 0.0 0.0\n{size}")
        (folder / f"calib_{n}.txt").write_text(f"Equidistant 6.5 6.4 3.9 2.6 0.01 -0.02 0.003 -0.0004\n{size}")
    np.savetxt(folder / "undistorted_calib_stereo.txt", T_CAM1_CAM0)
    # Kalibr's is about the lens's cameras, before rectification has turned them.
    T = {"cam0": np.eye(4), "cam1": np.eye(4)}
    T["cam0"][:3, :3] = R_LENS
    chain = {
        name: {"T_cam_imu": (T[name] @ base @ matrix(PUBLISHED["TS_cam_imu"])).tolist(), "camera_model": "pinhole"}
        for name, base in (("cam0", np.eye(4)), ("cam1", T_CAM1_CAM0))
    }
    (folder / "camchain.yaml").write_text(yaml.safe_dump(chain))


def write_recording(path):
    path.mkdir(parents=True)
    for kind in ("undistorted", "distorted"):
        for camera in ("cam0", "cam1"):
            (path / f"{kind}_images" / camera).mkdir(parents=True)
            for i in range(COUNT):
                image = np.random.default_rng(i).integers(0, 255, (6, 8), dtype=np.uint8)
                cv2.imwrite(str(path / f"{kind}_images" / camera / f"{stamp(i)}.png"), image)
    rows = [f"{stamp(i)},{pose_text(cam_to_world(i), ',')},{SCALES[i]},0.9" for i in range(COUNT)]
    (path / "GNSSPoses.txt").write_text("\n".join([HEADER, *rows]) + "\n")
    (path / "Transformations.txt").write_text(transformations())
    lines = [f"{stamp(i)} {seconds(stamp(i))} 2.15" for i in range(COUNT)]
    (path / "times.txt").write_text("\n".join(lines) + "\n")
    # Rounded to 10 us, as published.
    lines = [f"{seconds(stamp(i), 5)} {pose_text(cam_to_world(i + 0.25), ' ')}" for i in range(COUNT)]
    (path / "result.txt").write_text("\n".join(lines) + "\n")
    (path / "KeyFrameData").mkdir()
    for i in (0, 3, 5):
        text = f"# timestamp\n{stamp(i)}\n\n# fx, fy, cx, cy, width, height\n7.0,7.0,4.2,2.5,8,6\n\n"
        text += f"# camToWorld: translation vector, rotation quaternion\n{pose_text(cam_to_world(i), ',')}\n\n"
        text += "# exposure time\n2.15\n\n# Point Cloud Data :\n# u,v,...\n# color information\n1,2,3,4\n"
        (path / "KeyFrameData" / f"KeyFrame_{stamp(i)}.txt").write_text(text)
    log = ["$GPRMC,124757.60,A*00", gga("124757.60"), gga("124757.70")]
    (path / "septentrio.nmea").write_text("\r\n".join(log) + "\r\n")
    return path


def open_one(path, problems=None, **options):
    return open_source(f"fourseasons:{path}", problems, **options)[0]
