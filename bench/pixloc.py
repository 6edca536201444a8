"""PixLoc's query against a direct transcription of the published procedure, on frames of the synthetic town."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.pixloc_transcription import ReferenceView, transcribed_query
from bench.timing import Timing, figures, measure
from vloc_ros.errors import MapBackendError
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.device import compute_dtype
from vloc_ros.localizers.pixloc.alignment import Aligner
from vloc_ros.localizers.pixloc.bundle import MapSettings, bytes_per_observation, tile_tensors
from vloc_ros.localizers.pixloc.eyes import Eye
from vloc_ros.localizers.pixloc.features import PyramidScale, extract_pyramid, sample_observations
from vloc_ros.localizers.pixloc.model import OPTIMIZER_SECTION, PixLocModel, read_model
from vloc_ros.localizers.pixloc.network import FeatureNet, without_normalisation
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.localizers.pixloc.selection import choose_points
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.pixloc.store import LevelFeatures, PointBatch, ReferenceStore
from vloc_ros.maps import read_map
from vloc_ros.maps.tiles import Tile, TileCache
from vloc_ros.settings import settings_from_mapping
from vloc_ros.town.renderer import Renderer, default_camera
from vloc_ros.town.town import Town
from vloc_ros.town.traversal import Traversal
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["BenchScene", "bench_pixloc", "town_scene"]


@dataclass(frozen=True)
class BenchScene:
    """A query, references around it, and points that they observe.

    :ivar references: images, for each its pixels (n, 2) and point ids (n,).
    :ivar prior: T_map_cam, some centimetres and tenths of a degree beside ``truth``.
    """

    camera: CameraModel
    query: RgbImage
    truth: Array
    prior: Array
    points: Array
    T_map_cam: Array
    references: list[tuple[RgbImage, Array, npt.NDArray[np.int64]]]


def town_scene(width: int, height: int, points: int = 1000, references: int = 5, seed: int = 3) -> BenchScene:
    """Frames of the synthetic town half a metre apart: the middle one is the query, the others the references."""
    town = Town(seed, 120.0)
    traversal = Traversal(town, 0, traffic=0.0)
    renderer = Renderer(town, default_camera(width, height))
    frames = [renderer.render(traversal, 10 + i) for i in range(references + 1)]
    middle = references // 2
    query = frames.pop(middle)
    poses = np.stack([frame.T_map_cam for frame in frames])
    share = -(-2 * points // references)
    cloud = np.concatenate([frame.sample_points(share, seed=i)[1] for i, frame in enumerate(frames)])
    views = []
    for frame in frames:
        T = inverse(frame.T_map_cam)
        local = cloud @ T[:3, :3].T + T[:3, 3]
        pixels, valid = project(renderer.camera, local)
        cells = np.clip(np.round(np.where(valid[:, None], pixels, 0)).astype(int), 0, [width - 1, height - 1])
        depth = frame.depth[cells[:, 1], cells[:, 0]]
        seen = np.flatnonzero(valid & (np.abs(depth - local[:, 2]) < 0.03 * local[:, 2]))
        views.append((frame.rgb, pixels[seen], seen.astype(np.int64)))
    prior = query.T_map_cam.copy()
    prior[:3, 3] += (0.12, -0.08, 0.04)
    prior[:3, :3] = so3_exp(np.radians([0.2, -0.3, 0.4])) @ prior[:3, :3]
    return BenchScene(renderer.camera, query.rgb, query.T_map_cam, prior, cloud, poses, views)


class _Setup:
    """One scene and network behind both paths."""

    def __init__(
        self,
        model: PixLocModel,
        optimizer: OptimizerSettings,
        scales: tuple[float, ...],
        scene: BenchScene,
        device: torch.device,
        points: int,
    ) -> None:
        self.scene, self.device, self.scales, self.optimizer = scene, device, scales, optimizer
        self.preprocess = Preprocess(scene.camera.width, scene.camera.height)
        self.model = model.eval().requires_grad_(False).to(device)
        self.model.network.to(memory_format=torch.channels_last)
        self.image = self._image(scene.query)
        offsets = np.cumsum([0, *(len(ids) for _, _, ids in scene.references)])
        self.offsets, self.ids = offsets, np.concatenate([ids for _, _, ids in scene.references])
        self.all = np.arange(len(scene.references))
        seen, counts = np.unique(self.ids, return_counts=True)
        self.chosen = seen[choose_points(scene.points[seen], counts, scene.prior, scene.camera, points)]
        self.views = [ReferenceView(self._image(rgb), uv, ids) for rgb, uv, ids in scene.references]
        self.found = self._reference_features()
        if optimizer.damping == "constant":
            self.damping = torch.full((self.model.network.settings.levels, 6), optimizer.damping_constant)
        else:
            self.damping = self.model.damping().detach()

    def _image(self, rgb: RgbImage) -> Tensor:
        raw = torch.from_numpy(self.preprocess.apply_uint8(rgb)).to(self.device).permute(2, 0, 1)
        return self.preprocess.normalize(raw)[None].contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def _reference_features(self) -> list[list[list[LevelFeatures]]]:
        size = (self.scene.camera.width, self.scene.camera.height)
        return [
            sample_observations(extract_pyramid(self.model.network, view.image, self.scales), view.pixels, *size)
            for view in self.views
        ]

    def store(self, precision: str) -> ReferenceStore:
        """The references as a map holds them; ``float32`` as they were computed."""
        if precision == "float32":
            tile: Tile = {
                f"{kind}.{p}.{level}": torch.cat([getattr(found[p][level], kind) for found in self.found])
                for kind in ("features", "confidence")
                for p in range(len(self.scales))
                for level in range(self.model.network.settings.levels)
            }
        else:
            tile = {k: v.to(self.device) for k, v in tile_tensors(self.found, precision).items()}
        cache = TileCache(lambda _: tile, lambda _: 0, 1 << 62)
        count, levels = len(self.views), self.model.network.settings.levels
        return ReferenceStore(
            "town", self.scene.points, np.ones(len(self.scene.points), np.int16), self.scene.T_map_cam,
            np.arange(count), self.offsets, self.ids.astype(np.int32), np.zeros(count, np.int32), cache, self.device,
            len(self.scales), levels,
        )  # fmt: skip

    def aligner(self, dtype: torch.dtype) -> Aligner:
        """The default path, its network in ``dtype``."""
        model = copy.deepcopy(self.model)
        model.network = without_normalisation(model.network.cpu()).to(self.device, dtype)
        return Aligner(model, self.preprocess, self.scales, self.optimizer, self.device)

    def transcribed(self) -> tuple[Array, int]:
        """T_map_cam by the transcription, and its iterations."""
        T = torch.from_numpy(inverse(self.scene.prior))
        found, steps = transcribed_query(
            self.model.network, self.damping, self.image, self.scene.camera, T, self.scene.points, self.views,
            self.scales, self.optimizer, self.chosen,
        )  # fmt: skip
        return inverse(found.numpy()), steps

    def query(self, aligner: Aligner, store: ReferenceStore) -> Array:
        """T_map_cam as a localizer finds it."""
        batch = store.load(self.all, self.chosen)
        eye = self.eye(batch, aligner.encode([self.scene.query])[0])
        return aligner.align([eye], self.scene.prior[None])[0].T_map_cam

    def eye(self, batch: PointBatch, pyramid: tuple[PyramidScale, ...]) -> Eye:
        """The query's camera with points and features."""
        return Eye(0, self.scene.query, self.preprocess, self.scene.camera, batch=batch, pyramid=pyramid)


def bench_pixloc(
    map_dir: Path | None,
    device: torch.device,
    repeats: int,
    seed: int = 0,
    scene: BenchScene | None = None,
    network: NetworkSettings | None = None,
    points: int = 1000,
) -> dict[str, Any]:
    """Measure a query of 640 x 384 with ``points`` points of five references.

    :param map_dir: a map with a trained network; default: the paper's network with random weights, whose features
        cost the same and mean little: the effect of their precision is then no guide.
    :param repeats: timed calls of our rows; the transcription has a twentieth of them (at least three).
    :param scene: instead of frames of the town. :param network: instead of the paper's, without a map.
    :returns: the benchmark's JSON. ``max_abs_difference`` is that of T_map_cam in float32 between the two; the effect
        of storing features as float16 and int8, and of the network's default precision, stands under ``precision_m``.
    """
    model, optimizer, scales, name = _model(map_dir, network, seed)
    scene = scene or town_scene(640, 384, points)
    scales = scales or MapSettings().resolved(scene.camera.width, max(model.network.settings.strides)).pyramid
    setup = _Setup(model, optimizer, scales, scene, device, points)
    exact, dtype = setup.aligner(torch.float32), compute_dtype("auto", device)
    default = setup.aligner(dtype) if dtype != torch.float32 else exact
    stores = {precision: setup.store(precision) for precision in ("float32", "float16", "int8")}
    expected, steps = setup.transcribed()
    found = {precision: setup.query(exact, store) for precision, store in stores.items()}
    ours = setup.query(default, stores["float16"])
    rows = _rows(setup, default, exact, stores, repeats)
    by_name = {row.name: row.ms_p50 for row in rows}
    query, floor = by_name["query, default path"], by_name["features of the query, default path"]
    settings = MapSettings(pyramid=scales)
    sizes = {
        p: bytes_per_observation(setup.model.dimensions, dataclasses.replace(settings, precision=p))
        for p in ("float16", "int8")
    }
    precision = str(dtype).removeprefix("torch.")
    return figures(
        "pixloc",
        name,
        device,
        rows,
        ours=query,
        naive=by_name["query, transcription in float32"],
        floor=floor,
        difference=float(np.abs(found["float32"] - expected).max()),
        speedup_like_for_like=round(by_name["query, transcription in float32"] / by_name["query, float32"], 3),
        precision=precision,
        settings={
            "image": f"{scene.camera.width}x{scene.camera.height}",
            "points": len(setup.chosen),
            "references": len(setup.views),
            "pyramid": list(scales),
            "iterations": steps,
            "network": dataclasses.asdict(model.network.settings),
            "optimizer": dataclasses.asdict(optimizer),
        },
        precision_m={
            "float16 features": _distance(found["float16"], found["float32"]),
            "int8 features": _distance(found["int8"], found["float32"]),
            f"float16 features, {precision} network": _distance(ours, found["float32"]),
        },
        error_m={"transcription": _distance(expected, scene.truth), "default path": _distance(ours, scene.truth)},
        bytes_per_observation=sizes,
    )


def _rows(
    setup: _Setup, default: Aligner, exact: Aligner, stores: dict[str, ReferenceStore], repeats: int
) -> list[Timing]:
    scene, device = setup.scene, setup.device
    batch: PointBatch = stores["float16"].load(setup.all, setup.chosen)
    eye, start = setup.eye(batch, default.encode([scene.query])[0]), scene.prior[None]
    stages: Sequence[tuple[str, Callable[[], object]]] = (
        ("query, default path", lambda: setup.query(default, stores["float16"])),
        ("query, float32", lambda: setup.query(exact, stores["float32"])),
        ("points and features from tiles in memory", lambda: stores["float16"].load(setup.all, setup.chosen)),
        ("the same from int8", lambda: stores["int8"].load(setup.all, setup.chosen)),
        ("features of the query, default path", lambda: default.encode([scene.query])),
        ("alignment", lambda: default.align([eye], start)),
    )
    rows = [measure(name, stage, device, repeats, warm=1) for name, stage in stages]
    slow = max(3, repeats // 20)
    rows.append(measure("query, transcription in float32", setup.transcribed, device, slow, warm=0))
    rows.append(measure("features of the references, float32", setup._reference_features, device, slow, warm=0))
    return rows


def _model(
    map_dir: Path | None, network: NetworkSettings | None, seed: int
) -> tuple[PixLocModel, OptimizerSettings, tuple[float, ...], str]:
    if map_dir is None:
        torch.manual_seed(seed)
        made = PixLocModel(FeatureNet(network or NetworkSettings()))
        # Undamped where it is not trained: the middle of the learned range would stop every iteration at once.
        settings = OptimizerSettings(damping="constant", damping_constant=1e-2)
        return made, settings, (), "random weights" if network else "paper settings, random weights"
    bundle = read_map(map_dir)
    if bundle.manifest.backend != "pixloc":
        raise MapBackendError(f"{map_dir}: expected a map of backend 'pixloc', found {bundle.manifest.backend!r}")
    stored = bundle.manifest.settings
    optimizer = settings_from_mapping(OptimizerSettings, stored.get(OPTIMIZER_SECTION), str(map_dir))
    scales = tuple(float(s) for s in stored.get("map", {}).get("pyramid", ()))
    return read_model(bundle), optimizer, scales, map_dir.name


def _distance(a: Array, b: Array) -> float:
    return round(float(np.linalg.norm(a[:3, 3] - b[:3, 3])), 6)
