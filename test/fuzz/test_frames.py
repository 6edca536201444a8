"""Images, camera infos, transforms, odometry, stamps, priors and estimates of any kind: results, and nothing raised."""

from __future__ import annotations

import random
import resource
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import torch
from fuzzing import NUMBERS, TEXTS, Edit, assault, damaged, nothing_raised

from vloc_ros.errors import VlocError
from vloc_ros.frames import REFUSALS, Frame
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.images.decode import CompressedImage, RawImage, decode, supported_encodings
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.messages import camera_model
from vloc_ros.pipeline import Pipeline, PipelineSettings
from vloc_ros.tracking import Tracker
from vloc_ros.types import CameraModel, Estimate, LocalizationState, Query, check_covariance, check_transform

SECOND = 1_000_000_000
CAMERA = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
STATES = list(LocalizationState)
#: Of a CameraInfo: the fields that are numbers, and those that are lists of them.
INFO = {
    "width": 64, "height": 48, "distortion_model": "plumb_bob", "d": [0.0] * 5,
    "k": [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0], "r": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    "p": [50.0, 0.0, 31.5, 0.0, 0.0, 50.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0], "binning_x": 0, "binning_y": 0,
}  # fmt: skip


class Anything(Localizer):
    """Estimates of any kind, by what the test says."""

    backend = "anything"

    def __init__(self) -> None:
        manifest = SimpleNamespace(preprocessing={"width": 32, "height": 24}, camera=CAMERA, backend="anything")
        self._manifest, self._map_id, self._device = cast(Any, manifest), "abc", torch.device("cpu")
        self.chance = random.Random(0)

    def find(self, query: Query, clock: Any, keep_candidates: bool) -> Any:
        raise NotImplementedError

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        check_query(query)
        if query.prior is not None:
            check_covariance(query.prior.covariance)
        chance = self.chance
        if chance.random() < 0.03:
            raise VlocError("refused")
        T = make_transform(np.eye(3), [query.stamp_ns / SECOND * 10.0, 0.0, 0.0])
        P = np.diag([0.04] * 3 + [1e-4] * 3)
        if chance.random() < 0.1:
            T = matrix(chance)
        if chance.random() < 0.1:
            P = matrix(chance, 6)
        state = chance.choice(STATES) if chance.random() < 0.2 else LocalizationState.LOCALIZED
        return Estimate(query.stamp_ns, T, P, 0.9, state, "anything", "abc")


def matrix(chance: random.Random, side: int = 4) -> Any:
    """A transform or covariance with numbers that are none, and now and then of another shape."""
    way = chance.random()
    if way < 0.1:
        return np.full((chance.randrange(7), chance.randrange(7)), 1.0)
    M = np.eye(side)
    for _ in range(chance.choice([1, 1, 3])):
        number = chance.choice(NUMBERS) if chance.random() < 0.8 else chance.uniform(-1e4, 1e4)
        k, j = chance.randrange(side), chance.randrange(side)
        M[k, j] = float(number)
        if side == 6:
            M[j, k] = M[k, j]
        elif chance.random() < 0.7:  # a rotation stays, the place goes
            M[k, j] = np.eye(4)[k, j]
            M[chance.randrange(3), 3] = float(number)
    return M if chance.random() < 0.9 else M * float(chance.choice(NUMBERS))


def raw(chance: random.Random) -> RawImage:
    width, height = (64, 48) if chance.random() < 0.6 else (chance.choice(NUMBERS[:13]), chance.choice(NUMBERS[:13]))
    encoding = chance.choice([*supported_encodings(), "rgb8", "mono8", *TEXTS])
    step = chance.choice([64, 128, 192, 256, 0, -1, 2**31, 2**40])
    data = chance.randbytes(chance.choice([0, 1, 48 * 64, 48 * 128, 48 * 192, 48 * 256]))
    return RawImage(encoding, int(width), int(height), step, chance.random() < 0.2, data)


def compressed(chance: random.Random) -> CompressedImage:
    pixels = np.random.default_rng(chance.randrange(2**31)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    if chance.random() < 0.3:
        pixels = pixels[..., 0].astype(np.uint16) * 200
    kind = ".png" if pixels.ndim == 2 or chance.random() < 0.5 else ".jpg"
    data = cv2.imencode(kind, pixels)[1].tobytes()
    if kind == ".png" and chance.random() < 0.3:  # another size in the header
        size = chance.choice([1, 63, 65, 30000, 2**31 - 1, 2**32 - 1])
        data = data[:16] + size.to_bytes(4, "big") + data[20:]
    return CompressedImage(
        chance.choice(["jpeg", "png", *TEXTS]), damaged(data, chance) if chance.random() < 0.8 else data
    )


def info(chance: random.Random) -> Any:
    """A CameraInfo, some of whose numbers are others."""
    made: dict[str, Any] = {name: list(v) if isinstance(v, list) else v for name, v in INFO.items()}
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        name = chance.choice(sorted(made))
        old = made[name]
        if isinstance(old, list):
            way = chance.random()
            if way < 0.2:
                made[name] = old[: chance.randrange(len(old) + 1)]
            elif old:
                old[chance.randrange(len(old))] = float(chance.choice(NUMBERS))
        elif isinstance(old, str):
            made[name] = chance.choice(["none", "rational_polynomial", "equidistant", "fisheye", *TEXTS])
        else:
            made[name] = int(chance.choice(NUMBERS[:13]))
    roi = {name: int(chance.choice(NUMBERS[:13])) if chance.random() < 0.1 else 0 for name in
           ("x_offset", "y_offset", "width", "height")}  # fmt: skip
    return SimpleNamespace(**made, roi=SimpleNamespace(**roi))


def test_the_pipeline_survives_anything() -> None:
    """Runs of 40 frames, most of them sound, in which any part can be anything."""
    localizer = Anything()
    sound = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def attempt(edits: list[Edit]) -> str:
        pipeline, stamp = Pipeline(localizer, PipelineSettings(), Tracker()), SECOND
        seen: set[str] = set()
        for number, seed in enumerate(edits):
            chance = random.Random(seed[0])
            localizer.chance = chance
            stamp += chance.choice([SECOND // 10] * 8 + [0, -SECOND // 10, -SECOND * 3, SECOND * 100, 2**62])
            bad = lambda share=0.08: chance.random() < share  # noqa: B023, E731
            image: Any = np.roll(sound, number, axis=1)
            if bad(0.3):
                image = chance.choice([raw, compressed])(chance)
            camera: CameraModel | None = CAMERA
            if bad(0.2):
                try:
                    camera = camera_model(info(chance), bad(0.5), (64, 48) if bad(0.5) else None)
                except VlocError as problem:
                    result = pipeline.refuse(stamp, "bad_camera_info", str(problem))
                    seen.add(str(result.refused))
                    continue
            if bad():
                try:
                    pipeline.set_initial_pose(
                        matrix(chance), matrix(chance, 6), stamp, matrix(chance) if bad(0.5) else None
                    )
                except VlocError:
                    seen.add("initial pose refused")
            T_odom = matrix(chance) if bad() else make_transform(np.eye(3), [float(number), 0.0, 0.0])
            frame = Frame(
                stamp, image, camera, bad(), matrix(chance) if bad() else np.eye(4), None if bad() else T_odom,
                stamp + int(chance.choice([0, 1, SECOND * 5, -SECOND * 5])) if bad(0.3) else None,
            )  # fmt: skip
            result = pipeline.process(frame)
            assert result.refused in (None, *REFUSALS)
            assert "\n" not in result.message
            seen.add(str(result.refused))
            if result.publish:
                assert result.T_map_base is not None and result.covariance_base is not None
                check_transform(result.T_map_base)
                assert np.linalg.eigvalsh(check_covariance(result.covariance_base))[0] > 0
            if result.T_map_odom is not None:
                check_transform(result.T_map_odom)
            pipeline.snapshot()
        return "survived"

    def edits(chance: random.Random) -> list[Edit]:
        return [[chance.randrange(2**31)] for _ in range(40)]

    assert set(assault("frames", edits, nothing_raised(attempt), quick=40)) == {"survived"}


def test_decoding_takes_no_more_memory_than_it_may() -> None:
    """Inputs of at most 100 kB, whatever they say of themselves: at most 200 MB, and a camera's tables 400 MB."""
    worst = 0.0

    def attempt(edits: list[Edit]) -> str:
        nonlocal worst
        chance = random.Random(edits[0][0])
        image = chance.choice([raw, compressed])(chance)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        try:
            out = decode(image)
            assert out.ndim == 3 and out.dtype == np.uint8
            return "decoded"
        finally:
            traced = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            worst = max(worst, traced, grown)
            assert max(traced, grown) < 200e6

    outcomes = assault("images", lambda chance: [[chance.randrange(2**31)]], attempt, quick=150)
    print(f"the most memory that one image took: {worst / 1e6:.0f} MB")
    assert outcomes["decoded"] and outcomes["refused"]
