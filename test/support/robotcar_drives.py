"""Drives of Oxford RobotCar in the exact layout, a few small images each."""

from __future__ import annotations

import cv2
import numpy as np

from vloc_ros.datasets.formats import open_source
from vloc_ros.datasets.robotcar import DATUM
from vloc_ros.datasets.robotcar.poses import map_ned
from vloc_ros.datasets.robotcar.sensors import sensor_mountings
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import euler_to_matrix, matrix_to_euler
from vloc_ros.geometry.se3 import make_transform

START_US = 1_400_075_940_000_000
NAME = "2014-05-14-13-59-05"
W, H = 8, 6
INS_HEADER = (
    "timestamp,ins_status,latitude,longitude,altitude,northing,easting,down,utm_zone,"
    "velocity_north,velocity_east,velocity_down,roll,pitch,yaw"
)
RTK_HEADER = INS_HEADER.replace("ins_status,", "")
GPS_HEADER = (
    "timestamp,num_satellites,latitude,longitude,altitude,latitude_sigma,longitude_sigma,altitude_sigma,"
    "northing,easting,down,utm_zone"
)
VO_HEADER = "source_timestamp,destination_timestamp,x,y,z,roll,pitch,yaw"
G_LEFT = "0 -0 1 0\n1 0 -0 {}\n0 1 0 0\n0 0 0 1\n"
MODEL_NAMES = ("stereo_wide_left", "stereo_wide_right", "stereo_narrow_left", "mono_left", "mono_right", "mono_rear")
FRD = np.diag([1.0, -1.0, -1.0, 1.0])


def pose_row(stamp_us, T_map_unit, datum=None, status="INS_SOLUTION_GOOD"):
    """A line of ins.csv (or rtk.csv) for a unit (x forward, y right, z down) at ``T_map_unit`` in the map."""
    datum = datum or Datum(*DATUM)
    lat, lon, alt = (float(v) for v in datum.to_geodetic(T_map_unit[:3, 3]))
    R_ned = map_ned(datum, np.array([lat]), np.array([lon]))[0].T @ T_map_unit[:3, :3]
    rpy = ",".join(repr(float(v)) for v in matrix_to_euler(R_ned))
    head = str(stamp_us) if status is None else f"{stamp_us},{status}"
    return f"{head},{lat!r},{lon!r},{alt!r},5735841.4,620000.1,{-alt!r},30U,0.1,0.2,0.0,{rpy}"


def base_poses(count):
    """The base on a bend, at 10 m/s."""
    k = np.arange(count)
    rpy = np.stack([0.02 * np.sin(k), 0.03 * np.cos(k), 0.4 + 0.05 * k], axis=-1)
    return make_transform(euler_to_matrix(rpy), np.stack([200 + k, -100 + 0.3 * k, 3 + 0.1 * np.sin(k)], axis=-1))


def unit_poses(T_map_base):
    return T_map_base @ sensor_mountings(None)["ins"]


def write_tables(folder, table, header, rows):
    (folder / table).parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join([header, *rows]) + "\n")


def write_models(root, width=W, height=H):
    models = root / "models"
    models.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    for name in MODEL_NAMES:
        baseline = 0.239983 if name == "stereo_wide_right" else 0
        (models / f"{name}.txt").write_text("10.5 10.25 3.5 2.5\n" + G_LEFT.format(baseline))
        np.stack([x, y]).tofile(models / f"{name}_distortion_lut.bin")
    return models


def mosaic(pattern, rgb, height=H, width=W):
    """A Bayer image of one colour all over."""
    out = np.zeros((height, width), np.uint8)
    for place, colour in enumerate(pattern):
        out[place // 2 :: 2, place % 2 :: 2] = rgb["RGB".index(colour)]
    return out


def write_drive(root, camera="stereo/centre", count=6, chunks=None, stamps=None, tables=True):
    """A drive with images every 100 ms, and ins.csv at their stamps (``base_poses``)."""
    drive = root / NAME
    (drive / camera).mkdir(parents=True)
    stamps = stamps or [START_US + 100_000 * k for k in range(count)]
    pattern = "GBRG" if camera.startswith("stereo") else "RGGB"
    for number, stamp in enumerate(stamps):
        cv2.imwrite(str(drive / camera / f"{stamp}.png"), mosaic(pattern, (20 + number, 120, 220)))
    lines = [f"{stamp} {chunk}" for stamp, chunk in zip(stamps, chunks or [1] * len(stamps), strict=True)]
    (drive / f"{camera.split('/')[0]}.timestamps").write_text("\n".join(lines) + "\n")
    write_models(root)
    if tables:
        T = unit_poses(base_poses(count))
        rows = [pose_row(s, T[k]) for k, s in enumerate(sorted(stamps)[:count])]
        write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    return drive


def edit(path, number, change):
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


def opened(drive, problems=None, **options):
    return open_source(f"robotcar:{drive}", problems, **options)[0]
