"""Miniature data sets in their exact layouts: some frames inside a painted cylinder, seen from given poses."""

from __future__ import annotations

import json

import cv2
import numpy as np
from tiny_drive import circle, picture

from vloc_ros.datasets.robotcar import DATUM
from vloc_ros.datasets.robotcar.poses import map_ned
from vloc_ros.datasets.robotcar.sensors import sensor_mountings
from vloc_ros.datasets.robotcar_seasons import T_MAP_WORLD
from vloc_ros.geometry.geodesy import Datum, geodetic_to_ecef
from vloc_ros.geometry.rotations import matrix_to_euler, matrix_to_quaternion
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import CameraModel

COUNT = 6
#: Optical axes of the camera in those of the sensor: x forward, y right, z down.
SENSOR_OPTICAL = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def camera(width, height):
    return CameraModel(width, height, 0.66 * width, 0.66 * width, (width - 1) / 2, (height - 1) / 2)


def poses(number=0, count=COUNT):
    """The poses of a drive; those of drive ``number`` are a little ahead of those of the one before."""
    return circle(count, phase=0.12 * number)


def write_image(path, T, width=16, height=12, size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(T, camera(width, height))[..., ::-1]
    cv2.imwrite(str(path), image if size is None else cv2.resize(image, size))


def row(values):
    return " ".join(repr(float(v)) for v in np.ravel(values))


def quaternion(R):
    """w first."""
    x, y, z, w = matrix_to_quaternion(R)
    return (w, x, y, z)


def write_tum(folder, T):
    lines = []
    for k, pose in enumerate(T):
        stamp = f"100.{5 * k:02d}0000"
        write_image(folder / "rgb" / f"{stamp}.png", pose)
        x, y, z, w = matrix_to_quaternion(pose[:3, :3])
        lines.append(f"{stamp} {row(pose[:3, 3])} {row((x, y, z, w))}")
    (folder / "groundtruth.txt").write_text("# poses\n" + "\n".join(lines) + "\n")


def write_kitti(folder, T):
    for k, pose in enumerate(T):
        write_image(folder / "images" / f"{k:06d}.png", pose)
    (folder / "poses.txt").write_text("\n".join(row(pose[:3]) for pose in T) + "\n")


def write_seven_scenes(root, scenes):
    """Each scene with one sequence to train and one to test."""
    for scene in scenes:
        for sequence, split in ((1, "Train"), (2, "Test")):
            folder = root / scene / f"seq-{sequence:02d}"
            for k, pose in enumerate(poses(sequence)):
                write_image(folder / f"frame-{k:06d}.color.png", pose, size=(640, 480))
                (folder / f"frame-{k:06d}.pose.txt").write_text("\n".join(row(r) for r in pose) + "\n")
            (root / scene / f"{split}Split.txt").write_text(f"sequence{sequence}\n")


def write_cambridge(root, scenes):
    for scene in scenes:
        for number, split in ((1, "train"), (2, "test")):
            lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
            for k, pose in enumerate(poses(number)):
                name = f"seq{number}/frame{k + 1:05d}.png"
                write_image(root / scene / name, pose)
                lines.append(f"{name} {row(pose[:3, 3])} {row(quaternion(pose[:3, :3].T))}")
            (root / scene / f"dataset_{split}.txt").write_text("\n".join(lines) + "\n")


def write_robotcar(root, names):
    """Drives with raw images of the centre camera and ins.csv."""
    datum, width, height = Datum(*DATUM), 16, 12
    models = root / "models"
    models.mkdir(parents=True)
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    c = camera(width, height)
    text = f"{c.fx} {c.fy} {c.cx} {c.cy}\n0 -0 1 0\n1 0 -0 0\n0 1 0 0\n0 0 0 1\n"
    for model in ("stereo_wide_left", "stereo_wide_right", "stereo_narrow_left"):
        (models / f"{model}.txt").write_text(text)
        np.stack([u, v]).tofile(models / f"{model}_distortion_lut.bin")
    for number, name in enumerate(names):
        header = "timestamp,ins_status,latitude,longitude,altitude,northing,easting,down,utm_zone,"
        lines = [header + "velocity_north,velocity_east,velocity_down,roll,pitch,yaw"]
        stamps = []
        for k, pose in enumerate(poses(number)):
            stamp = 1_400_000_000_000_000 + number * 10**12 + 100_000 * k
            stamps.append(f"{stamp} 1")
            image = cv2.cvtColor(picture(pose, c), cv2.COLOR_RGB2GRAY)
            (root / name / "stereo/centre").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name / "stereo/centre" / f"{stamp}.png"), image)
            base = pose @ inverse(SENSOR_OPTICAL) @ np.diag([1.0, -1, -1, 1])
            unit = base @ sensor_mountings(None)["ins"]
            lat, lon, alt = (float(x) for x in datum.to_geodetic(unit[:3, 3]))
            R = map_ned(datum, np.array([lat]), np.array([lon]))[0].T @ unit[:3, :3]
            angles = ",".join(repr(float(a)) for a in matrix_to_euler(R))
            lines.append(f"{stamp},INS_SOLUTION_GOOD,{lat!r},{lon!r},{alt!r},0,0,0,30U,0,0,0,{angles}")
        (root / name / "stereo.timestamps").write_text("\n".join(stamps) + "\n")
        (root / name / "gps").mkdir()
        (root / name / "gps" / "ins.csv").write_text("\n".join(lines) + "\n")


def write_robotcar_seasons(root, conditions):
    """The reference drive, and of each condition images with published poses and test images."""
    for folder in ("intrinsics", "extrinsics", "3D-models/all-merged"):
        (root / folder).mkdir(parents=True)
    c = camera(16, 12)
    (root / "intrinsics/rear_intrinsics.txt").write_text(f"fx {c.fx}\nfy {c.fy}\ncx {c.cx}\ncy {c.cy}\n")
    (root / "extrinsics/rear_extrinsics.txt").write_text("\n".join(", ".join(map(str, r)) for r in np.eye(4)) + "\n")
    models, train, test = [], [], []
    for number, condition in enumerate(("overcast-reference", *conditions)):
        for k, pose in enumerate(poses(number)):
            stamp = 1_410_000_000_000_000 + number * 10**12 + 100_000 * k
            name = f"{condition}/rear/{stamp}"
            write_image(root / "images" / f"{name}.jpg", pose)
            T_world_cam = inverse(T_MAP_WORLD) @ pose
            if number == 0:
                turn = row(quaternion(T_world_cam[:3, :3].T))
                models.append(f"./{name}.png 400.0 {turn} {row(T_world_cam[:3, 3])} 0 0")
            elif k % 2:
                test.append(f"{name}.jpg")
            else:
                train.append(f"{name}.jpg {row(T_world_cam)}")
    model = ["NVM_V3", "", str(len(models)), *models, "", "0"]
    (root / "3D-models/all-merged/all.nvm").write_text("\n".join(model) + "\n")
    (root / "robotcar_v2_train.txt").write_text("\n".join(train) + "\n")
    (root / "robotcar_v2_test.txt").write_text("\n".join(test) + "\n")


def write_fourseasons(root, names):
    """Recordings whose odometry is the ENU frame of the papers' protocol, and their calibration."""
    datum, c = Datum(48.25, 11.6, 500.0), camera(16, 12)
    calibration = root / "calibration"
    calibration.mkdir(parents=True)
    for n in "01":
        size = "16 12\ncrop\n16 12\n"
        (calibration / f"undistorted_calib_{n}.txt").write_text(f"Pinhole {c.fx} {c.fy} {c.cx} {c.cy} 0 0 0 0\n{size}")
    stereo = np.eye(4)
    stereo[0, 3] = -0.3
    np.savetxt(calibration / "undistorted_calib_stereo.txt", stereo)
    x, y, z, w = matrix_to_quaternion(datum.R_enu_ecef.T)
    earth = (*geodetic_to_ecef(48.25, 11.6, 500.0), x, y, z, w)
    still = (0, 0, 0, 0, 0, 0, 1)
    frames = {"transform_S_AS": still, "TS_cam_imu": still, "transform_w_gpsw": still, "transform_gps_imu": still,
              "transform_e_gpsw": earth}  # fmt: skip
    text = "\n".join(f"# {name}: t, q\n{','.join(repr(float(v)) for v in values)}" for name, values in frames.items())
    for number, name in enumerate(names):
        folder = root / name
        rows, times = ["# timestamp_ns, tran_x, ..., v3"], []
        for k, pose in enumerate(poses(number)):
            stamp = 1_600_000_000_000_000_000 + number * 10**15 + k * 100_000_000
            write_image(folder / "undistorted_images/cam0" / f"{stamp}.png", pose)
            x, y, z, w = matrix_to_quaternion(pose[:3, :3])
            values = ",".join(repr(float(v)) for v in (*pose[:3, 3], x, y, z, w, 1.0, 0.9))
            rows.append(f"{stamp},{values}")
            times.append(f"{stamp} {stamp // 10**9}.{stamp % 10**9:09d} 2.0")
        (folder / "GNSSPoses.txt").write_text("\n".join(rows) + "\n")
        (folder / "Transformations.txt").write_text(text + "\n# GNSS scale\n1.0\n")
        (folder / "times.txt").write_text("\n".join(times) + "\n")


def write_apolloscape(root, scenes):
    """Each scene with one record to train and one to test, by its lists."""
    for scene in scenes:
        folder = root / scene
        (folder / "split").mkdir(parents=True)
        for number, subset in ((1, "train"), (2, "val")):
            record, lines, listed = f"Record{number:03d}", [], []
            for k, pose in enumerate(poses(number)):
                name = f"171206_034{number}{k:02d}609_Camera_5.jpg"
                write_image(folder / "image" / record / "Camera_5" / name, pose)
                values = (*matrix_to_euler(pose[:3, :3]), *pose[:3, 3])
                lines.append(f"{name} {','.join(repr(float(v)) for v in values)}")
                listed.append(f"{record}/Camera_5/{name}")
            (folder / "pose" / record).mkdir(parents=True)
            (folder / "pose" / record / "Camera_5.txt").write_text("\n".join(lines) + "\n")
            (folder / "split" / f"{subset}.txt").write_text("\n".join(listed) + "\n")


def write_euroc(folder, T):
    """One camera on a body whose axes are the camera's, with a body pose for every image."""
    root, c = folder / "mav0", camera(16, 12)
    truth, images = ["#timestamp, p, q wxyz"], ["#timestamp [ns],filename"]
    (root / "state_groundtruth_estimate0").mkdir(parents=True)
    for k, pose in enumerate(T):
        stamp = 1_403_636_579_763_555_584 + 50_000_000 * k
        write_image(root / "cam0/data" / f"{stamp}.png", pose)
        images.append(f"{stamp},{stamp}.png")
        values = (*pose[:3, 3], *quaternion(pose[:3, :3]), *([0.0] * 9))
        truth.append(",".join([str(stamp), *(repr(float(v)) for v in values)]))
    (root / "cam0/data.csv").write_text("\n".join(images) + "\n")
    (root / "state_groundtruth_estimate0/data.csv").write_text("\n".join(truth) + "\n")
    mounting = f"T_BS:\n  cols: 4\n  rows: 4\n  data: {np.eye(4).ravel().tolist()}\n"
    (root / "state_groundtruth_estimate0/sensor.yaml").write_text(mounting)
    (root / "cam0/sensor.yaml").write_text(
        f"sensor_type: camera\n{mounting}camera_model: pinhole\nresolution: [16, 12]\n"
        f"intrinsics: [{c.fx}, {c.fy}, {c.cx}, {c.cy}]\n"
        "distortion_model: radial-tangential\ndistortion_coefficients: [-0.28, 0.07, 0.0002, 1.8e-05]\n"
    )


def write_kapture(folder, T):
    """One camera, in a rig that has the poses."""
    c, stamps = camera(16, 12), [1_600_000_000_000_000_000 + 10**8 * k for k in range(len(T))]
    for stamp, pose in zip(stamps, T, strict=True):
        write_image(folder / "sensors/records_data/cam0" / f"{stamp}.png", pose)
    # COLMAP's pixels have their centres at one half.
    lens = f"PINHOLE, 16, 12, {c.fx}, {c.fy}, {c.cx + 0.5}, {c.cy + 0.5}"
    rows = {
        "sensors": [f"cam0, , camera, {lens}"],
        "rigs": ["vehicle, cam0, 1, 0, 0, 0, 0, 0, 0"],
        "records_camera": [f"{stamp}, cam0, cam0/{stamp}.png" for stamp in stamps],
        "trajectories": [
            f"{stamp}, vehicle, " + ", ".join(repr(float(v)) for v in (*quaternion(back[:3, :3]), *back[:3, 3]))
            for stamp, back in zip(stamps, map(inverse, T), strict=True)
        ],
    }
    for name, lines in rows.items():
        (folder / "sensors" / f"{name}.txt").write_text("\n".join(["# kapture format: 1.1", *lines]) + "\n")


def write_nerf(folder, T):
    """A capture: OpenGL cameras, pixel centres at one half."""
    c, frames = camera(16, 12), []
    for k, pose in enumerate(T):
        write_image(folder / "images" / f"{k:06d}.png", pose)
        matrix = (pose @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()
        frames.append({"file_path": f"images/{k:06d}.png", "transform_matrix": matrix})
    lens = {"fl_x": c.fx, "fl_y": c.fy, "cx": c.cx + 0.5, "cy": c.cy + 0.5, "w": 16, "h": 12}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def write_colmap(folder, T):
    """A text model without points, its images beside it."""
    c = camera(16, 12)
    (folder / "sparse").mkdir(parents=True)
    lens = f"1 PINHOLE 16 12 {row((c.fx, c.fy, c.cx + 0.5, c.cy + 0.5))}\n"
    (folder / "sparse/cameras.txt").write_text(lens)
    lines = []
    for k, pose in enumerate(T):
        write_image(folder / "images" / f"{k:06d}.png", pose)
        back = inverse(pose)
        lines.append(f"{k + 1} {row(quaternion(back[:3, :3]))} {row(back[:3, 3])} 1 {k:06d}.png\n\n")
    (folder / "sparse/images.txt").write_text("".join(lines))
    (folder / "sparse/points3D.txt").write_text("")
