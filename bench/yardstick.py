"""What 150 lines of SIFT and PnP reach on real images, and `features` on the same frames in the same run.

    OMP_NUM_THREADS=1 python bench/yardstick.py --root DATA --cache CACHE --out bench/results/real_images/yardstick.json

DATA and CACHE are those of ``vloc evaluate real_images`` (OUT/cache); maps that are missing are built. The yardstick:
4,096 SIFT features an image, points triangulated between neighbouring map images by their known poses, five images
chosen by an ImageNet encoder, mutual nearest neighbours, P3P in RANSAC at 4 pixels, refinement on its inliers. It knows
neither covariance nor state. Ours: without a prior, and with one drawn around the truth (up to 0.2 m and 2 degrees).
Processor seconds are of one thread, a query: the first of each method is left out, which makes what is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.geometry.se3 import inverse, pose_error, transform_points
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer, load_localizer, stored_settings
from vloc_ros.localizers.features.settings import FeaturesSettings
from vloc_ros.localizers.retrieval.localizer import RetrievalLocalizer
from vloc_ros.types import LocalizationState, PosePrior, Query
from vloc_train.benchmark.drives import Drives, Part
from vloc_train.benchmark.maps import Steps
from vloc_train.benchmark.protocol import Protocol, load
from vloc_train.benchmark.score import asked_of
from vloc_train.benchmark.splits import Fold, Prior, folds_of
from vloc_train.training.run import RunOptions

#: The retrieval map of each split, whose encoder chooses images for the yardstick.
ENCODERS = {"hololens": "walk_retrieval", "tum": "desk_retrieval"}
FEATURES, CHOSEN, NEIGHBOURS, RATIO_PX, RANSAC_PX = 4096, 5, 4, 4.0, 4.0
PRIOR = Prior(offset_m=(0.0, 0.2), offset_deg=(0.0, 2.0))
RECALL = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0))


def mutual(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows (M, 2) of (N, D) and (K, D) descriptors that are each other's nearest."""
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64)
    similar = torch.from_numpy(a) @ torch.from_numpy(b).T
    there, back = similar.argmax(dim=1).numpy(), similar.argmax(dim=0).numpy()
    rows = np.arange(len(a))
    return np.stack([rows, there], axis=1)[back[there] == rows]


class Yardstick:
    """The map: images, their features, and a 3D point of those that a neighbour sees as well."""

    def __init__(self, parts: tuple[Part, ...], encoder: RetrievalLocalizer) -> None:
        self._sift = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.01)
        self._encoder = encoder.descriptor
        poses, found, images = [], [], []
        for part in parts:
            sequence = part.frames()
            self._rectifier = Rectifier(sequence.camera)
            self._camera = self._rectifier.target
            for index, image in sequence.frames():
                rectified, _ = self._rectifier.rectify(image)
                found.append(self._describe(rectified))
                images.append(self._encode(rectified))
                poses.append(sequence.T_map_cam[index])
        self._T, self._images = np.stack(poses), torch.stack(images)
        self._points = [np.full((len(pixels), 3), np.nan) for pixels, _ in found]
        self._found = found
        place = self._T[:, :3, 3]
        for a in range(len(found)):
            for b in np.argsort(np.linalg.norm(place - place[a], axis=1), kind="stable")[1 : NEIGHBOURS + 1]:
                self._triangulate(a, int(b))

    def _describe(self, image: Any) -> tuple[np.ndarray, np.ndarray]:
        keypoints, raw = self._sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
        if raw is None:
            return np.empty((0, 2)), np.empty((0, 128), np.float32)
        root = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9))
        return np.array([k.pt for k in keypoints]), root.astype(np.float32)

    def _encode(self, image: Any) -> torch.Tensor:
        vector = self._encoder.describe(image).float().flatten().cpu()
        return vector / vector.norm()

    def _triangulate(self, a: int, b: int) -> None:
        pairs = mutual(self._found[a][1], self._found[b][1])
        rays = [unproject(self._camera, self._found[k][0][pairs[:, i]]) for i, k in enumerate((a, b))]
        P = [inverse(self._T[k])[:3] for k in (a, b)]
        rows = [r[:, i : i + 1] * p[2] - p[i] for r, p in zip(rays, P, strict=True) for i in (0, 1)]
        if not len(pairs):
            return
        _, _, V = np.linalg.svd(np.stack(rows, axis=1))
        X = V[:, -1, :3] / np.where(np.abs(V[:, -1, 3:]) > 1e-12, V[:, -1, 3:], np.nan)
        good = np.isfinite(X).all(axis=1)
        for i, k in enumerate((a, b)):
            seen, front = project(self._camera, transform_points(inverse(self._T[k]), np.nan_to_num(X)))
            good &= front & (np.linalg.norm(seen - self._found[k][0][pairs[:, i]], axis=1) < RATIO_PX)
        views = [X - self._T[k][:3, 3] for k in (a, b)]
        cosine = (views[0] * views[1]).sum(axis=1) / np.prod([np.linalg.norm(v, axis=1) for v in views], axis=0)
        good &= np.nan_to_num(cosine, nan=1.0) < math.cos(math.radians(1.0))
        self._points[a][pairs[good, 0]] = X[good]

    def localize(self, image: Any) -> np.ndarray | None:
        """``T_map_cam`` of an image as the lens made it, or None."""
        rectified, _ = self._rectifier.rectify(image)
        pixels, descriptors = self._describe(rectified)
        best = (self._images @ self._encode(rectified)).topk(min(CHOSEN, len(self._images))).indices.tolist()
        seen, points = [], []
        for k in best:
            there = np.isfinite(self._points[k]).all(axis=1)
            pairs = mutual(descriptors, self._found[k][1][there])
            seen.append(pixels[pairs[:, 0]])
            points.append(self._points[k][there][pairs[:, 1]])
        p, X = np.concatenate(seen), np.concatenate(points)
        if len(p) < 6:
            return None
        good, r, t, inside = cv2.solvePnPRansac(
            X, p, self._camera.K, None, iterationsCount=10_000, reprojectionError=RANSAC_PX, confidence=0.9999,
            flags=cv2.SOLVEPNP_P3P,
        )  # fmt: skip
        if not good or inside is None or len(inside) < 6:
            return None
        rows = inside.ravel()
        r, t = cv2.solvePnPRefineLM(X[rows], p[rows], self._camera.K, None, r, t)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(r)[0], t.ravel()
        return inverse(T)


def figures(errors: list[tuple[float, float]], seconds: list[float]) -> dict[str, Any]:
    """Medians, shares within, processor seconds."""
    e = np.array(errors)
    used = seconds[1:] or seconds
    return {
        "median_m": float(np.median(e[:, 0])),
        "median_deg": float(np.median(e[:, 1])),
        "within": {f"{m} m {d:g} deg": float(((e[:, 0] <= m) & (e[:, 1] <= d)).mean()) for m, d in RECALL},
        "cpu_s_a_query": float(np.median(used)),
        "cpu_s_mean": float(np.mean(used)),
    }


def error(T: np.ndarray | None, truth: np.ndarray) -> tuple[float, float]:
    """Metres and degrees; infinite without a pose."""
    if T is None:
        return math.inf, math.inf
    d = pose_error(T, truth)
    return float(np.linalg.norm(d[:3])), math.degrees(float(np.linalg.norm(d[3:])))


def ours(localizer: Localizer, fold: Fold, prior: Prior | None, seed: int) -> dict[str, Any]:
    """`features` on every query, each alone."""
    asked = asked_of(fold, prior, seed, "yardstick")
    errors, seconds, localized, row = [], [], 0, 0
    for part in asked.queries:
        sequence = part.frames()
        for index, image in sequence.frames():
            told: PosePrior | None = asked.prior(row)
            begin = time.process_time()
            found = localizer.localize(Query(image, sequence.camera, int(sequence.stamps_ns[index]), told))
            seconds.append(time.process_time() - begin)
            lost = found.state is LocalizationState.LOST
            errors.append(error(None if lost else found.T_map_cam, sequence.T_map_cam[index]))
            localized += found.state is LocalizationState.LOCALIZED
            row += 1
    return {**figures(errors, seconds), "localized": localized / row}


def extraction(fold: Fold, localizer: Any, limit: int) -> float:
    """Processor seconds that finding the features of a query takes, median."""
    extractor, seconds = localizer.extractor, []
    for part in fold.query:
        for _, image in part.frames().frames():
            begin = time.process_time()
            extractor.extract(image, limit)
            seconds.append(time.process_time() - begin)
    return float(np.median(seconds[1:]))


def split_of(protocol: Protocol, name: str, drives: Drives, steps: Steps, seeds: int) -> dict[str, Any]:
    """All methods on one split."""
    (fold,) = folds_of(name, protocol.splits[name], drives)
    out: dict[str, Any] = {"queries": sum(len(part) for part in fold.query)}
    with load_localizer(steps.make(ENCODERS.get(name, "street_retrieval"), fold).path, "cpu") as encoder:
        assert isinstance(encoder, RetrievalLocalizer)
        begin = time.process_time()
        yardstick = Yardstick(fold.map, encoder)
        built = time.process_time() - begin
        runs = []
        for seed in range(seeds):
            cv2.setRNGSeed(seed)
            errors, seconds = [], []
            for part in fold.query:
                sequence = part.frames()
                for index, image in sequence.frames():
                    begin = time.process_time()
                    T = yardstick.localize(image)
                    seconds.append(time.process_time() - begin)
                    errors.append(error(T, sequence.T_map_cam[index]))
            runs.append(figures(errors, seconds))
        out["yardstick"] = {**runs[0], "build_cpu_s": built, "median_m_of_seeds": [r["median_m"] for r in runs]}
    features = steps.make("untrained_features", fold)
    limits = stored_settings(features.bundle(), "features", FeaturesSettings)
    with load_localizer(features.path, "cpu") as localizer:
        out["features"] = ours(localizer, fold, None, 0)
        told = [ours(localizer, fold, PRIOR, seed) for seed in range(seeds)]
        found = extraction(fold, localizer, limits.prior_features)
        out["features, prior"] = {
            **told[0],
            "median_m_of_seeds": [r["median_m"] for r in told],
            "extraction_cpu_s": found,
            "beyond_extraction_s": told[0]["cpu_s_a_query"] - found,
            "features": limits.prior_features,
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--splits", nargs="*", default=["hololens", "tum", "kitti_stereo", "between", "gap"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    protocol = load("real_images")
    drives = Drives(protocol.data, arguments.root, arguments.cache / "drives")
    steps = Steps(protocol, drives, arguments.cache / "maps", RunOptions(device="cpu"))
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.splits:
        result[name] = split_of(protocol, name, drives, steps, arguments.seeds)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result[name]), flush=True)


if __name__ == "__main__":
    main()
