"""Which places of the map an image may be of: the most similar images, gathered by where they were taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import MapError
from vloc_ros.features.base import Described
from vloc_ros.localizers.features.store import PointStore
from vloc_ros.localizers.features.vlad import VLAD_FILE, Vlad
from vloc_ros.localizers.retrieval.database import read_databases
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.retrieval.index import Index, build_index
from vloc_ros.maps import MapBundle
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, PosePrior, RgbImage

__all__ = ["ImageSearch", "gathered"]

Ints = npt.NDArray[np.int64]
#: Images nearer to each other than this many depths of the scene, and turned by less than this, show one place.
_LINK = 1.0
_LINK_DEG = 60.0
#: Standard deviations of a position around which images are looked for.
_FAR = 4.0


class ImageSearch:
    """Similar images by the map's database, whose descriptors are VLAD of local features or an extractor's.

    :raises MapError: the database is missing, or of another descriptor than the map's.
    """

    def __init__(self, bundle: MapBundle, device: torch.device, stores: Sequence[PointStore]) -> None:
        self._stores = stores
        self._vlad: Vlad | None = None
        self._descriptor: Descriptor | None = None
        if bundle.manifest.file(VLAD_FILE) is not None:
            self._vlad = Vlad.from_tensors(bundle.tensors(VLAD_FILE), device, f"{bundle.path}/{VLAD_FILE}")
            identity = self._vlad.identity
        else:
            self._descriptor = Descriptor.from_bundle(bundle, device)
            identity = self._descriptor.identity
        self._indices: list[Index] = []
        for store, (scene, database) in zip(stores, read_databases(bundle).items(), strict=True):
            if database.extractor_id != identity or len(database) != len(store):
                raise MapError(
                    f"{bundle.path}: scene {scene!r}: expected {len(store)} rows of the map's own image descriptor, "
                    f"found {len(database)} of {database.extractor_id[:16]}...; build the map again"
                )
            self._indices.append(build_index(database, device, "auto", 0.98))

    @property
    def by_image(self) -> bool:
        """Whether images are described as a whole, by an extractor's network, rather than by their local features."""
        return self._vlad is None

    def vector(self, image_rgb: RgbImage, described: Described) -> Tensor:
        """The image's descriptor (D,)."""
        if self._vlad is not None:
            return self._vlad.describe(described.unit)
        assert self._descriptor is not None
        return self._descriptor.describe(image_rgb)

    def places(
        self,
        asked: Sequence[tuple[RgbImage, Described]],
        images: int,
        most: int,
        scene: int | None = None,
        stamp_ns: int = 0,
        exclude_s: float = 0.0,
        area: Sequence[PosePrior] = (),
    ) -> list[list[tuple[int, Ints]]]:
        """Of each image the places that the most similar images show, the most similar first; the host waits once.

        :param asked: images with their local features.
        :param images: looked at, in all scenes together. :param most: places at most.
        :param scene: only there. :param exclude_s: images this near to ``stamp_ns`` are left out; 0: none.
        :param area: only images within four standard deviations of the position of one of these; none: everywhere.
        :returns: for each place the number of its scene and rows of images.
        """
        near = [
            self._near(self.vector(image, described)[None], images, scene, stamp_ns, exclude_s, area)
            if len(described)
            else []
            for image, described in asked
        ]
        host = list(read_back(*(x[0] for found in near for _, *pair in found for x in pair)))
        out = []
        for found in near:
            mine, host = host[: 2 * len(found)], host[2 * len(found) :]
            out.append(self._gathered([number for number, *_ in found], mine, images, most))
        return out

    def _near(
        self,
        vector: Tensor,
        images: int,
        scene: int | None,
        stamp_ns: int,
        exclude_s: float,
        area: Sequence[PosePrior],
    ) -> list[tuple[int, Tensor, Tensor]]:
        """Of each scene distances and rows (1, n) of the most similar images, on the device."""
        near: list[tuple[int, Tensor, Tensor]] = []
        for number, (store, index) in enumerate(zip(self._stores, self._indices, strict=True)):
            if scene is not None and number != scene:
                continue
            if exclude_s > 0 or area:
                kept = np.abs(store.stamps_ns - stamp_ns) > exclude_s * 1e9 if exclude_s > 0 else None
                inside = _inside(store.T_map_cam[:, :3, 3], area)
                allowed = np.flatnonzero(inside if kept is None else kept & inside)
                if not len(allowed):
                    continue
                near.append((number, *index.search_among(vector, images, torch.from_numpy(allowed))))
            else:
                near.append((number, *index.search(vector, images)))
        return near

    def _gathered(
        self, scenes: Sequence[int], host: Sequence[Tensor], images: int, most: int
    ) -> list[tuple[int, Ints]]:
        """Places by distances and rows of similar images in some scenes."""
        found: list[tuple[float, int, int]] = []
        for number, distances, rows in zip(scenes, host[::2], host[1::2], strict=True):
            found += [(d, number, r) for d, r in zip(distances.tolist(), rows.tolist(), strict=True)]
        found = sorted(found)[:images]
        places: list[tuple[float, int, Ints]] = []
        for number in dict.fromkeys(n for _, n, _ in found):
            store = self._stores[number]
            mine = [(d, r) for d, n, r in found if n == number]
            rows_of = np.array([r for _, r in mine], dtype=np.int64)
            for group in gathered(store.T_map_cam[rows_of], _LINK * store.depth_m, _LINK_DEG):
                places.append((mine[int(group[0])][0], number, rows_of[group]))
        places.sort(key=lambda place: place[0])
        return [(number, rows) for _, number, rows in places[:most]]


def _inside(positions: Array, area: Sequence[PosePrior]) -> npt.NDArray[np.bool_]:
    """Which of (N, 3) positions lie within four standard deviations of one of these; all where there is none."""
    inside = np.full(len(positions), not area)
    for prior in area:
        offset = positions - prior.T_map_cam[:3, 3]
        inside |= np.einsum("ni,ij,nj->n", offset, np.linalg.inv(prior.covariance[:3, :3]), offset) <= _FAR**2
    return inside


def gathered(T_map_cam: Array, link_m: float, link_deg: float) -> list[Ints]:
    """Numbers of poses (N, 4, 4) in groups whose members are linked; each ascending, ordered by their first."""
    t, axis = T_map_cam[:, :3, 3], T_map_cam[:, :3, 2]
    near = np.linalg.norm(t[:, None] - t[None], axis=-1) <= link_m
    near &= axis @ axis.T >= np.cos(np.radians(link_deg))
    label = np.arange(len(t))
    while True:  # every pose takes the smallest label of its neighbours until none changes
        smaller = np.where(near, label[None], len(t)).min(axis=1)
        if (smaller == label).all():
            break
        label = smaller
    return [np.flatnonzero(label == first) for first in np.unique(label)]
