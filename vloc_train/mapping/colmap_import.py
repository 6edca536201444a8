"""COLMAP and hloc models that exist already: as sparse models of recorded drives, or as drives themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from vloc_ros.datasets import PosedSequence, open_source
from vloc_ros.datasets.colmap import ColmapImages
from vloc_ros.datasets.colmap_model import ColmapModel, find_model, read_model
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.errors import CameraError, CameraMismatchError, DatasetError
from vloc_ros.evaluation.alignment import align_poses
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.settings import ranged
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel, observations_csr
from vloc_train.mapping.sfm_blocks import with_statistics

__all__ = ["ColmapImages", "ColmapSettings", "find_model", "import_model", "names_of", "open_colmap"]


@dataclass(frozen=True)
class ColmapSettings:
    """How a model that exists is taken over.

    :param models: folders of models by scene; a scene that was itself opened as ``colmap:MODEL`` needs none.
    :param align: bring the model into the frame of the drive's poses by a similarity. Without it the model must be in
        that frame already.
    :param within_m: median difference of the model's positions from the drive's that is still the same frame.
    :param within_deg: median difference of the orientations.
    :param error_px: observations of a larger reprojection error are left out.
    :param minimum_track: points that fewer frames see are left out.
    """

    models: dict[str, str] = field(default_factory=dict)
    align: bool = False
    within_m: float = ranged(0.5, minimum=0.0)
    within_deg: float = ranged(2.0, minimum=0.0)
    error_px: float = ranged(4.0, minimum=0.1)
    minimum_track: int = ranged(2, minimum=1)


def open_colmap(name: str) -> list[PosedSequence]:
    """``colmap:MODEL[,IMAGES]`` or ``colmap:MODEL[,OPTION=VALUE...]`` as drives (:mod:`vloc_ros.datasets.colmap`).

    :raises DatasetError: no model, no images. :raises CameraError: a camera model that is not supported.
    """
    return open_source(name)


def names_of(sequence: PosedSequence) -> list[tuple[str, ...]]:
    """What a model may call each frame of a drive: its file, from the end, or its stamp."""
    source, rows = sequence.source, np.arange(len(sequence))
    while hasattr(source, "indices") and hasattr(source, "source"):
        rows, source = np.asarray(source.indices)[rows], source.source
    stamps = [str(int(s)) for s in sequence.stamps_ns]
    if isinstance(source, ColmapImages):
        return [(source.names[r],) for r in rows]
    if isinstance(source, FolderImages):
        return [_endings(source.paths[int(r)]) for r in rows]
    return [(s,) for s in stamps]


def _endings(path: Path) -> tuple[str, ...]:
    parts = PurePosixPath(path.as_posix()).parts
    return tuple("/".join(parts[-n:]) for n in range(1, min(len(parts), 6)))


def import_model(
    folder: Path, sequences: Sequence[PosedSequence], settings: ColmapSettings | None = None
) -> SparseModel:
    """The part of a COLMAP model that the drives' frames see.

    Images are told by their file names (as many folders of them as the model states), or by the stamp in nanoseconds.
    A model whose image is a drive's frame scaled down or up is carried over by the size.

    :raises DatasetError: no model, no image of it among the drives' frames, another map frame, or no points left.
    :raises CameraMismatchError: a camera of the model is not the drive's.
    """
    settings = settings or ColmapSettings()
    model = read_model(find_model(folder))
    place: dict[str, tuple[int, int]] = {}
    for drive, sequence in enumerate(sequences):
        for number, names in enumerate(names_of(sequence)):
            for name in names:
                place.setdefault(name, (drive, number))
    found = [(place.get(i.name) or place.get(PurePosixPath(i.name).stem), i) for i in model.images]
    pairs = sorted(((p, i) for p, i in found if p is not None), key=lambda entry: entry[0])
    if not pairs:
        known = next(iter(place), "none")
        shown = model.images[0].name if model.images else "none"
        raise DatasetError(
            f"{folder}: expected images of the model (such as {shown}) among the frames of "
            f"{', '.join(s.name for s in sequences)} (such as {known}), found none"
        )
    wanted = np.stack([sequences[d].T_map_cam[n] for (d, n), _ in pairs])
    T = np.stack([i.T_map_cam for _, i in pairs])
    points = model.points
    if settings.align:
        T, points = align_poses(T, wanted, points)
    metres = float(np.median(np.linalg.norm(T[:, :3, 3] - wanted[:, :3, 3], axis=1)))
    degrees = float(np.degrees(np.median(rotation_angle(T[:, :3, :3], wanted[:, :3, :3]))))
    if metres > settings.within_m or degrees > settings.within_deg:
        advice = (
            "the model is of another place, or its images have other names"
            if settings.align
            else "set colmap.align=true if the model has a frame or scale of its own"
        )
        raise DatasetError(
            f"{folder}: expected the model's poses within {settings.within_m:g} m and {settings.within_deg:g} deg of "
            f"the drive's, found a median of {metres:.3g} m and {degrees:.3g} deg; {advice}"
        )
    cameras: dict[CameraModel, int] = {}
    frame_of, ids, pixels, camera_index = [], [], [], []
    for row, ((drive, number), image) in enumerate(pairs):
        camera, scale = _camera_for(model, image.camera_id, sequences[drive].camera, f"{folder}: {image.name}")
        camera_index.append(cameras.setdefault(camera, len(cameras)))
        frame_of.append(np.full(len(image.point_ids), row))
        ids.append(np.searchsorted(model.point_ids, image.point_ids))
        pixels.append((image.pixels + 0.5) * scale - 0.5)
        del number
    offsets, point_ids, at = observations_csr(
        np.concatenate(frame_of), np.concatenate(ids).astype(np.int64), np.concatenate(pixels), len(pairs)
    )
    raw = SparseModel(
        points,
        np.zeros(len(points), dtype=np.int32),
        np.zeros(len(points), dtype=np.float32),
        offsets,
        point_ids,
        at,
        T,
        np.array([sequences[d].stamps_ns[n] for (d, n), _ in pairs], dtype=np.int64),
        np.array(camera_index, dtype=np.int64),
        tuple(cameras),
        np.array([d for (d, _), _ in pairs], dtype=np.int64),
        np.array([n for (_, n), _ in pairs], dtype=np.int64),
    )
    out = with_statistics(raw, settings.error_px, settings.minimum_track)
    if not len(out.points):
        raise DatasetError(
            f"{folder}: expected points within {settings.error_px:g} px that {settings.minimum_track} of the drives' "
            f"frames see, found none of {len(points)}"
        )
    return out


def _camera_for(model: ColmapModel, camera_id: int, drive: CameraModel, where: str) -> tuple[CameraModel, np.ndarray]:
    """The model's camera at the size of the drive's images, and the scale of its pixels."""
    from vloc_ros.geometry.cameras import field_of_view, resized

    try:
        camera = model.cameras[camera_id]
    except KeyError as missing:
        raise CameraError(f"{where}: expected camera {camera_id} in the model, found none") from missing
    scale = np.array([drive.width / camera.width, drive.height / camera.height])
    # Its own calibration stays (COLMAP may have refined it), as long as it sees what the drive's camera sees.
    seen, expected = np.array(field_of_view(camera)), np.array(field_of_view(drive))
    if abs(scale[0] / scale[1] - 1.0) > 0.02 or bool((np.abs(seen / expected - 1.0) > 0.05).any()):
        raise CameraMismatchError(
            f"{where}: expected the drive's camera of {drive.width}x{drive.height} and "
            f"{np.degrees(expected[0]):.1f} deg, found {camera.width}x{camera.height} and "
            f"{np.degrees(seen[0]):.1f} deg in the model"
        )
    return resized(camera, drive.width, drive.height), scale
