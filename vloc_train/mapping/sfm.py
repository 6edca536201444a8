"""Structure from motion of posed images: detect, match by pose, triangulate with the poses as they are.

Every stage leaves files in its working directory and goes on from them. Memory holds a few frames' features while
matching, and one block of frames while triangulating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import CameraMismatchError, DatasetError
from vloc_ros.features.base import FeatureExtractor
from vloc_ros.staging import replacing
from vloc_ros.types import CameraModel, RgbImage
from vloc_train.mapping import colmap
from vloc_train.mapping.keypoints import Detector, FarDetector, FeatureStore, found_in, make_detector
from vloc_train.mapping.matching import Matched, Matching, matched
from vloc_train.mapping.neighbours import neighbour_pairs
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.sfm_blocks import triangulated
from vloc_train.mapping.sfm_frames import Frames, Progress, SfmSettings, chosen_frames, digest_of
from vloc_train.training.cluster import Workers

__all__ = ["SfmSettings", "reconstruct", "reconstruct_features"]

Ints = npt.NDArray[np.int64]


#: Settings that each stage depends on; a later one depends on those before, too.
_DETECTION = ("detector", "features", "peak", "maximum_side", "spacing_m", "spacing_deg")
_MATCHING = ("neighbours", "reach_m", "reach_deg", "baseline_m", "ratio", "epipolar_px")
#: Frames that are matched together, where they travel.
_TOGETHER = 8
#: Matches that must be there before their share that agrees with the poses says anything.
_ENOUGH = 200
#: Below this share the poses are not those of the images.
_AGREEING = 0.2


def reconstruct(
    sequences: Sequence[PosedSequence],
    settings: SfmSettings,
    work: Path,
    progress: Progress | None = None,
    device: torch.device | None = None,
    workers: Workers | None = None,
) -> SparseModel:
    """Triangulate the drives of one scene; see :func:`reconstruct_features`."""
    return reconstruct_features(sequences, settings, work, progress, device, workers=workers)[0]


def reconstruct_features(
    sequences: Sequence[PosedSequence],
    settings: SfmSettings,
    work: Path,
    progress: Progress | None = None,
    device: torch.device | None = None,
    extractor: FeatureExtractor | None = None,
    workers: Workers | None = None,
) -> tuple[SparseModel, FeatureStore]:
    """Triangulate the drives of one scene, and keep the features that the points come from.

    Pixels and cameras of the model are those of images as large as features are looked for in.

    :param extractor: finds them, instead of the SIFT that the settings name.
    :param work: where features, matches and points lie; the same call continues from them.
    :param device: where descriptors are compared.
    :param workers: who finds features, matches and triangulates; default: this process.
    :raises DatasetError: one frame, no neighbours, images that the poses or cameras do not fit, or no points.
    :raises ConfigError: pycolmap is missing.
    """
    colmap.require_pycolmap()
    report = progress or (lambda *_: None)
    side = settings.maximum_side if extractor is None else extractor.settings.maximum_side
    frames = chosen_frames([s.reduced(side) for s in sequences], settings.spacing_m, settings.spacing_deg)
    names = ", ".join(s.name for s in sequences)
    if len(frames) < 2:
        raise DatasetError(
            f"{names}: expected at least two frames that are {settings.spacing_m:g} m or {settings.spacing_deg:g} deg "
            f"apart, found {len(frames)} of {sum(len(s) for s in sequences)}; structure needs parallax: "
            "record while the camera moves, take a smaller spacing_m in a small place, or give depth (source=depth)"
        )
    workers = workers or Workers()
    store = _detected(frames, settings, work, report, extractor, workers, device)
    pairs = neighbour_pairs(
        frames.T_map_cam,
        frames.drive,
        settings.neighbours,
        settings.reach_m,
        settings.reach_deg,
        settings.baseline_m,
    )
    if not len(pairs):
        raise DatasetError(
            f"{names}: expected frames {settings.baseline_m:g} to {settings.reach_m:g} m apart that look the same way "
            f"(within {settings.reach_deg:g} deg), found none among {len(frames)}; do the drives overlap, and are the "
            "poses in metres?"
        )
    folder = _matched(frames, store, pairs, settings, report, device, workers)
    model = triangulated(frames, store, folder, settings, report, workers)
    if not len(model.points):
        raise DatasetError(
            f"{names}: expected points, found none that {'two' if settings.two_view else 'three'} frames see under "
            f"{settings.angle_deg:g} deg within {settings.error_px:g} px; is there texture, and sideways movement "
            "(a camera that looks where it drives needs near points)?"
        )
    return model, store


def _picked(settings: SfmSettings, names: Sequence[str]) -> list[Any]:
    return [getattr(settings, name) for name in names]


def _detected(
    frames: Frames,
    settings: SfmSettings,
    work: Path,
    report: Progress,
    extractor: FeatureExtractor | None,
    workers: Workers,
    device: torch.device | None,
) -> FeatureStore:
    ends = [np.flatnonzero(frames.drive == d)[[0, -1]] for d in np.unique(frames.drive)]
    seen = [frames.sequences[frames.drive[f]].image(int(frames.number[f])) for e in ends for f in e]
    digest = digest_of(
        _picked(settings, _DETECTION),
        None if extractor is None else (extractor.identity, extractor.settings),
        [(s.name, s.camera, len(s)) for s in frames.sequences],
        frames.stamps_ns.tobytes(),
        *(np.ascontiguousarray(image).tobytes() for image in seen),
    )
    store = FeatureStore(work / f"features-{digest}", tuple(frames.camera(f) for f in range(len(frames))))
    missing = np.array([f for f in range(len(frames)) if not store.has(f)], dtype=np.int64)
    report("features", len(frames) - len(missing), len(frames))
    if not len(missing):
        return store
    sift = (settings.detector, settings.features, settings.peak)
    if workers.far:
        far = None if extractor is None else extractor.settings
        detect: Detector = FarDetector(far, sift, device is not None and device.type == "cuda")
    else:
        detect = make_detector(*sift) if extractor is None else extractor.extract
    done = len(frames) - len(missing)
    for number, found in workers.each(found_in, _images(frames, missing, detect)):
        store.put(int(missing[number]), found)
        done += 1
        report("features", done, len(frames))
    return store


def _images(frames: Frames, missing: Ints, detect: Detector) -> Iterator[tuple[Detector, CameraModel, RgbImage]]:
    """The images of some frames, in their order. :raises CameraMismatchError: not of the size of their camera."""
    for drive in np.unique(frames.drive[missing]):
        mine = missing[frames.drive[missing] == drive]
        sequence = frames.sequences[drive]
        part = sequence if len(mine) == len(sequence) else sequence.select(frames.number[mine])
        for frame, (_, image) in zip(mine, part.frames(), strict=True):
            if image.shape[:2] != (sequence.camera.height, sequence.camera.width):
                raise CameraMismatchError(
                    f"{sequence.name}: frame {frames.number[frame]}: expected an image of {sequence.camera.width}x"
                    f"{sequence.camera.height} as its camera says, found {image.shape[1]}x{image.shape[0]}"
                )
            yield detect, frames.camera(int(frame)), image


def _matched(
    frames: Frames,
    store: FeatureStore,
    pairs: Ints,
    settings: SfmSettings,
    report: Progress,
    device: torch.device | None,
    workers: Workers,
) -> Path:
    """Matches of every frame with its neighbours of higher number, a file a frame; returns their folder."""
    digest = digest_of(_picked(settings, _MATCHING), frames.T_map_cam.tobytes())
    folder = store.folder / f"matches-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{frame:07d}.npz" for frame in range(len(frames))]
    missing = np.array([f for f, file in enumerate(files) if not file.exists()], dtype=np.int64)
    done = len(frames) - len(missing)
    # Frames that travel together have neighbours in common.
    groups = (
        [missing[i : i + _TOGETHER] for i in range(0, len(missing), _TOGETHER)] if workers.far else missing[:, None]
    )
    asked_of = partial(_matching, frames, store, pairs, settings, device)
    for number, found in workers.each(matched, map(asked_of, groups)):
        for frame, others in zip(groups[number], found, strict=True):
            _write_matches(files[frame], _others(pairs, frame), others)
            done += 1
            report("matches", done, len(frames))
    asked, agreed = [], []
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            asked.append(int(stored["asked"].sum()))
            agreed.append(int(stored["counts"].sum()))
    _check_agreement(sum(asked), sum(agreed), len(pairs), settings)
    return folder


def _others(pairs: Ints, frame: int) -> Ints:
    begin, end = np.searchsorted(pairs[:, 0], [frame, frame + 1])
    return pairs[begin:end, 1]


def _matching(
    frames: Frames, store: FeatureStore, pairs: Ints, settings: SfmSettings, device: torch.device | None, group: Ints
) -> Matching:
    """What it takes to match some frames."""
    of = [(int(frame), _others(pairs, frame)) for frame in group]
    wanted = sorted({frame for frame, _ in of} | {int(other) for _, others in of for other in others})
    cameras = {frame: frames.camera(frame) for frame in wanted}
    return Matching(
        {frame: store.read(frame) for frame in wanted},
        {frame: frames.T_map_cam[frame] for frame in wanted},
        of,
        {frame: settings.epipolar_px / (0.5 * (camera.fx + camera.fy)) for frame, camera in cameras.items()},
        settings.ratio,
        device,
    )


def _write_matches(file: Path, others: Ints, found: Sequence[Matched]) -> None:
    with replacing(file, clean=False) as stream:
        np.savez(
            stream,
            others=others,
            counts=np.array([len(f.pairs) for f in found], dtype=np.int64),
            asked=np.array([f.asked for f in found], dtype=np.int64),
            pairs=np.concatenate([np.zeros((0, 2), np.int64), *(f.pairs for f in found)]).astype(np.uint16),
        )


def _check_agreement(asked: int, agreed: int, pairs: int, settings: SfmSettings) -> None:
    if asked >= _ENOUGH and agreed < _AGREEING * asked:
        raise DatasetError(
            f"expected poses and cameras that fit the images, found that {100 * agreed / asked:.0f} % of {asked} "
            f"matches of {pairs} pairs agree with them within {settings.epipolar_px:g} px; check that the poses are of "
            "this camera (extrinsics, camera_info) and of these stamps"
        )
    if agreed < settings.minimum_matches:
        raise DatasetError(
            f"expected matches between neighbouring frames, found {agreed} in {pairs} pairs; are the images blurred, "
            "dark or without texture? Use more features (features, peak), closer frames, or depth (source=depth)"
        )
