"""One camera against two as a rig: the town's front and side camera, and KITTI's stereo pair.

    python bench/rig.py town --work out/rig --out bench/results/rig_town.json
    python bench/rig.py kitti --data shared/data/kitti00_full_res --work out/rig --out bench/results/rig_kitti.json
    python bench/rig.py town --backend pixloc --work out/rig --out bench/results/rig_pixloc_town.json

A map of features is built from both cameras of some drives, or of every fourth frame, and other frames are localized:
by each camera alone, by both, and by both with each of them blinded for a while. All go through the pipeline. The
map is kept in ``--work``; a second run takes it from there.

With ``--backend pixloc`` the map holds PixLoc's points (of the town from its depth, of KITTI from structure from
motion) and the features of the network that comes with the package, and every frame is refined for itself from a prior
of the base that is uniformly 0 to 1 m and 0 to 3 deg off, the same one for all rows.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.convert.sequence import noisy_odometry
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.evaluation.metrics import FrameRecord, evaluate
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import covariance_of_base, inverse, make_transform, pose_error
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.device import device_name
from vloc_ros.pipeline import Frame, Pipeline
from vloc_ros.types import CameraModel, LocalizationState, PosePrior, Query, RgbImage, View

#: Further off than this (m) while LOCALIZED is a wrong pose.
WRONG_M = 1.0


@dataclass(frozen=True)
class Images:
    """Images on demand."""

    read: Callable[[int], RgbImage]
    count: int

    def image(self, index: int) -> RgbImage:
        return self.read(index)

    def frames(self):
        return ((i, self.read(i)) for i in range(self.count))


@dataclass(frozen=True)
class TownImages(Images):
    """Of the town, which knows the depth of its images, too."""

    rendered: Callable[[int], Any]

    def depth(self, index: int) -> Any:
        return self.rendered(index).depth


Rig = dict[str, PosedSequence]


def town_rig(index: int, spacing_m: float, laps: float, loop_m: float) -> Rig:
    """A drive of the town with a camera ahead and one that looks to the left."""
    from vloc_ros.town import Renderer, Town, Traversal, default_camera

    camera = default_camera(320, 180)
    drive = Traversal(Town(11, loop_m), index, spacing_m=spacing_m, laps=laps)
    out: Rig = {}
    for name, turn_deg in (("front", 0.0), ("side", 90.0)):
        turned = make_transform(so3_exp([0.0, 0.0, np.radians(turn_deg)]), np.zeros(3)) @ drive.T_base_cam
        view = Traversal(Town(11, loop_m), index, spacing_m=spacing_m, laps=laps)
        view.T_base_cam, view.T_map_cam = turned, view.T_map_base @ turned
        renderer = Renderer(view.town, camera)

        def rendered(i: int, renderer=renderer, view=view) -> Any:
            return renderer.render(view, i)

        @functools.cache  # the rows of a table ask for the same frames
        def read(i: int, rendered=rendered) -> RgbImage:
            return rendered(i).rgb

        images = TownImages(read, len(drive), rendered)
        out[name] = PosedSequence(
            f"{drive.name}_{name}", drive.stamps_ns, view.T_map_cam, turned, camera, images, drive.T_odom_base,
        )  # fmt: skip
    return out


def kitti_rig(folder: Path) -> Rig:
    """The stereo pair; the base is the left camera, its axes turned."""
    import cv2

    left = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    seconds = np.loadtxt(folder / "times.txt")
    count = len(list((folder / "left").glob("*.png")))
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3] = left[:count]
    # The world of the poses is the first camera; maps are z-up.
    body = make_transform([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], np.zeros(3))
    T = body @ T
    camera = CameraModel(1241, 376, 718.856, 718.856, 607.1928, 185.2157)
    stamps = 1_600_000_000_000_000_000 + (seconds[:count] * 1e9).astype(np.int64)
    odometry = noisy_odometry(T @ inverse(body), 0.01, 2e-3, seed=0)
    out: Rig = {}
    for name, baseline, suffix in (("left", 0.0, "png"), ("right", 0.5372, "jpg")):
        files = sorted((folder / name).glob(f"*.{suffix}"))
        shift = make_transform(np.eye(3), [baseline, 0.0, 0.0])

        def read(i: int, files=files) -> RgbImage:
            return np.ascontiguousarray(cv2.imread(str(files[i]), cv2.IMREAD_COLOR)[:, :, ::-1])

        out[name] = PosedSequence(name, stamps, T @ shift, body @ shift, camera, Images(read, count), odometry)
    return out


def built(rigs: Sequence[Rig], folder: Path, backend: str = "features", size: tuple[int, int] = (0, 0)) -> Path:
    """A map of all cameras of some drives. :param size: of PixLoc's images."""
    from vloc_train.training.run import RunOptions

    sequences = [sequence for rig in rigs for sequence in rig.values()]
    drives, options = {"map": sequences}, RunOptions(device="cpu", progress=False)
    if (folder / "map.yaml").exists():
        return folder
    if backend == "features":
        from vloc_train.features import build, settings

        build.BUILDER.run(drives, folder, settings.BuildSettings(), options)
    else:
        from vloc_train.pixloc import build as pixloc

        known = all(isinstance(s.source, TownImages) for s in sequences)
        made = pixloc.BuildSettings(
            source="depth" if known else "sfm", image_width=size[0], image_height=size[1], report=False
        )
        pixloc.BUILDER.run(drives, folder, made, options)
    return folder


def refined(rig: Rig, map_path: Path, blind: dict[str, tuple[float, float]] | None = None) -> dict[str, Any]:
    """What a PixLoc map makes of each frame by itself, from a prior that is off; see the top of the file."""
    names, records, times = list(rig), list[FrameRecord](), list[float]()
    first, fused = rig[names[0]], 0
    with load_localizer(map_path, "cpu") as localizer:
        localizer.warm_up()
        for i in range(len(first)):
            stamp = int(first.stamps_ns[i])
            seconds = (stamp - int(first.stamps_ns[0])) * 1e-9
            T_base = first.T_map_cam[i] @ inverse(first.T_base_cam)
            images = []
            for name, drive in rig.items():
                image = drive.source.image(i)
                start, end = (blind or {}).get(name, (np.inf, np.inf))
                images.append(np.zeros_like(image) if start <= seconds < end else image)
            prior = _prior(T_base, i)
            at = PosePrior(
                prior.T_map_cam @ first.T_base_cam,
                covariance_of_base(prior.T_map_cam, prior.covariance, first.T_base_cam),
            )
            others = tuple(
                View(image, drive.camera, inverse(first.T_base_cam) @ drive.T_base_cam, name)
                for (name, drive), image in list(zip(rig.items(), images, strict=True))[1:]
            )
            started = time.process_time()
            found = localizer.localize(Query(images[0], first.camera, stamp, at, None, others))
            times.append((time.process_time() - started) * 1e3)
            fused += int(found.diagnostics.get("rig_fused", 1.0))
            posed = found.state is not LocalizationState.LOST
            T = found.T_map_cam @ inverse(first.T_base_cam)
            covariance = covariance_of_base(found.T_map_cam, found.covariance, inverse(first.T_base_cam))
            records.append(
                FrameRecord(
                    stamp_ns=stamp, state=found.state, T_map_base=T if posed else None,
                    covariance=covariance if posed else None, T_reference=T_base, covariance_reference=None,
                    score=found.score, refused="", timings_ms={}, T_retrieved=None, T_estimated=T,
                )
            )  # fmt: skip
    return {**figures(records), "cpu_ms_p50": float(np.median(times)), "cpu_ms_p95": float(np.quantile(times, 0.95)),
            "cameras_in_the_pose": fused / len(first)}  # fmt: skip


def _prior(T_map_base: Any, frame: int) -> PosePrior:
    """Uniformly up to 1 m and 3 deg off in a random direction, the height a tenth of it; the same for a frame."""
    rng = np.random.default_rng(frame)
    way, axis = rng.normal(size=3) * [1.0, 1.0, 0.1], rng.normal(size=3)
    T = np.array(T_map_base)
    T[:3, 3] += rng.uniform(0.0, 1.0) * way / np.linalg.norm(way)
    T[:3, :3] = so3_exp(np.radians(rng.uniform(0.0, 3.0)) * axis / np.linalg.norm(axis)) @ T[:3, :3]
    return PosePrior(T, np.diag([0.5**2, 0.5**2, 0.1**2] + [np.radians(1.5) ** 2] * 3))


def localized(rig: Rig, map_path: Path, blind: dict[str, tuple[float, float]] | None = None) -> dict[str, Any]:
    """What a fresh pipeline makes of the frames. :param blind: by camera, from and until when (s) it is black."""
    names = list(rig)
    first = rig[names[0]]
    records: list[FrameRecord] = []
    times: list[float] = []
    left_out: dict[str, int] = dict.fromkeys(names, 0)
    with load_localizer(map_path, "cpu") as localizer:
        pipeline = Pipeline(localizer)
        localizer.warm_up()
        for i in range(len(first)):
            stamp = int(first.stamps_ns[i])
            T_base = first.T_map_cam[i] @ inverse(first.T_base_cam)
            seconds = (stamp - int(first.stamps_ns[0])) * 1e-9
            frames = []
            for name, drive in rig.items():
                image = drive.source.image(i)
                start, end = (blind or {}).get(name, (np.inf, np.inf))
                if start <= seconds < end:
                    image = np.zeros_like(image)
                odometry = None if drive.T_odom_base is None else drive.T_odom_base[i]
                frames.append(Frame(stamp, image, drive.camera, True, drive.T_base_cam, odometry, name=name))
            result = pipeline.process(replace(frames[0], others=tuple(frames[1:])))
            for name, why in result.cameras.items():
                left_out[name] += bool(why)
            times.append(result.timings_ms["total"])
            published = result.publish
            records.append(
                FrameRecord(
                    stamp_ns=stamp, state=result.state, T_map_base=result.T_map_base if published else None,
                    covariance=result.covariance_base if published else None, T_reference=T_base,
                    covariance_reference=None, score=0.0, refused=result.refused or "",
                    timings_ms=result.timings_ms if result.refused is None else {}, T_retrieved=None,
                    T_estimated=result.T_map_base,
                )
            )  # fmt: skip
    return {**figures(records), "ms_p50": float(np.median(times)), "ms_p95": float(np.quantile(times, 0.95)),
            "left_out": left_out}  # fmt: skip


def figures(records: list[FrameRecord]) -> dict[str, Any]:
    """The figures of a run: every median over all frames, one without a pose infinitely wrong."""
    metrics = evaluate(records, np.zeros((0, 4, 4)), np.eye(4))
    errors: list[float] = []
    for r in records:
        assert r.T_reference is not None
        lost = r.T_map_base is None
        errors.append(np.inf if lost else float(np.linalg.norm(pose_error(r.T_map_base, r.T_reference)[:3])))
    posed = [r.stamp_ns for r in records if r.T_map_base is not None]
    # From the first pose on: before it nothing was known.
    ends = [*posed, records[-1].stamp_ns]
    gap = max((b - a for a, b in itertools.pairwise(ends)), default=0) * 1e-9
    sure = [
        e for e, r in zip(errors, records, strict=True) if r.state is LocalizationState.LOCALIZED and np.isfinite(e)
    ]
    return {
        "frames": len(records),
        "median_m": float(np.median(errors)),
        "p95_m": float(np.quantile(errors, 0.95, method="lower")),
        "localized_share": float(np.mean([r.state is LocalizationState.LOCALIZED for r in records])),
        "published_share": len(posed) / len(records),
        "wrong_while_localized": int(sum(e > WRONG_M for e in sure)),
        "worst_localized_m": max(sure, default=float("nan")),
        "longest_gap_s": float(gap),
        "nees_share_in_95": metrics.nees.share_in_95,
        "nees_mean": metrics.nees.mean,
    }


def compared(
    rig: Rig, map_path: Path, blind_s: tuple[float, float], only: int | None = None, backend: str = "features"
) -> list[dict[str, Any]]:
    """All rows of a table, or one of them."""
    rows, run = [], localized if backend == "features" else refined
    cases: list[tuple[str, Rig, dict[str, tuple[float, float]]]] = [
        (f"{name} alone", {name: rig[name]}, {}) for name in rig
    ]
    cases += [("rig", rig, {})] + [(f"rig, {name} blinded", rig, {name: blind_s}) for name in rig]
    for title, cameras, blind in cases if only is None else cases[only : only + 1]:
        row = {"cameras": title, **run(cameras, map_path, blind)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("town", "kitti"))
    parser.add_argument("--backend", choices=("features", "pixloc"), default="features")
    parser.add_argument("--data", type=Path, help="kitti: folder with left, right, poses.txt, times.txt")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row", type=int, help="only this row of the table, which the file keeps the others of")
    parser.add_argument("--every", type=int, default=1, help="only every n-th of the queries")
    parser.add_argument("--frames", type=int, default=0, help="of the queries, at most; 0: all")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    backend, kind = given.backend, "" if given.backend == "features" else f"_{given.backend}"
    if given.what == "town":
        queries = {n: s.select(np.arange(0, len(s), 2)) for n, s in town_rig(5, 0.5, 1.5, 120.0).items()}
        map_path = built(
            [town_rig(n, 1.0, 1.0, 120.0) for n in (0, 1)], given.work / f"town{kind}", backend, (320, 180)
        )
        blind = (8.0, 28.0)
    else:
        if given.data is None:
            parser.error("kitti: --data FOLDER")
        rig = kitti_rig(given.data)
        rows = np.arange(len(rig["left"]))
        kept = {n: s.select(rows[rows % 4 == 0]) for n, s in rig.items()}
        map_path = built([kept], given.work / f"kitti{kind}", backend, (1248, 384))
        queries, blind = {n: s.select(rows[rows % 4 != 0]) for n, s in rig.items()}, (3.0, 7.0)
    if given.every > 1:
        queries = {n: s.select(np.arange(0, len(s), given.every)) for n, s in queries.items()}
    if given.frames:
        queries = {n: s.select(np.arange(min(given.frames, len(s)))) for n, s in queries.items()}
    rows = compared(queries, map_path, blind, given.row, backend)
    if given.row is not None and given.out.exists():
        before = json.loads(given.out.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in before if row["cameras"] != rows[0]["cameras"]] + rows
    table: dict[str, Any] = {"what": given.what, "backend": backend, "blind_s": blind, "rows": rows}
    with load_localizer(map_path, "cpu") as localizer:
        table["device"] = device_name(localizer.device)
    given.out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
