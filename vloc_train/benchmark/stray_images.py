"""The stray-image test of CoPR (section IV-G): does the descriptor expected at the query's pose push a stranger down?

For each query a small database of map images around it, and one stray image of another place: the one whose descriptor
is the nearest to the query's. Then one more row: the descriptor that the regressor H expects at the query's own pose,
made from the nearest of those images. As in the paper the test shows what a regressed descriptor does and is no
localization: the pose of the query is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import select_device
from vloc_ros.localizers.copr.network import StoredRegressor, relative_pose
from vloc_ros.localizers.retrieval.database import IMAGE, Database
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.types import Array
from vloc_train.benchmark.drives import Drives, Part
from vloc_train.benchmark.maps import Steps
from vloc_train.benchmark.protocol import StrayImages
from vloc_train.benchmark.splits import Fold

__all__ = ["around", "stray_test"]


def stray_test(stray: StrayImages, folds: Sequence[Fold], steps: Steps, drives: Drives, device: str) -> dict[str, Any]:
    """Shares over the split's queries.

    ``stray_first_without`` and ``stray_first_with`` the regressed descriptor: how often the stray image is the best
    match. ``cured``: of the former queries, those whose best match is no longer the stray one. ``regressed_first``: the
    regressed descriptor is the best match. ``references_first_without``: the rest of the former.

    :raises ConfigError: too few images around a query. :raises MapError: regressor and map do not fit.
    """
    where = select_device(device)
    before: list[bool] = []
    after: list[bool] = []
    own: list[bool] = []
    for fold in folds:
        bundle = steps.make(stray.map, fold).bundle()
        descriptor = Descriptor.from_bundle(bundle, where)
        database = Database.read(bundle, bundle.manifest.scenes[0].name)
        database = database.select(torch.nonzero(database.origin == IMAGE)[:, 0].numpy())
        regressor = StoredRegressor.from_bundle(steps.make(stray.regressor, fold).bundle(), where)
        regressor.check(database.extractor_id, database.dimension, str(bundle.path))
        strangers = _described(drives.all_parts(stray.strays, "strays"), descriptor)
        queries = _described(fold.query, descriptor)
        truth = np.concatenate([part.sequence.T_map_cam[part.rows] for part in fold.query])
        known = database.descriptors.to(where).float()
        for query, T in zip(queries, truth, strict=True):
            rows = around(T, database.T_map_cam, stray.references, stray.spacing_m)
            apart = torch.linalg.vector_norm(known[rows] - query, dim=1).min()
            stranger = torch.linalg.vector_norm(strangers - query, dim=1).min()
            expected = _expected(regressor, known[rows[0]], database.poses[rows[0]], T, database.metric)
            regressed = torch.linalg.vector_norm(expected - query)
            before.append(bool(stranger < apart))
            after.append(bool(stranger < torch.minimum(apart, regressed)))
            own.append(bool(regressed < torch.minimum(apart, stranger)))
    astray = np.asarray(before)
    return {
        "map": stray.map,
        "regressor": stray.regressor,
        "split": stray.split,
        "queries": len(before),
        "references": stray.references,
        "spacing_m": stray.spacing_m,
        "stray_first_without": float(astray.mean()),
        "stray_first_with": float(np.mean(after)),
        "cured": float(1.0 - np.asarray(after)[astray].mean()) if astray.any() else float("nan"),
        "regressed_first": float(np.mean(own)),
    }


def around(T_map_cam: Array, references: Array, count: int, spacing_m: float) -> npt.NDArray[np.int64]:
    """Rows of ``count`` of (M, 4, 4) references about a pose, the nearest first, no two nearer than ``spacing_m``.

    :raises ConfigError: there are not so many.
    """
    positions = references[:, :3, 3]
    taken: list[int] = []
    for row in np.argsort(np.linalg.norm(positions - T_map_cam[:3, 3], axis=1), kind="stable"):
        if all(np.linalg.norm(positions[row] - positions[t]) >= spacing_m for t in taken):
            taken.append(int(row))
        if len(taken) == count:
            return np.asarray(taken, dtype=np.int64)
    raise ConfigError(
        f"strays: expected {count} references at least {spacing_m:g} m apart, found {len(taken)} in a map of "
        f"{len(references)}"
    )


def _described(parts: Sequence[Part], descriptor: Descriptor) -> Tensor:
    """Descriptors (N, D) of all frames, on the device."""
    out = []
    for part in parts:
        sequence = part.frames()
        rectifier = Rectifier(sequence.camera)
        out += [descriptor.describe(rectifier.rectify(image)[0]) for _, image in sequence.frames()]
    return torch.stack(out)


@torch.inference_mode()
def _expected(regressor: StoredRegressor, anchor: Tensor, pose: Tensor, T_map_cam: Array, metric: str) -> Tensor:
    """H's descriptor (D,) at a pose, from an anchor's descriptor (D,) and pose (7,)."""
    target = torch.from_numpy(to_vectors(T_map_cam[None])).double()
    relative = relative_pose(pose.double()[None], target, regressor.network.settings.relative_frame)
    found = regressor.network(anchor[None], relative.float().to(anchor.device))[0]
    return torch.nn.functional.normalize(found, dim=-1) if metric == "cosine" else found
