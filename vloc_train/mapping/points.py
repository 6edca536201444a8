"""The sparse model of one scene: points, who sees them where, and the frames that see them.

Whatever points come from (structure from motion, a COLMAP model, depth), this is all that map building, training and
quality reports know of them. Observations lie frame by frame (CSR): frame ``r`` sees the points
``point_ids[offsets[r]:offsets[r + 1]]`` at ``pixels[offsets[r]:offsets[r + 1]]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import yaml

from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.staging import replacing
from vloc_ros.types import Array, CameraModel
from vloc_ros.yaml_text import parse_yaml

__all__ = ["SparseModel", "joined", "observations_csr"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SparseModel:
    """Points and observations of R frames of one scene.

    :ivar points: (P, 3) float64, map frame, m.
    :ivar track_length: (P,) int32, frames that saw the point when it was made.
    :ivar error: (P,) float32, root mean square of the reprojection errors over the track, pixels.
    :ivar offsets: (R + 1,) int64, first observation of each frame.
    :ivar point_ids: (O,) int64, rows of ``points``; none twice in a frame.
    :ivar pixels: (O, 2) float64, where the frame sees the point: pixels of its own image, lens distortion included,
        centres at integers.
    :ivar T_map_cam: (R, 4, 4) float64.
    :ivar stamps_ns: (R,) int64.
    :ivar camera_index: (R,) int64, rows of ``cameras``.
    :ivar cameras: the cameras of the images that ``pixels`` are of: as they are on disk, or reduced.
    :ivar drive: (R,) int64, which of the scene's drives the frame is of.
    :ivar number: (R,) int64, which frame of that drive.
    :ivar features: (O,) int64, the number of the observation's feature in the store it was found in
        (:class:`~vloc_train.mapping.keypoints.FeatureStore`); None where points do not come from features.
    :raises DatasetError: arrays that do not fit together, values that are not finite, ids out of range.
    """

    points: Array
    track_length: npt.NDArray[np.int32]
    error: npt.NDArray[np.float32]
    offsets: Ints
    point_ids: Ints
    pixels: Array
    T_map_cam: Array
    stamps_ns: Ints
    camera_index: Ints
    cameras: tuple[CameraModel, ...]
    drive: Ints
    number: Ints
    features: Ints | None = None

    def __post_init__(self) -> None:
        P, R, O = len(self.points), len(self.T_map_cam), len(self.point_ids)  # noqa: E741
        shapes = {
            "points": (P, 3), "track_length": (P,), "error": (P,), "offsets": (R + 1,), "pixels": (O, 2),
            "T_map_cam": (R, 4, 4), "stamps_ns": (R,), "camera_index": (R,), "drive": (R,), "number": (R,),
        }  # fmt: skip
        for name, shape in shapes.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise DatasetError(f"sparse model: expected {name} of shape {shape}, found {found}")
        if self.features is not None and self.features.shape != (O,):
            raise DatasetError(f"sparse model: expected features of shape {(O,)}, found {self.features.shape}")
        for name in ("points", "error", "pixels", "T_map_cam"):
            if not np.isfinite(getattr(self, name)).all():
                raise DatasetError(f"sparse model: expected finite {name}, found NaN or infinity")
        if self.offsets[0] != 0 or self.offsets[-1] != O or bool((np.diff(self.offsets) < 0).any()):
            raise DatasetError(f"sparse model: expected offsets that rise from 0 to {O}, found others")
        for name, count in (("point_ids", P), ("camera_index", len(self.cameras))):
            values = getattr(self, name)
            if len(values) and not (values.min() >= 0 and values.max() < count):
                raise DatasetError(f"sparse model: expected {name} in [0, {count}), found others")

    def __len__(self) -> int:
        """Frames."""
        return len(self.T_map_cam)

    @cached_property
    def frame_of(self) -> Ints:
        """(O,) the frame of each observation."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def by_point(self) -> tuple[Ints, Ints]:
        """Observations point by point: offsets (P + 1,), and observation numbers (O,), frames rising."""
        counts = np.bincount(self.point_ids, minlength=len(self.points))
        return np.concatenate([[0], np.cumsum(counts)]), np.argsort(self.point_ids, kind="stable")

    def observations(self, frame: int) -> tuple[Ints, Array]:
        """Rows of the points that a frame sees (K,), and their pixels (K, 2)."""
        span = slice(int(self.offsets[frame]), int(self.offsets[frame + 1]))
        return self.point_ids[span], self.pixels[span]

    def frames_of(self, point: int) -> Ints:
        """The frames that see a point."""
        offsets, order = self.by_point
        return self.frame_of[order[offsets[point] : offsets[point + 1]]]

    def camera(self, frame: int) -> CameraModel:
        """The camera of a frame's image."""
        return self.cameras[int(self.camera_index[frame])]

    def covisible(self, frame: int) -> Ints:
        """(R,) how many of a frame's points each frame sees; a frame sees all of its own."""
        seen = np.zeros(len(self.points), dtype=bool)
        seen[self.observations(frame)[0]] = True
        return np.bincount(self.frame_of[seen[self.point_ids]], minlength=len(self))

    def points_cam(self) -> Array:
        """(O, 3) every observed point in the camera frame of the frame that sees it."""
        T = self.T_map_cam[self.frame_of]
        # T_cam_map p = R^T (p - t); einsum over the rotation's first axis transposes it.
        return np.asarray(np.einsum("oji,oj->oi", T[:, :3, :3], self.points[self.point_ids] - T[:, :3, 3]))

    def reprojection_errors(self) -> Array:
        """(O,) pixels between where each point is seen and where it projects; infinite where it does not project."""
        cam, out = self.points_cam(), np.full(len(self.point_ids), np.inf)
        camera_of = self.camera_index[self.frame_of]
        for index, camera in enumerate(self.cameras):
            mine = np.flatnonzero(camera_of == index)
            # A lens's valid radius and the image border do not matter for an error, only being in front does.
            pixels, _ = project(camera, cam[mine])
            distance = np.linalg.norm(pixels - self.pixels[mine], axis=1)
            out[mine] = np.where(cam[mine, 2] > 1e-6, distance, np.inf)
        return out

    def keep(self, observations: npt.NDArray[np.bool_], minimum_track: int = 1) -> SparseModel:
        """Only some observations (O,), and the points that at least ``minimum_track`` of them are left of.

        Track lengths stay what they were when the points were made.
        """
        left = np.bincount(self.point_ids[observations], minlength=len(self.points))
        kept = left >= max(minimum_track, 1)
        observations = observations & kept[self.point_ids]
        counts = np.bincount(self.frame_of[observations], minlength=len(self))
        row = np.cumsum(kept) - 1
        return replace(
            self,
            points=self.points[kept],
            track_length=self.track_length[kept],
            error=self.error[kept],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            point_ids=row[self.point_ids[observations]].astype(np.int64),
            pixels=self.pixels[observations],
            features=None if self.features is None else self.features[observations],
        )

    def select(self, frames: npt.ArrayLike, minimum_track: int = 1) -> SparseModel:
        """Only some frames, in rising order, and what they see; ``minimum_track`` as in :meth:`keep`.

        Points and their positions stay as all frames had made them.
        """
        wanted = np.unique(np.asarray(frames, dtype=np.int64))
        if len(wanted) and not (0 <= wanted[0] and wanted[-1] < len(self)):
            raise DatasetError(f"sparse model: expected frames in [0, {len(self)}), found others")
        kept = self.keep(np.isin(self.frame_of, wanted), minimum_track)
        counts = np.diff(kept.offsets)[wanted]
        return replace(
            kept,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            T_map_cam=self.T_map_cam[wanted],
            stamps_ns=self.stamps_ns[wanted],
            camera_index=self.camera_index[wanted],
            drive=self.drive[wanted],
            number=self.number[wanted],
        )

    def save(self, path: Path) -> Path:
        """Write one ``.npz`` without objects."""
        text = yaml.safe_dump([{**asdict(c), "distortion": list(c.distortion)} for c in self.cameras])
        known: dict[str, Any] = {} if self.features is None else {"features": self.features}
        with replacing(path) as stream:
            np.savez(
                stream,
                cameras=np.frombuffer(text.encode(), dtype=np.uint8),
                **known,
                **{name: getattr(self, name) for name in _ARRAYS},
            )
        return path

    @classmethod
    def load(cls, path: Path) -> SparseModel:
        """Read what :meth:`save` wrote. :raises DatasetError: it is not that, or is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*_ARRAYS, *(n for n in file.files if n == "features"))}
                listed = parse_yaml(bytes(file["cameras"]))
                cameras = tuple(CameraModel(**entry) for entry in listed)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, CameraError) as problem:
            raise DatasetError(f"{path}: expected a sparse model, found a file that is none: {problem}") from problem
        return cls(**arrays, cameras=cameras)


_ARRAYS = (
    "points", "track_length", "error", "offsets", "point_ids", "pixels", "T_map_cam", "stamps_ns", "camera_index",
    "drive", "number",
)  # fmt: skip


def observations_csr(frames: Ints, point_ids: Ints, pixels: Array, count: int) -> tuple[Ints, Ints, Array]:
    """Observations in any order to ``(offsets, point_ids, pixels)`` by frame, points rising within a frame.

    What else stands in further columns of ``pixels`` travels with them.

    Of several observations of a point in one frame the first is kept.

    :param frames: (O,) frame of each. :param point_ids: (O,). :param pixels: (O, 2 or more). :param count: frames R.
    """
    order = np.lexsort((point_ids, frames))
    frames, point_ids, pixels = frames[order], point_ids[order], pixels[order]
    first = np.ones(len(frames), dtype=bool)
    first[1:] = (np.diff(frames) != 0) | (np.diff(point_ids) != 0)
    frames, point_ids, pixels = frames[first], point_ids[first], pixels[first]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(frames, minlength=count))])
    return offsets.astype(np.int64), point_ids.astype(np.int64), np.asarray(pixels, dtype=np.float64)


def joined(models: Sequence[SparseModel]) -> SparseModel:
    """Models of one map frame side by side: frames, points and cameras one after another, drives counted on.

    :raises DatasetError: no model.
    """
    if not models:
        raise DatasetError("sparse model: expected at least one to join, found none")
    points = np.cumsum([0, *(len(m.points) for m in models)])
    cameras = np.cumsum([0, *(len(m.cameras) for m in models)])
    drives = np.cumsum([0, *(int(m.drive.max(initial=-1)) + 1 for m in models)])
    observed = np.cumsum([0, *(len(m.point_ids) for m in models)])
    return SparseModel(
        points=np.concatenate([m.points for m in models]),
        track_length=np.concatenate([m.track_length for m in models]),
        error=np.concatenate([m.error for m in models]),
        offsets=np.concatenate([[0], *(m.offsets[1:] + o for m, o in zip(models, observed, strict=False))]),
        point_ids=np.concatenate([m.point_ids + p for m, p in zip(models, points, strict=False)]),
        pixels=np.concatenate([m.pixels for m in models]),
        T_map_cam=np.concatenate([m.T_map_cam for m in models]),
        stamps_ns=np.concatenate([m.stamps_ns for m in models]),
        camera_index=np.concatenate([m.camera_index + c for m, c in zip(models, cameras, strict=False)]),
        cameras=tuple(c for m in models for c in m.cameras),
        drive=np.concatenate([m.drive + d for m, d in zip(models, drives, strict=False)]),
        number=np.concatenate([m.number for m in models]),
        features=np.concatenate([m.features for m in models if m.features is not None])
        if all(m.features is not None for m in models)
        else None,
    )
