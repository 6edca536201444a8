"""Regressed descriptors for any map that has a descriptor database (``vloc map densify``)."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, MapBackendError, VlocError
from vloc_ros.localizers.base import select_device
from vloc_ros.localizers.copr.densify import Plan, plan, regressed
from vloc_ros.localizers.copr.network import REGRESSOR_FILE, StoredRegressor
from vloc_ros.localizers.copr.settings import DensifySettings
from vloc_ros.localizers.copr.targets import span_of
from vloc_ros.localizers.copr.tensor_file import Piecewise, write_tensor_file
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, read_databases
from vloc_ros.maps import MapBundle, MapManifest, Scene, read_map, write_map
from vloc_ros.maps.reader import MAX_FILE_BYTES
from vloc_ros.maps.tensors import encode_tensors
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import settings_from_mapping
from vloc_ros.staging import sole_writer, staging_beside, writing
from vloc_train.training.calibration import recalibrate
from vloc_train.training.provenance import commit

__all__ = ["densify_map", "densify_settings"]

_log = logging.getLogger(__name__)

#: Backends whose maps are retrieval maps; densified they are CoPR's. Others read the database in their own way.
_RETRIEVAL = ("retrieval", "copr")
#: Of a CamNet map: features of the rows with an image, in their order.
_FEATURES_FILE = "features.safetensors"


def densify_settings(changes: Mapping[str, Any] | None = None, where: str = "densify settings") -> DensifySettings:
    """Settings from plain values. Without ``method`` it is the paper's best: a plane between, H beside references.

    :raises ConfigError: an unknown name, or values that do not go together.
    """
    given = dict(changes or {})
    targets = given.get("targets", {})
    if "method" not in given and isinstance(targets, Mapping):
        given["method"] = "plane" if targets.get("scheme") == "interpolate" else "nonlinear"
    return settings_from_mapping(DensifySettings, given, where)


def densify_map(
    source: Path,
    out: Path,
    settings: DensifySettings,
    regressor: Path | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    device: str = "auto",
) -> MapBundle:
    """Write ``source`` with a denser database. Descriptors go to the disk as they are made; memory stays flat.

    A retrieval map becomes a CoPR map. Its covariance belonged to the sparse database: it is calibrated anew on
    ``calibration``, or the map is without (then frames are DEGRADED under a large covariance).

    :param out: may be ``source``; an existing map is replaced by one exchange at the end.
    :param regressor: a map that holds H for method ``nonlinear``; without it ``source`` must hold one.
    :param calibration: drives by scene that the map does not hold.
    :raises MapBackendError: no descriptor database. :raises MapError: H is of other descriptors.
    :raises InterpolationError: nothing to interpolate between. :raises ConfigError: too many targets, no span.
    """
    bundle = read_map(source)
    check_target(out, overwrite=True)
    if bundle.manifest.file(DATABASE_FILE) is None:
        raise MapBackendError(
            f"{bundle.path}: expected a map with a descriptor database, found one of backend "
            f"{bundle.manifest.backend!r} without; retrieval, copr and camnet maps have one"
        )
    where = select_device(device)
    stored = _regressor(bundle, regressor, where) if settings.method == "nonlinear" else None
    plans: dict[str, Plan] = {}
    for name, database in read_databases(bundle).items():
        if stored is not None:
            stored.check(database.extractor_id, database.dimension, f"{bundle.path}: scene {name!r}")
        try:
            plans[name] = plan(database, settings)
        except VlocError as problem:
            raise type(problem)(f"{bundle.path}: scene {name!r}: {problem}") from problem
    size = sum(len(p) * 2 * p.kept.dimension for p in plans.values())
    if size > MAX_FILE_BYTES // 2:
        raise ConfigError(
            f"densify: expected descriptors of at most {MAX_FILE_BYTES >> 31} GiB in all, step and span make "
            f"{size / 2**30:.0f} GiB; take a larger step or a smaller span"
        )
    _warn_of_reach(plans, stored)
    with sole_writer(out), writing(out), staging_beside(out, folder=True) as folder:
        file = folder / DATABASE_FILE
        _write_database(file, plans, stored, where)
        target = folder / f"map{out.suffix}" if calibration else out
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            files = {**_other_files(bundle, plans, settings), DATABASE_FILE: cast(bytes, content)}
            manifest = _manifest(bundle.manifest, plans, settings, stored)
            made = write_map(target, manifest, {}, extra_files=files, overwrite=target.exists())
        return recalibrate(target, calibration, out, device) if calibration else made


def _regressor(bundle: MapBundle, regressor: Path | None, device: torch.device) -> StoredRegressor:
    if regressor is None and bundle.manifest.file(REGRESSOR_FILE) is None:
        raise ConfigError(
            f"method nonlinear: expected a map with a descriptor regressor, found none in {bundle.path}; "
            "train one with vloc train copr and give it by --regressor, or take --method plane"
        )
    return StoredRegressor.from_bundle(bundle if regressor is None else read_map(regressor), device)


def _warn_of_reach(plans: Mapping[str, Plan], stored: StoredRegressor | None) -> None:
    """H knows nothing beyond the pairs that it learned from."""
    if stored is None or not stored.radius_m:
        return
    for name, made in plans.items():
        anchors = made.kept.poses[made.images[torch.from_numpy(made.targets.anchors[:, 0])], :3]
        apart = torch.linalg.vector_norm(torch.from_numpy(made.targets.poses[:, :3]) - anchors, dim=1)
        share = float((apart > stored.radius_m * 1.01).double().mean()) if len(apart) else 0.0
        if share > 0:
            _log.warning(
                "scene %s: %.0f %% of the targets are farther from their reference than the %.1f m that the regressor "
                "learned from", name, 100 * share, stored.radius_m,
            )  # fmt: skip


def _write_database(
    file: Path, plans: Mapping[str, Plan], stored: StoredRegressor | None, device: torch.device
) -> None:
    tensors: dict[str, Tensor | Piecewise] = {}
    for name, made in plans.items():
        tensors.update({f"{name}.{column}": value for column, value in made.columns().items()})
        shape = (len(made), made.kept.dimension)
        tensors[f"{name}.descriptors"] = (torch.float16, shape, _descriptors(made, stored, device))
    write_tensor_file(file, tensors)


def _descriptors(made: Plan, stored: StoredRegressor | None, device: torch.device) -> Iterator[Tensor]:
    yield made.kept.descriptors
    network, reach = (None, float("inf")) if stored is None else (stored.network, stored.radius_m or float("inf"))
    yield from regressed(made, network, device, reach)


def _other_files(bundle: MapBundle, plans: Mapping[str, Plan], settings: DensifySettings) -> dict[str, bytes]:
    """Everything but the database as it is; what stands beside images is thinned out with them."""
    files = {e.name: bundle.read(e.name) for e in bundle.manifest.files if e.name != DATABASE_FILE}
    if settings.every > 1 and _FEATURES_FILE in files:
        tensors = bundle.stored_tensors(_FEATURES_FILE)
        thinned = {
            key: value[:: settings.every] if key.rpartition(".")[0] in plans else value
            for key, value in tensors.items()
        }
        files[_FEATURES_FILE] = encode_tensors(thinned, _FEATURES_FILE)
    return files


def _manifest(
    manifest: MapManifest, plans: Mapping[str, Plan], settings: DensifySettings, stored: StoredRegressor | None
) -> MapManifest:
    scenes = tuple(_grown(scene, plans[scene.name]) for scene in manifest.scenes)
    wanted = settings.targets
    note: dict[str, Any] = {
        "scheme": wanted.scheme,
        "method": settings.method,
        "step_m": wanted.step_m,
        "every": settings.every,
        "scenes": {name: _figures(made) for name, made in plans.items()},
        **({"regressor": stored.identity} if stored else {}),
        "settings": settings.to_mapping(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    earlier = manifest.provenance.get("densified", [])
    return replace(
        manifest,
        backend="copr" if manifest.backend in _RETRIEVAL else manifest.backend,
        scenes=scenes,
        provenance={
            **manifest.provenance,
            "densified": [*(earlier if isinstance(earlier, list) else []), note],
        },
        validation={},
        calibration={},
    )


def _figures(made: Plan) -> dict[str, Any]:
    images = len(made.images)
    figures: dict[str, Any] = {
        "images": images,
        "regressed": len(made.targets),
        "regressed_share": round(1.0 - images / len(made), 6),
    }
    if made.settings.targets.scheme == "extrapolate" and made.settings.targets.grid != "lateral":
        figures["span_m"] = round(span_of(made.kept.poses[made.images].double().numpy(), made.settings.targets), 6)
    return figures


def _grown(scene: Scene, made: Plan) -> Scene:
    """The scene's area with the targets in it."""
    if not len(made.targets):
        return scene
    positions = made.targets.poses[:, :3]
    low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
    return replace(scene, area_min=tuple(map(min, scene.area_min, low)), area_max=tuple(map(max, scene.area_max, high)))
