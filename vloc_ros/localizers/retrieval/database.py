"""The descriptor database of a map: one row a reference, its descriptor, its pose, and where it came from.

``database.safetensors`` holds for each scene ``<scene>.descriptors`` (M, D) float16, ``<scene>.poses`` (M, 7) float32,
``<scene>.origin`` (M,) uint8, ``<scene>.anchor`` (M,) int32 and ``<scene>.stamps`` (M,) int64; the manifest says under
``settings.database`` how descriptors are compared (``metric``) and whose they are (``extractor_id``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import MapError, MapFormatError, MapTensorError
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.calibration import section
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect
from vloc_ros.types import Array

__all__ = [
    "DATABASE_FILE",
    "EXTRAPOLATED",
    "IMAGE",
    "INTERPOLATED",
    "SECTION",
    "Database",
    "Metric",
    "read_databases",
]

DATABASE_FILE = "database.safetensors"
#: The part of a manifest's settings that describes the database.
SECTION = "database"
#: Where a row's descriptor came from: an image, or regressed (CoPR) between anchors or beside one.
IMAGE, INTERPOLATED, EXTRAPOLATED = 0, 1, 2

Metric = Literal["cosine", "l2"]
_METRICS = ("cosine", "l2")
_FLOATS = (torch.float16, torch.float32)


@dataclass(frozen=True)
class Database:
    """M references of one scene, on the CPU.

    :ivar descriptors: (M, D) float16, the file's precision; wider floats are rounded.
    :ivar poses: (M, 7) float32 (tx, ty, tz, qx, qy, qz, qw) of T_map_cam, metres.
    :ivar origin: (M,) uint8: :data:`IMAGE`, :data:`INTERPOLATED` or :data:`EXTRAPOLATED`.
    :ivar anchor: (M,) int32: the row whose image a regressed descriptor was made from; an image's own row.
    :ivar stamps: (M,) int64, nanoseconds; 0 for regressed rows.
    :ivar metric: ``cosine`` or ``l2``.
    :ivar extractor_id: whose descriptors they are (:func:`~.descriptor.extractor_identity`).
    :raises MapTensorError: columns that do not agree, or a descriptor beyond the range of float16.
    """

    descriptors: Tensor
    poses: Tensor
    origin: Tensor
    anchor: Tensor
    stamps: Tensor
    metric: Metric
    extractor_id: str

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise MapFormatError(f"database: expected metric {' or '.join(_METRICS)}, found {self.metric!r}")
        count, where = len(self.descriptors), "database"
        columns = {name: getattr(self, name) for name in ("descriptors", "poses", "origin", "anchor", "stamps")}
        expect(columns, "descriptors", (count, None), _FLOATS, where)
        expect(columns, "poses", (count, 7), torch.float32, where)
        expect(columns, "origin", (count,), torch.uint8, where)
        expect(columns, "anchor", (count,), torch.int32, where)
        expect(columns, "stamps", (count,), torch.int64, where)
        if self.descriptors.dtype != torch.float16:
            stored = self.descriptors.half()
            if not bool(torch.isfinite(stored).all()):
                raise MapTensorError(
                    "database: expected finite descriptors within the range of float16 (65504), found larger ones; "
                    "train the extractor with smaller descriptors"
                )
            object.__setattr__(self, "descriptors", stored)
        self._check_rows()

    def _check_rows(self) -> None:
        rows = torch.arange(len(self), dtype=torch.int32)
        if bool(((self.anchor < 0) | (self.anchor >= len(self))).any()):
            raise MapTensorError(f"database: expected anchors to be rows 0 .. {len(self) - 1}, found others")
        if bool((self.origin > EXTRAPOLATED).any()):
            raise MapTensorError(f"database: expected origins 0 to {EXTRAPOLATED}, found {int(self.origin.max())}")
        if bool(((self.origin == IMAGE) & (self.anchor != rows)).any()):
            raise MapTensorError("database: expected every row of an image to be its own anchor")
        length = torch.linalg.vector_norm(self.poses[:, 3:], dim=1)
        if bool(((length - 1.0).abs() > 1e-3).any()):
            raise MapTensorError("database: expected poses with unit quaternions, found others")

    @classmethod
    def of_images(
        cls, descriptors: Tensor, poses: Tensor, stamps: Tensor, metric: Metric, extractor_id: str
    ) -> Database:
        """Rows that are all images."""
        count = len(descriptors)
        origin, anchor = torch.zeros(count, dtype=torch.uint8), torch.arange(count, dtype=torch.int32)
        return cls(descriptors, poses, origin, anchor, stamps, metric, extractor_id)

    @classmethod
    def read(cls, bundle: MapBundle, scene: str) -> Database:
        """A scene of a map, every column checked.

        :raises MapError: the map has no database, no such scene, or a column is not what it should be.
        """
        metric, extractor_id = _declared(bundle)
        return _scene(bundle.tensors(DATABASE_FILE), scene, metric, extractor_id, str(bundle.path))

    def __len__(self) -> int:
        return len(self.descriptors)

    @property
    def dimension(self) -> int:
        """D, the length of a descriptor."""
        return int(self.descriptors.shape[1])

    @property
    def T_map_cam(self) -> Array:
        """``(M, 4, 4)`` float64."""
        return from_vectors(self.poses)

    @property
    def regressed_share(self) -> float:
        """The share of rows without an image."""
        return float((self.origin != IMAGE).float().mean()) if len(self) else 0.0

    @property
    def memory_bytes(self) -> int:
        """Of all columns."""
        columns = (self.descriptors, self.poses, self.origin, self.anchor, self.stamps)
        return sum(c.numel() * c.element_size() for c in columns)

    def tensors(self, scene: str) -> dict[str, Tensor]:
        """The columns under their names in :data:`DATABASE_FILE`."""
        columns = {
            "descriptors": self.descriptors, "poses": self.poses, "origin": self.origin, "anchor": self.anchor,
            "stamps": self.stamps,
        }  # fmt: skip
        return {f"{scene}.{name}": column for name, column in columns.items()}

    def settings(self) -> dict[str, Any]:
        """What a manifest holds under ``settings["database"]``."""
        return {"metric": self.metric, "extractor_id": self.extractor_id}

    def select(self, rows: Tensor | npt.NDArray[np.int64] | Sequence[int]) -> Database:
        """Some rows, in the order given. A regressed row whose anchor is left out becomes its own anchor."""
        chosen = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
        position = torch.full((len(self),), -1, dtype=torch.int32)
        new = torch.arange(len(chosen), dtype=torch.int32)
        position[chosen] = new
        anchor = position[self.anchor[chosen].long()]
        own = (self.origin[chosen] == IMAGE) | (anchor < 0)
        return replace(
            self,
            descriptors=self.descriptors[chosen],
            poses=self.poses[chosen],
            origin=self.origin[chosen],
            anchor=torch.where(own, new, anchor),
            stamps=self.stamps[chosen],
        )

    def append(self, other: Database) -> Database:
        """These rows, and after them those of ``other``. Equal poses may stand more than once.

        :raises MapError: descriptors of another extractor, or compared otherwise.
        :raises MapTensorError: descriptors of another length.
        """
        if (self.extractor_id, self.metric) != (other.extractor_id, other.metric):
            raise MapError(
                f"database: expected descriptors of extractor {self.extractor_id[:16]}... compared by {self.metric}, "
                f"found {other.extractor_id[:16]}... by {other.metric}; describe the images with the map's extractor"
            )
        if self.dimension != other.dimension:
            raise MapTensorError(f"database: expected descriptors of length {self.dimension}, found {other.dimension}")
        return replace(
            self,
            descriptors=torch.cat((self.descriptors, other.descriptors)),
            poses=torch.cat((self.poses, other.poses)),
            origin=torch.cat((self.origin, other.origin)),
            anchor=torch.cat((self.anchor, other.anchor + len(self))),
            stamps=torch.cat((self.stamps, other.stamps)),
        )


def read_databases(bundle: MapBundle) -> dict[str, Database]:
    """The databases of all scenes; the file is read once.

    :raises MapError: as :meth:`Database.read`.
    """
    metric, extractor_id = _declared(bundle)
    tensors = bundle.tensors(DATABASE_FILE)
    return {s.name: _scene(tensors, s.name, metric, extractor_id, str(bundle.path)) for s in bundle.manifest.scenes}


def _declared(bundle: MapBundle) -> tuple[Metric, str]:
    where = f"{bundle.path}: settings"
    stored = section(bundle.manifest.settings, SECTION, where)
    metric, extractor_id = stored.get("metric"), stored.get("extractor_id")
    if metric not in _METRICS or not isinstance(extractor_id, str):
        raise MapFormatError(
            f"{where}.{SECTION}: expected metric ({' or '.join(_METRICS)}) and extractor_id, found {stored}; "
            "make the map again"
        )
    return cast(Metric, metric), extractor_id


def _scene(tensors: Mapping[str, Tensor], scene: str, metric: Metric, extractor_id: str, where: str) -> Database:
    names = ("descriptors", "poses", "origin", "anchor", "stamps")
    columns = [expect(tensors, f"{scene}.{name}", None, None, f"{where}/{DATABASE_FILE}") for name in names]
    if columns[0].ndim != 2:
        raise MapTensorError(
            f"{where}: scene {scene!r}: expected descriptors (M, D), found shape {tuple(columns[0].shape)}"
        )
    try:
        return Database(*columns, metric, extractor_id)  # type: ignore[arg-type, call-arg]
    except MapError as problem:
        raise type(problem)(f"{where}: scene {scene!r}: {problem}") from problem
