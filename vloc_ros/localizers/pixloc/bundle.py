"""How a PixLoc map is written: tile by tile, so that it may be far larger than memory, and again where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError, MapTensorError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.store import NETWORK_FILE, POINTS_FILE, REFERENCES_FILE, LevelFeatures, tile_name
from vloc_ros.localizers.weights import stored_weights
from vloc_ros.maps import MapBundle, MapManifest, Scene, write_map
from vloc_ros.maps.reader import files_below
from vloc_ros.maps.tensors import encode_tensors
from vloc_ros.settings import ranged, settings_to_mapping
from vloc_ros.staging import replacing, staging_beside, writing
from vloc_ros.types import Array, CameraModel

__all__ = [
    "MAP_SECTION",
    "MapSettings",
    "ReferenceModel",
    "bytes_per_observation",
    "tile_tensors",
    "write_pixloc_map",
]

#: The part of a manifest's settings with :class:`MapSettings`.
MAP_SECTION = "map"
#: Features of one reference: for each scale of the pyramid, for each level, coarse to fine.
ReferenceFeatures = Sequence[Sequence[LevelFeatures]]


class ReferenceModel(Protocol):
    """A sparse model of one scene: P points, R references, O observations in the order of the references."""

    @property
    def points(self) -> Array:
        """(P, 3) metres."""

    @property
    def track_length(self) -> npt.NDArray[Any]:
        """(P,) images that observe each."""

    @property
    def offsets(self) -> npt.NDArray[Any]:
        """(R + 1,): reference r has observations offsets[r] to offsets[r + 1]."""

    @property
    def point_ids(self) -> npt.NDArray[Any]:
        """(O,)."""

    @property
    def T_map_cam(self) -> Array:
        """(R, 4, 4)."""

    @property
    def stamps_ns(self) -> npt.NDArray[np.int64]:
        """(R,)."""


@dataclass(frozen=True)
class MapSettings:
    """How the features of the references are stored.

    :param pyramid: scales of the preprocessed image at which features are extracted, rising, the last one 1; none:
        from ``coarsest_width``.
    :param coarsest_width: columns of the coarsest feature map of the lowest scale (paper: 16).
    :param precision: of the features: ``float16``, or ``int8``, which is half as large.
    :param tile_mb: size of a tile of references, megabytes; what is read and held at once.
    """

    pyramid: tuple[float, ...] = ranged((), minimum=0.01, maximum=1.0)
    coarsest_width: int = ranged(16, minimum=1, maximum=4096)
    precision: Literal["float16", "int8"] = "float16"
    tile_mb: float = ranged(8.0, minimum=0.001, maximum=1024.0)

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.pyramid, self.pyramid[1:], strict=False))
        if self.pyramid and (not rising or self.pyramid[-1] != 1.0):
            raise ConfigError(f"pixloc: expected pyramid to rise to 1, found {list(self.pyramid)}")

    def resolved(self, width: int, coarsest_stride: int) -> MapSettings:
        """With the pyramid for images ``width`` pixels wide: the lowest scale, unless that is nearly 1, and 1."""
        if self.pyramid:
            return self
        lowest = round(self.coarsest_width * coarsest_stride / width, 4)
        return replace(self, pyramid=(1.0,) if lowest > 0.75 else (lowest, 1.0))


def bytes_per_observation(dimensions: Sequence[int], settings: MapSettings) -> int:
    """Size of one observation in the tiles, all scales and levels."""
    half = settings.precision == "float16"
    return max(len(settings.pyramid), 1) * sum(2 * c + 2 if half else c + 4 for c in dimensions)


def tile_tensors(found: Sequence[ReferenceFeatures], precision: str) -> dict[str, Tensor]:
    """A tile of these references, in their order."""
    out: dict[str, Tensor] = {}
    for p in range(len(found[0])):
        for level in range(len(found[0][p])):
            features = torch.cat([reference[p][level].features for reference in found]).float().cpu()
            confidence = torch.cat([reference[p][level].confidence for reference in found]).float().cpu()
            out[f"confidence.{p}.{level}"] = confidence.half()
            if precision == "int8":
                peak = features.abs().amax(dim=1) if features.shape[1] else features.new_zeros(len(features))
                # The step is rounded first: values are then multiples of what is stored.
                step = torch.where(peak > 0, (peak / 127.0).clamp_min(1e-7), torch.ones_like(peak)).half()
                values = torch.round(features / step.float()[:, None]).clamp(-127, 127)
                out[f"features.{p}.{level}"], out[f"scale.{p}.{level}"] = values.to(torch.int8), step
            else:
                out[f"features.{p}.{level}"] = features.half()
    return out


def write_pixloc_map(
    out: str | os.PathLike[str],
    model: nn.Module,
    dimensions: Sequence[int],
    models: Mapping[str, ReferenceModel],
    features: Callable[[str, int], ReferenceFeatures],
    camera: CameraModel,
    preprocess: Preprocess,
    settings: MapSettings | None = None,
    *,
    sections: Mapping[str, Any] | None = None,
    scenes: Sequence[Scene] = (),
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    staging: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> MapBundle:
    """Write a PixLoc map, one tile in memory at a time.

    :param model: the network and its damping (:class:`~vloc_ros.localizers.pixloc.model.PixLocModel`).
    :param dimensions: channels of its levels, coarse to fine.
    :param models: points and observations by scene; none writes the network alone, for builders to start from.
    :param features: ``features(scene, r)``: those of reference r, for each scale of ``settings.pyramid`` and level,
        one row an observation; asked once for every reference, in order.
    :param camera: that the references were taken with.
    :param sections: more of the manifest's settings: ``network``, ``optimizer``, ``pixloc``, ...
    :param scenes: entries of the manifest; a scene that is not among them gets the frame ``map`` and the area of its
        references.
    :param tensors: more files, for instance the extractor and database of a retrieval prior.
    :param staging: a folder that keeps finished tiles when the run is interrupted; whoever passes it again must pass
        the same data and settings.
    :param progress: called with (scene, references done, references).
    :raises MapTensorError: features that do not agree with the observations, or are not finite.
    :raises MapError: as :func:`vloc_ros.maps.write_map`.
    """
    settings = (settings or MapSettings()).resolved(preprocess.width, 16)
    points: dict[str, Tensor] = {}
    references: dict[str, Tensor] = {}
    names: list[str] = []
    with writing(Path(out)), staging_beside(Path(out), folder=True) as temporary:
        folder = temporary if staging is None else staging
        for scene, sparse in models.items():
            _check_model(scene, sparse)
            tile = _tiles_of(np.diff(sparse.offsets), bytes_per_observation(dimensions, settings), settings.tile_mb)
            points[f"{scene}.points"] = torch.from_numpy(np.asarray(sparse.points, dtype=np.float32))
            track = np.minimum(sparse.track_length, np.iinfo(np.int16).max).astype(np.int16)
            points[f"{scene}.track_length"] = torch.from_numpy(track)
            references[f"{scene}.poses"] = torch.from_numpy(to_vectors(np.asarray(sparse.T_map_cam)))
            references[f"{scene}.stamps"] = torch.from_numpy(np.asarray(sparse.stamps_ns, dtype=np.int64))
            references[f"{scene}.offsets"] = torch.from_numpy(np.asarray(sparse.offsets, dtype=np.int64))
            references[f"{scene}.point_ids"] = torch.from_numpy(np.asarray(sparse.point_ids, dtype=np.int32))
            references[f"{scene}.tile"] = torch.from_numpy(tile)
            for number in range(int(tile[-1]) + 1):
                name, rows = tile_name(scene, number), np.flatnonzero(tile == number)
                names.append(name)
                if not (folder / name).is_file():
                    found = [_checked(features, scene, int(r), sparse, dimensions, settings) for r in rows]
                    content = encode_tensors(tile_tensors(found, settings.precision), name)
                    _put(folder / name, content)
                if progress is not None:
                    progress(scene, int(rows[-1]) + 1, len(tile))
        files: dict[str, Mapping[str, Tensor]] = {NETWORK_FILE: stored_weights(model.state_dict()), **(tensors or {})}
        if models:
            files.update({POINTS_FILE: points, REFERENCES_FILE: references})
        manifest = MapManifest(
            backend="pixloc",
            scenes=_scenes(models, scenes),
            camera=camera,
            preprocessing=preprocess.settings(),
            settings={**(sections or {}), MAP_SECTION: settings_to_mapping(settings)},
            provenance=dict(provenance or {}),
            validation=dict(validation or {}),
            calibration=dict(calibration or {}),
        )
        return write_map(out, manifest, files, extra_files=files_below(folder, names), overwrite=overwrite)


def _check_model(scene: str, sparse: ReferenceModel) -> None:
    offsets, ids = np.asarray(sparse.offsets), np.asarray(sparse.point_ids)
    references, points = len(sparse.T_map_cam), len(sparse.points)
    fits = len(offsets) == references + 1 and references > 0 and points > 0
    fits = fits and offsets[0] == 0 and offsets[-1] == len(ids) and bool((np.diff(offsets) >= 0).all())
    if not fits or (len(ids) and (ids.min() < 0 or ids.max() >= points)):
        raise MapTensorError(
            f"scene {scene!r}: expected points, references and observations that agree, found {points} points, "
            f"{references} references, {len(ids)} observations"
        )


def _tiles_of(counts: npt.NDArray[Any], size: int, tile_mb: float) -> npt.NDArray[np.int32]:
    """(R,) tile of each reference: successive ones share a tile until it is full."""
    tile, number, held = np.zeros(len(counts), np.int32), 0, 0.0
    for r, count in enumerate(counts):
        if held and held + count * size > tile_mb * 1e6:
            number, held = number + 1, 0.0
        tile[r] = number
        held += count * size
    return tile


def _checked(
    features: Callable[[str, int], ReferenceFeatures],
    scene: str,
    reference: int,
    sparse: ReferenceModel,
    dimensions: Sequence[int],
    settings: MapSettings,
) -> ReferenceFeatures:
    found = features(scene, reference)
    count = int(sparse.offsets[reference + 1] - sparse.offsets[reference])
    shapes = [[tuple(level.features.shape) for level in scale] for scale in found]
    wanted = [[(count, c) for c in dimensions] for _ in settings.pyramid]
    if shapes != wanted or any(tuple(level.confidence.shape) != (count,) for scale in found for level in scale):
        raise MapTensorError(
            f"scene {scene!r}, reference {reference}: expected features of shapes {wanted}, found {shapes}"
        )
    return found


def _put(file: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all."""
    with replacing(file) as stream:
        stream.write(content)


def _scenes(models: Mapping[str, ReferenceModel], given: Sequence[Scene]) -> tuple[Scene, ...]:
    known = {scene.name: scene for scene in given}
    for name, sparse in models.items():
        if name not in known:
            positions = np.asarray(sparse.T_map_cam)[:, :3, 3]
            low, high = (tuple(float(v) for v in edge) for edge in (positions.min(axis=0), positions.max(axis=0)))
            known[name] = Scene(name, "map", low, high)  # type: ignore[arg-type]
    ordered = [known[name] for name in models] if models else list(known.values())
    return tuple(ordered) or (Scene("none", "map", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),)
