"""Structure-based localization of real images: the splits, the yardstick (SIFT, similar images, PnP), and ours.

    python bench/real_features.py --root ../shared/data [--sets tum,hololens] [--dev] [--methods yardstick,features]

``--dev`` takes other query frames of the same sets, for choosing settings; the reported ones choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.types import Array, CameraModel, RgbImage

Ints = npt.NDArray[np.int64]
SETS = ("hololens", "tum", "kitti_stereo", "kitti_street_between", "kitti_street_gap")


@dataclass(frozen=True)
class Files:
    """Image files as a source."""

    paths: tuple[Path, ...]

    def image(self, index: int) -> RgbImage:
        return np.asarray(cv2.imread(str(self.paths[index]), cv2.IMREAD_COLOR)[..., ::-1], dtype=np.uint8)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.paths)):
            yield index, self.image(index)


@dataclass(frozen=True)
class Split:
    """What a map is made of, and what is asked of it."""

    name: str
    map: PosedSequence
    queries: PosedSequence


def _sequence(name: str, paths: list[Path], T: Array, camera: CameraModel, step_ns: int = 100_000_000) -> PosedSequence:
    stamps = 1_000_000_000 + step_ns * np.arange(len(paths), dtype=np.int64)
    return PosedSequence(name, stamps, T, np.eye(4), camera, Files(tuple(paths)))


def _rows34(path: Path) -> Array:
    rows = np.loadtxt(path)
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3] = rows.reshape(len(rows), -1, 4)[:, :3]
    # Written with few digits: rotations are made exact again.
    u, _, vt = np.linalg.svd(T[:, :3, :3])
    T[:, :3, :3] = u @ vt
    return T


def hololens(root: Path, dev: bool = False) -> Split:
    folder = root / "hololens_indoor"
    paths = sorted((folder / "images").iterdir())
    T = _rows34(folder / "poses.txt")
    camera = CameraModel(540, 360, 495.57, 495.48, 269.50, 169.19)
    whole = _sequence("hololens", paths, T, camera)
    if dev:  # blocks of the first pass that the map does not know
        block = (np.arange(261) // 20) % 3 == 1
        chosen = np.flatnonzero(~block)[::3]
        asked = np.flatnonzero(block)[::4]
    else:
        chosen = np.arange(0, 261, 3)
        t, R = T[:, :3, 3], T[:, :3, :3]
        asked_list = []
        for q in range(291, len(paths)):
            distance = np.linalg.norm(t[:261] - t[q], axis=1)
            trace = np.einsum("nij,ij->n", R[:261], R[q])
            angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
            if distance.min() < 0.75 and ((distance < 1.0) & (angle < 30.0)).any():
                asked_list.append(q)
        asked = np.array(asked_list)
    return Split("hololens", whole.select(chosen), whole.select(asked))


def tum(root: Path, dev: bool = False) -> Split:
    folder = root / "tum_fr1_xyz"
    paths = sorted((folder / "rgb").glob("*.*g"))
    table = np.loadtxt(folder / "groundtruth.txt")
    from scipy.spatial.transform import Rotation

    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(table[:, 4:8]).as_matrix(), table[:, 1:4]
    stamps = np.round(table[:, 0] * 1e9).astype(np.int64)
    keep = np.concatenate([[True], np.diff(stamps) > 0])
    track = PoseTrack(stamps[keep], poses[keep], 500_000_000)
    wanted = np.array([round(float(p.stem) * 1e9) for p in paths], dtype=np.int64)
    T, _ = track.many(np.clip(wanted, track.start_ns, track.end_ns))  # the first image is a moment before them
    camera = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633))
    whole = _sequence("tum", paths, T, camera)
    asked = np.arange(102, 200, 4) if dev else np.arange(100, 200, 4)
    return Split("tum", whole.select(np.arange(0, 100, 3)), whole.select(asked))


def kitti_stereo(root: Path, dev: bool = False) -> Split:
    folder = root / "kitti00_full_res"
    camera = CameraModel(1241, 376, 718.856, 718.856, 607.1928, 185.2157)
    T = _rows34(folder / "poses.txt")[:100]
    left = _sequence("left", sorted((folder / "left").iterdir()), T, camera)
    right = T.copy()
    right[:, :3, 3] += 0.5372 * T[:, :3, 0]
    other = _sequence("right", sorted((folder / "right").iterdir()), right, camera)
    asked = np.arange(1, 97, 6) if dev else np.arange(3, 97, 6)
    return Split("kitti_stereo", left.select(np.arange(0, 97, 6)), other.select(asked))


def kitti_street(root: Path, gap: bool, dev: bool = False) -> Split:
    folder = root / "kitti00_416x128"
    camera = CameraModel(416, 128, 240.97, 244.72, 203.54, 63.05)
    paths = sorted((folder / "rgb").iterdir())
    T = _rows34(folder / "poses.txt")[: len(paths)]
    T[:, :3, 3] -= 0.063 * T[:, :3, 0]  # the colour camera sits left of camera 0
    whole = _sequence("street", paths, T, camera)
    n = np.arange(len(paths))
    starts = (110, 310, 510, 710, 910) if dev else (200, 400, 600, 800)
    blocked = np.isin(n, np.concatenate([np.arange(s, s + 20) for s in starts]))
    chosen = n[(n % 2 == 0) & ~blocked]
    asked = n[blocked] if gap else n[~blocked & (n % 2 == 1)][5 if dev else 0 :: 10]
    name = f"kitti_street_{'gap' if gap else 'between'}"
    return Split(name, whole.select(chosen), whole.select(asked))


def split(name: str, root: Path, dev: bool = False) -> Split:
    """A split by name."""
    if name.startswith("kitti_street"):
        return kitti_street(root, name.endswith("gap"), dev)
    return {"hololens": hololens, "tum": tum, "kitti_stereo": kitti_stereo}[name](root, dev)


def errors(T: Array | None, truth: Array) -> tuple[float, float]:
    """Metres and degrees; infinite where there is no pose."""
    if T is None:
        return float("inf"), float("inf")
    trace = float(np.trace(T[:3, :3].T @ truth[:3, :3]))
    angle = float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))
    return float(np.linalg.norm(T[:3, 3] - truth[:3, 3])), angle


def told(name: str, found: list[tuple[float, float]], seconds: float) -> str:
    """One row: medians, recalls over all queries, CPU seconds a query."""
    e = np.asarray(found)
    recall = {
        f"{100 * m:g}cm{d:g}": float(((e[:, 0] <= m) & (e[:, 1] <= d)).mean())
        for m, d in ((0.05, 5), (0.25, 2), (0.5, 5), (2, 5))
    }
    shown = " ".join(f"{k} {100 * v:.0f}%" for k, v in recall.items())
    medians = f"median {np.median(e[:, 0]):.4f} m {np.median(e[:, 1]):.3f} deg"
    return f"{name:28s} n {len(e):3d} {medians}  {shown}  {seconds:.3f} s"
