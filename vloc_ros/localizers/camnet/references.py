"""The database of a CamNet map (Section 3.4): retrieval descriptors, and the features that pairs are regressed from.

``database.safetensors`` has the layout of every descriptor map (see :mod:`vloc_ros.localizers.retrieval.database`), so
that a map can be densified: rows with an image (origin 0), and rows whose descriptor was regressed for a pose where no
image was taken. ``features.safetensors`` holds the PFR and PRP features of the rows with an image, in their order; a
regressed row leads to the image it was made from, its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect

__all__ = ["DATABASE_FILE", "FEATURES_FILE", "References", "database_tensors", "feature_tensors"]

DATABASE_FILE = "database.safetensors"
FEATURES_FILE = "features.safetensors"
_FLOATS = (torch.float16, torch.float32)


@dataclass(frozen=True)
class References:
    """The references of one scene: M rows, A of them with an image.

    ``descriptors`` (M, D) float32; ``poses`` (M, 7); ``image`` (M,): which of the A images a row leads to;
    ``image_rows`` (A,) the rows that have one; ``image_poses`` (A, 7); ``pfr`` and ``prp`` (A, F) float32.
    """

    scene: str
    descriptors: Tensor
    poses: Tensor
    image: Tensor
    image_rows: Tensor
    image_poses: Tensor
    pfr: Tensor
    prp: Tensor

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def densified(self) -> bool:
        """Whether there are rows without an image."""
        return len(self.poses) > len(self.image_poses)

    @classmethod
    def read(cls, bundle: MapBundle, scene: str, dimension: int, device: torch.device) -> References:
        """From a map.

        :param dimension: F, of the network.
        :raises MapTensorError: something is missing, empty, or of another shape.
        """
        where = str(bundle.path)
        stored, features = bundle.tensors(DATABASE_FILE), bundle.tensors(FEATURES_FILE)
        descriptors = expect(stored, f"{scene}.descriptors", (None, dimension), _FLOATS, where)
        rows = len(descriptors)
        if not rows:
            raise MapTensorError(f"{where}: scene {scene!r}: expected a database of at least one image, found none")
        poses = expect(stored, f"{scene}.poses", (rows, 7), torch.float32, where)
        origin = expect(stored, f"{scene}.origin", (rows,), torch.uint8, where)
        anchor = expect(stored, f"{scene}.anchor", (rows,), torch.int32, where).long()
        has_image = origin == 0
        images = int(has_image.sum())
        pfr = expect(features, f"{scene}.pfr", (images, dimension), _FLOATS, where)
        prp = expect(features, f"{scene}.prp", (images, dimension), _FLOATS, where)
        leads = torch.where(has_image, torch.arange(rows), anchor)
        if images == 0 or int(leads.min()) < 0 or int(leads.max()) >= rows or not bool(has_image[leads].all()):
            raise MapTensorError(
                f"{where}: scene {scene!r}: expected every row of the database to lead to one with an image"
            )
        number = torch.cumsum(has_image.long(), dim=0) - 1
        poses = torch.cat((poses[:, :3], torch.nn.functional.normalize(poses[:, 3:], dim=-1)), dim=1).to(device)
        return cls(
            scene,
            descriptors.to(device, torch.float32),
            poses,
            number[leads].to(device),
            torch.nonzero(has_image)[:, 0].to(device),
            poses[has_image.to(device)],
            pfr.to(device, torch.float32),
            prp.to(device, torch.float32),
        )


def database_tensors(scene: str, descriptors: Tensor, poses: Tensor, stamps_ns: Tensor) -> dict[str, Tensor]:
    """A scene of ``database.safetensors`` whose rows all have an image: (M, D), (M, 7), (M,) int64."""
    count = len(descriptors)
    return {
        f"{scene}.descriptors": descriptors.half(),
        f"{scene}.poses": poses.float(),
        f"{scene}.origin": torch.zeros(count, dtype=torch.uint8),
        f"{scene}.anchor": torch.arange(count, dtype=torch.int32),
        f"{scene}.stamps": stamps_ns.to(torch.int64),
    }


def feature_tensors(scene: str, pfr: Tensor, prp: Tensor) -> dict[str, Tensor]:
    """A scene of ``features.safetensors``: (A, F) each, in the order of the database's rows with an image."""
    return {f"{scene}.pfr": pfr.half(), f"{scene}.prp": prp.half()}
