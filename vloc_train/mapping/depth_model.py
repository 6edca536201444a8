"""A sparse model from depth images: corners with depth become points, and every frame that sees them observes them.

A point counts as seen where a frame's own depth agrees with its distance; what moves between frames drops out by that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets import PosedSequence
from vloc_ros.datasets.image_files import FolderImages, decoded
from vloc_ros.datasets.sequence import ImageSource
from vloc_ros.errors import CameraMismatchError, DatasetError
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.geometry.se3 import inverse, transform_points
from vloc_ros.settings import ranged
from vloc_ros.staging import replacing
from vloc_ros.types import Array, CameraModel, RgbImage
from vloc_train.mapping.neighbours import neighbour_pairs
from vloc_train.mapping.points import SparseModel, observations_csr
from vloc_train.mapping.sfm_frames import Frames, Progress, chosen_frames, digest_of
from vloc_train.training.depth import DepthSource

__all__ = ["DepthSettings", "depth_model", "depth_of", "with_depth_folder"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DepthSettings:
    """Points from depth. All our choice.

    :param folders: depth images by scene, where the drive's own reader has none: 16-bit PNG files that are named as
        the colour images or by the stamp in nanoseconds, or as many as there are frames.
    :param scale: grey levels a metre of those (TUM: 5000; KITTI: 256).
    :param cell_px: one point for each square of the image with this side, unless one is there already.
    :param near_m: nearest depth that is used.
    :param far_m: farthest; what lies further has no parallax to speak of.
    :param tolerance: difference of a point's distance from a frame's depth there, as a share of it.
    :param minimum_track: points that fewer frames see are left out.
    :param spacing_m: as of structure from motion.
    :param spacing_deg: as of structure from motion.
    :param neighbours: frames that are asked whether they see a frame's points.
    :param reach_m: farthest of them.
    :param reach_deg: largest difference of viewing direction.
    """

    folders: dict[str, str] = field(default_factory=dict)
    scale: float = ranged(5000.0, minimum=1e-6)
    cell_px: int = ranged(12, minimum=2)
    near_m: float = ranged(0.1, minimum=0.0)
    far_m: float = ranged(80.0, minimum=0.1)
    tolerance: float = ranged(0.02, minimum=0.0001, maximum=1.0)
    minimum_track: int = ranged(3, minimum=1)
    spacing_m: float = ranged(0.2, minimum=0.0)
    spacing_deg: float = ranged(5.0, minimum=0.0)
    neighbours: int = ranged(16, minimum=1)
    reach_m: float = ranged(20.0, minimum=0.01)
    reach_deg: float = ranged(60.0, minimum=0.0, maximum=180.0)


def depth_of(sequence: PosedSequence) -> Callable[[int], F32] | None:
    """What gives the depth image (H, W) of a drive's frame, in metres along the optical axis; None without one."""
    source, chosen = sequence.source, None
    while not isinstance(source, DepthSource) and hasattr(source, "indices") and hasattr(source, "source"):
        chosen = source.indices if chosen is None else source.indices[chosen]
        source = source.source
    if not isinstance(source, DepthSource):
        return None
    depth = source.depth
    if chosen is None:
        return depth
    rows = np.asarray(chosen, dtype=np.int64)
    return lambda index: depth(int(rows[index]))


def with_depth_folder(sequence: PosedSequence, folder: Path, scale: float) -> PosedSequence:
    """A drive whose depth lies in 16-bit PNG files.

    :raises DatasetError: no such files, or ones that cannot be told to be of which frame.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() == ".png")
    if not files:
        raise DatasetError(f"{folder}: expected depth images (16-bit .png), found none")
    by_stem = {p.stem: p for p in files}
    names: list[list[str]] = [[str(int(stamp)) for stamp in sequence.stamps_ns]]
    if isinstance(sequence.source, FolderImages):
        names.insert(0, [p.stem for p in sequence.source.paths])
    for stems in names:
        if all(stem in by_stem for stem in stems):
            return replace(sequence, source=_FolderDepth(sequence.source, tuple(by_stem[s] for s in stems), scale))
    if len(files) != len(sequence):
        raise DatasetError(
            f"{folder}: expected depth images named as the colour images or by stamp, or {len(sequence)} of them as "
            f"there are frames in {sequence.name}, found {len(files)}"
        )
    return replace(sequence, source=_FolderDepth(sequence.source, tuple(files), scale))


class _FolderDepth:
    """A drive's images, with depth files beside them."""

    def __init__(self, images: ImageSource, files: tuple[Path, ...], scale: float) -> None:
        self._images, self._files, self._scale = images, files, scale

    def image(self, index: int) -> RgbImage:
        return self._images.image(index)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        return self._images.frames()

    def depth(self, index: int) -> F32:
        """:raises DatasetError: the file is no 16-bit image of one channel."""
        raw = decoded(self._files[index], cv2.IMREAD_UNCHANGED)
        if raw.ndim != 2 or raw.dtype != np.uint16:
            raise DatasetError(
                f"{self._files[index]}: expected a 16-bit image of one channel, found {raw.dtype} of shape {raw.shape}"
            )
        return np.asarray(raw, dtype=np.float32) / np.float32(self._scale)


def depth_model(
    sequences: Sequence[PosedSequence], settings: DepthSettings, work: Path, progress: Progress | None = None
) -> SparseModel:
    """Points of the depth images of the drives of one scene.

    :param work: where corners and depths of finished frames lie; the same call continues from them.
    :raises DatasetError: a drive without depth, depth of another size than the image, or no points.
    """
    report = progress or (lambda *_: None)
    depths = [depth_of(s) for s in sequences]
    for sequence, depth in zip(sequences, depths, strict=True):
        if depth is None:
            raise DatasetError(
                f"{sequence.name}: expected a drive with depth images, found none; name a folder of them "
                "(depth.folders.SCENE=PATH), or triangulate (source=sfm)"
            )
    frames = chosen_frames(sequences, settings.spacing_m, settings.spacing_deg)
    folder = _prepared(frames, depths, settings, work, report)

    @functools.lru_cache(maxsize=2 * settings.neighbours + 4)
    def stored(frame: int) -> tuple[Array, Array, F32]:
        with np.load(folder / f"{frame:07d}.npz", allow_pickle=False) as file:
            return file["pixels"], file["points"], file["depth"]

    pairs = neighbour_pairs(
        frames.T_map_cam, frames.drive, settings.neighbours, settings.reach_m, settings.reach_deg, 0.0
    )
    pairs = np.concatenate([pairs, pairs[:, ::-1], np.repeat(np.arange(len(frames))[:, None], 2, axis=1)])
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    starts = np.searchsorted(pairs[:, 0], np.arange(len(frames) + 1))
    near = [pairs[starts[f] : starts[f + 1], 1] for f in range(len(frames))]
    T_cam_map = inverse(frames.T_map_cam)

    def seen(frame: int, points: Array) -> tuple[npt.NDArray[np.bool_], Array]:
        cam = transform_points(T_cam_map[frame], points)
        pixels, valid = project(frames.camera(frame), cam)
        u, v = np.round(np.where(valid[:, None], pixels, 0.0)).astype(np.int64).T
        there = stored(frame)[2][v, u].astype(np.float64)
        with np.errstate(invalid="ignore"):
            valid &= np.abs(there - cam[:, 2]) <= settings.tolerance * cam[:, 2]
        return valid, pixels

    # Points are made where no earlier frame's point shows, and then looked for in every neighbour.
    made: list[Array] = []
    first: list[int] = [0]
    for frame in range(len(frames)):
        pixels, points, _ = stored(frame)
        camera = frames.camera(frame)
        shape = (-(-camera.height // settings.cell_px), -(-camera.width // settings.cell_px))
        taken = np.zeros(shape, dtype=bool)
        earlier = [made[o] for o in near[frame] if o < frame and len(made[o])]
        if earlier:
            valid, shown = seen(frame, np.concatenate(earlier))
            columns, rows = (np.clip(np.round(shown[valid]), 0, None).astype(np.int64) // settings.cell_px).T
            taken[rows, columns] = True
        columns, rows = (pixels.astype(np.int64) // settings.cell_px).T
        made.append(points[~taken[rows, columns]])
        first.append(first[-1] + len(made[-1]))
    frame_of, ids, where = [], [], []
    for frame in range(len(frames)):
        others = [int(o) for o in near[frame] if len(made[o])]
        if others:
            valid, shown = seen(frame, np.concatenate([made[o] for o in others]))
            numbers = np.concatenate([np.arange(first[o], first[o + 1]) for o in others])
            frame_of.append(np.full(int(valid.sum()), frame))
            ids.append(numbers[valid])
            where.append(shown[valid])
        report("points", frame + 1, len(frames))
    if not ids or not sum(len(i) for i in ids):
        raise DatasetError(
            f"expected depth between {settings.near_m:g} and {settings.far_m:g} m, found no usable pixel; is the "
            "scale of the depth images right (depth.scale)?"
        )
    offsets, point_ids, at = observations_csr(
        np.concatenate(frame_of), np.concatenate(ids), np.concatenate(where), len(frames)
    )
    count = first[-1]
    length = np.bincount(point_ids, minlength=count).astype(np.int32)
    model = SparseModel(
        np.concatenate(made), length, np.zeros(count, dtype=np.float32), offsets, point_ids, at, frames.T_map_cam,
        frames.stamps_ns, frames.camera_index, frames.cameras, frames.drive, frames.number,
    )  # fmt: skip
    model = model.keep(np.ones(len(point_ids), dtype=bool), settings.minimum_track)
    if not len(model.points):
        raise DatasetError(
            f"expected points that {settings.minimum_track} frames see, found none; do depths and poses agree "
            "(depth.scale, depth.tolerance), and do the frames overlap?"
        )
    return model


def _prepared(
    frames: Frames, depths: Sequence[Callable[[int], F32] | None], settings: DepthSettings, work: Path, report: Progress
) -> Path:
    """Corners with depth, and the depth image, of every frame in a file."""
    name = digest_of(
        settings, [(s.name, s.camera, len(s)) for s in frames.sequences], frames.T_map_cam.tobytes(),
        frames.stamps_ns.tobytes(),
    )  # fmt: skip
    folder = work / f"depth-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(len(frames)):
        file = folder / f"{frame:07d}.npz"
        if not file.exists():
            drive, number = int(frames.drive[frame]), int(frames.number[frame])
            read = depths[drive]
            assert read is not None
            image, depth = frames.sequences[drive].image(number), np.asarray(read(number), dtype=np.float32)
            if depth.shape != image.shape[:2]:
                raise CameraMismatchError(
                    f"{frames.sequences[drive].name}: frame {number}: expected depth of {image.shape[1]}x"
                    f"{image.shape[0]} as the image, found {depth.shape[1]}x{depth.shape[0]}"
                )
            pixels, points = _corners(image, depth, frames.camera(frame), settings)
            points = transform_points(frames.T_map_cam[frame], points)
            with replacing(file, clean=False) as stream:
                np.savez(stream, pixels=pixels, points=points, depth=depth)
        report("depth", frame + 1, len(frames))
    return folder


def _corners(image: RgbImage, depth: F32, camera: CameraModel, settings: DepthSettings) -> tuple[Array, Array]:
    """The strongest corner of each cell that has a depth and is no silhouette: pixels (K, 2), points (K, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    strength = np.asarray(cv2.cornerMinEigenVal(grey, 3), dtype=np.float64)
    usable = np.isfinite(depth) & (depth >= settings.near_m) & (depth <= settings.far_m)
    filled = np.where(usable, depth, np.float32(1e9))
    kernel = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(filled, kernel) / np.maximum(cv2.erode(filled, kernel), 1e-6)
    # Where depth jumps, the pixel beside belongs to another surface.
    usable &= spread < 1.0 + max(0.05, settings.tolerance)
    side = settings.cell_px
    height, width = depth.shape
    rows, columns = -(-height // side), -(-width // side)
    padded = np.full((rows * side, columns * side), -1.0)
    padded[:height, :width] = np.where(usable, strength, -1.0)
    cells = padded.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(rows * columns, side * side)
    best = cells.argmax(axis=1)
    kept = cells[np.arange(len(cells)), best] >= 0
    cell = np.flatnonzero(kept)
    v = (cell // columns) * side + best[kept] // side
    u = (cell % columns) * side + best[kept] % side
    pixels = np.stack([u, v], axis=1).astype(np.float64)
    rays = unproject(camera, pixels)
    known = np.isfinite(rays).all(axis=1)
    return pixels[known], rays[known] * depth[v[known], u[known]].astype(np.float64)[:, None]
