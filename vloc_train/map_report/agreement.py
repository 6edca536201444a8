"""Do the images show the motion that the poses claim? By epipolar geometry, before anything is built on them.

Frames some way apart are matched, and the motion that their matches show is estimated without the poses: its rotation
(from matches alone where the parallax is small, else from the essential matrix) and the direction of its translation.
Both are compared with what poses and mounting say of the same two frames. Where most pairs disagree, something that a
person wrote down is wrong, and a map of it would be wrong without a sign. What would explain it is looked for:

* *the mounting is turned*: one rotation of the camera brings directions and axes of rotation together. A vehicle turns
  about the vertical and drives ahead, which fixes all three angles;
* *the pictures are mirrored or transposed*: the same with a reflection, under which axes of rotation change their sign;
* *the lens is another*: axes agree, and the angles differ by one factor: a focal length too long by a factor makes
  every turn look too small by it.

A drive that never turns says nothing about roll, reflection and lens, and one that never moves nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import VlocError
from vloc_ros.features.base import Described, FeatureSettings, enlargement
from vloc_ros.features.matching import match_descriptors
from vloc_ros.features.sift import SiftExtractor
from vloc_ros.geometry.cameras import unproject
from vloc_ros.geometry.rotations import rotation_angle, so3_log
from vloc_ros.geometry.se3 import inverse
from vloc_ros.images.reduction import reduced_camera, reduced_image
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["Agreement", "Frames", "Motion", "Pair", "compare", "motion_between"]

#: Pairs of a drive that are looked at all along, and where it turns.
_PAIRS, _TURNING = 16, 12
#: Directions, and turns, with fewer of which neither says anything.
_ENOUGH = 5
#: Frames between the two of a pair, tried from the one that did for the pair before.
_STEPS = (1, 2, 4, 8, 16, 32)
#: Degrees by which the poses turn between the two of a turning pair.
_TURNS_DEG = 4.0, 25.0
#: Matches that a pair needs, and the share of them that one motion must explain within so many pixels.
_MATCHES, _EXPLAINED, _PIXELS = 30, 0.5, 2.0
#: Pixels of parallax (median) that show a direction, degrees of rotation that show an axis.
_PARALLAX_PX, _TURN_DEG = 6.0, 3.0
#: A direction agrees within so many degrees, a rotation within so many or within a share of itself.
_DIRECTION_DEG, _ROTATION_DEG, _ROTATION_SHARE = 20.0, 1.0, 0.25
#: Poses fit where more than this share of what the pairs show agrees; a change explains it that brings this share.
_FITTING, _EXPLAINING = 0.5, 0.7
#: Turns that are all longer or shorter than stated by more than this factor are another lens.
_LENS = 1.15
#: Images are looked at in this width, at most; those narrower than the second are doubled, and narrower
#: than the third have too few features to tell.
_WIDEST, _ENLARGED, _NARROWEST = 800, 320, 160

_REFLECTIONS: dict[str, Array] = {
    "mirrored left to right": np.diag([-1.0, 1.0, 1.0]),
    "upside down as in a mirror": np.diag([1.0, -1.0, 1.0]),
    "transposed (rows and columns are swapped)": np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}


@dataclass(frozen=True)
class Motion:
    """What matches show of the motion between two frames.

    :ivar R_b_a: (3, 3). :ivar direction: (3,) unit vector along t in ``p_b = R_b_a p_a + t``; None where parallax is
        too small to say.
    :ivar parallax_px: median of the matches without their rotation. :ivar matches: those that agree with the motion.
    """

    R_b_a: Array
    direction: Array | None
    parallax_px: float
    matches: int


@dataclass(frozen=True)
class Agreement:
    """What the images of a drive say about its poses.

    :ivar pairs: of frames whose matches show a motion. :ivar directions, turns: how many of them show a direction, an
        axis of rotation.
    :ivar fitting: share of the directions, or of the turns, that agree with the poses: the smaller.
    :ivar direction_deg, rotation_deg: median differences of directions, and of all rotations.
    :ivar lens: factor between the turns that images show and those of the poses; NaN where there are too few.
    :ivar cause: what explains it, in words; empty where nothing does or nothing is wrong.
    """

    drive: str
    pairs: int = 0
    directions: int = 0
    turns: int = 0
    fitting: float = 1.0
    direction_deg: float = float("nan")
    rotation_deg: float = float("nan")
    lens: float = float("nan")
    cause: str = ""

    @property
    def told(self) -> bool:
        """Whether the images show enough motion to say anything."""
        return max(self.directions, self.turns) >= _ENOUGH

    @property
    def good(self) -> bool:
        """Whether there is nothing to warn of."""
        return not self.told or (self.fitting > _FITTING and not self.cause)

    def figures(self) -> dict[str, Any]:
        """Plain values for provenance and reports."""
        names = ("fitting", "direction_deg", "rotation_deg", "lens")
        numbers = {name: round(getattr(self, name), 4) for name in names if np.isfinite(getattr(self, name))}
        counts = {"pairs": self.pairs, "directions": self.directions, "turns": self.turns}
        return {"drive": self.drive, **counts, **numbers, "good": self.good, "in_words": self.in_words()}

    def in_words(self) -> str:
        """One sentence, with the amount."""
        if not self.told:
            return f"{self.drive}: too little motion in the images to compare it with the poses"
        text = f"in {self.pairs} pairs of frames the images show rotations {self.rotation_deg:.2f} deg"
        if self.directions:
            text += f", directions of motion {self.direction_deg:.1f} deg"
        text = f"{self.drive}: {text} off those of the poses (medians; {100 * self.fitting:.0f} % of them agree)"
        if self.good:
            return text
        return f"{text}: {self.cause or _UNKNOWN}"


_UNKNOWN = (
    "the poses are not those of this camera at these stamps, or too inexact for a map (mounting, camera_info, "
    "--time-offset, a receiver without corrections)"
)


@dataclass(frozen=True)
class Pair:
    """What the images of two frames show, and ``T_b_a`` (4, 4) as the poses state it."""

    shown: Motion
    stated: Array


def compare(drive: PosedSequence) -> Agreement:
    """What the images of a drive say about its poses; some seconds of work."""
    if drive.camera.width < _NARROWEST or len(drive) < _ENOUGH:
        return Agreement(drive.name)
    frames, pairs, step = Frames(drive), [], 0
    for start in np.unique(np.linspace(0, len(drive) - 2, _PAIRS).astype(int)):
        found, step = frames.moving(int(start), step)
        pairs.append(found)
    pairs += [frames.between(*ends) for ends in _turning(drive.T_map_cam)]
    return _judged(drive.name, [pair for pair in pairs if pair is not None])


def _turning(T_map_cam: Array) -> list[tuple[int, int]]:
    """Pairs of frames between which the poses turn: by how much, no mistake in the mounting changes."""
    found: dict[int, int] = {}
    for step in _STEPS:
        turns = np.degrees(rotation_angle(T_map_cam[:-step, :3, :3], T_map_cam[step:, :3, :3]))
        for start in np.flatnonzero((turns >= _TURNS_DEG[0]) & (turns <= _TURNS_DEG[1])):
            found.setdefault(int(start), int(start) + step)
        if len(found) >= _TURNING or step * 2 >= len(T_map_cam):
            break
    starts = sorted(found)
    chosen = np.unique(np.linspace(0, len(starts) - 1, _TURNING).astype(int)) if starts else ()
    return [(starts[k], found[starts[k]]) for k in chosen]


class Frames:
    """Described features of some frames of a drive, and what pairs of them show."""

    def __init__(self, drive: PosedSequence) -> None:
        self.drive = drive
        self._known: dict[int, tuple[Described, CameraModel] | None] = {}
        self._detect = SiftExtractor(FeatureSettings(limit=1000, minimum_width=_ENLARGED))

    def described(self, index: int) -> tuple[Described, CameraModel] | None:
        """The features of a frame and the camera of their pixels; None where the image cannot be read."""
        if index not in self._known:
            if len(self._known) > 64:
                self._known.clear()
            try:
                self._known[index] = _described(self._detect, self.drive.image(index), self.drive.camera)
            except VlocError:
                self._known[index] = None
        return self._known[index]

    def between(self, start: int, other: int) -> Pair | None:
        """What two frames show and what the poses state of them; None where they have too little in common."""
        first, second = self.described(start), self.described(other)
        shown = None if first is None or second is None else motion_between(first, second)
        stated = inverse(self.drive.T_map_cam[other]) @ self.drive.T_map_cam[start]
        return None if shown is None or not np.isfinite(stated).all() else Pair(shown, stated)

    def moving(self, start: int, step: int) -> tuple[Pair | None, int]:
        """A frame and a later one whose motion shows, and the number of the step that did."""
        best: Pair | None = None
        for number in (*range(step, len(_STEPS)), *range(step - 1, -1, -1)):
            other = start + _STEPS[number]
            if other >= len(self.drive):
                continue
            found = self.between(start, other)
            if found is None and best is None:
                continue  # nothing in common: the nearer ones come last
            if found is None:
                break
            best, step = found, number
            if found.shown.direction is not None:
                break
        return best, step


def _described(detect: SiftExtractor, image: RgbImage, camera: CameraModel) -> tuple[Described, CameraModel]:
    camera = reduced_camera(camera, _WIDEST)
    return Described.of(detect.extract(reduced_image(image, camera)), torch.device("cpu")), camera


def motion_between(a: tuple[Described, CameraModel], b: tuple[Described, CameraModel]) -> Motion | None:
    """The motion from one frame to another by their matches alone; None where they have too few in common."""
    rows, _ = match_descriptors(a[0].unit, b[0].unit, 0.8)
    if len(rows) < _MATCHES:
        return None
    first, second = (
        unproject(camera, described.features.pixels[index].astype(np.float64))
        for (described, camera), index in zip((a, b), rows.T, strict=True)
    )
    ahead = (first[:, 2] > 0.05) & (second[:, 2] > 0.05)
    first, second = _unit(first[ahead]), _unit(second[ahead])
    pixel = 1.0 / (min(a[1].fx, a[1].fy) * enlargement(a[1].width, _ENLARGED))
    R, fit = _rotation(first, second, _PIXELS * pixel)
    if fit.mean() < 0.8:
        found = _essential(first, second, 0.5 * _PIXELS * pixel)
        if found is None:
            return None
        R, t, fit = found
        parallax = _parallax(first[fit], second[fit], R) / pixel
        return Motion(R, t if parallax >= _PARALLAX_PX else None, parallax, int(fit.sum()))
    return Motion(R, None, _parallax(first[fit], second[fit], R) / pixel, int(fit.sum()))


def _parallax(first: Array, second: Array, R: Array) -> float:
    return float(np.median(np.linalg.norm(first @ R.T - second, axis=1))) if len(first) else 0.0


def _rotation(first: Array, second: Array, limit: float) -> tuple[Array, Any]:
    """The rotation that takes most rays (N, 3) to those of the other frame, and which these are (N,)."""
    weights = np.ones(len(first))
    R = np.eye(3)
    for _ in range(10):
        U, _, Vt = np.linalg.svd((second * weights[:, None]).T @ first)
        R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        off = np.linalg.norm(first @ R.T - second, axis=1)
        weights = 1.0 / (1.0 + (off / max(limit, 0.5 * float(np.median(off)))) ** 2)
    return np.asarray(R), off <= limit


def _essential(first: Array, second: Array, limit: float) -> tuple[Array, Array, Any] | None:
    flat = [np.ascontiguousarray(rays[:, :2] / rays[:, 2:]) for rays in (first, second)]
    cv2.setRNGSeed(0)
    E, mask = cv2.findEssentialMat(flat[0], flat[1], np.eye(3), cv2.USAC_MAGSAC, 0.999, limit)
    if E is None or E.shape != (3, 3) or mask is None or mask.mean() < _EXPLAINED or mask.sum() < _MATCHES:
        return None
    count, R, t, mask = cv2.recoverPose(E, flat[0], flat[1], np.eye(3), mask=mask)
    if count < _MATCHES:
        return None
    return np.asarray(R), np.asarray(t[:, 0]), mask[:, 0] > 0


def _judged(name: str, pairs: Sequence[Pair]) -> Agreement:
    items = _Items.of(pairs)
    if max(map(len, (items.ways[0], items.axes[0]))) < _ENOUGH:
        return Agreement(name, len(pairs), len(items.ways[0]), len(items.axes[0]))
    fitting = items.fitting(np.eye(3))
    rotation = [rotation_angle(p.shown.R_b_a, p.stated[:3, :3]) for p in pairs]
    direction = np.degrees(np.arccos(np.clip((items.ways[0] * items.ways[1]).sum(axis=1), -1.0, 1.0)))
    lens = items.lens()
    return Agreement(
        name,
        len(pairs),
        len(items.ways[0]),
        len(items.axes[0]),
        fitting,
        float(np.median(direction)) if len(direction) else float("nan"),
        float(np.degrees(np.median(rotation))),
        lens,
        _cause(items, fitting, lens),
    )


@dataclass(frozen=True)
class _Items:
    """What pairs show and what the poses state: directions (N, 3) twice, axes times angles (M, 3) twice."""

    ways: tuple[Array, Array]
    axes: tuple[Array, Array]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> _Items:
        ways = [
            (p.shown.direction, p.stated[:3, 3])
            for p in pairs
            if p.shown.direction is not None and np.linalg.norm(p.stated[:3, 3]) > 1e-3
        ]
        turns = [(so3_log(p.shown.R_b_a), so3_log(p.stated[:3, :3])) for p in pairs]
        turns = [two for two in turns if max(map(np.linalg.norm, two)) > np.radians(_TURN_DEG)]

        def stacked(many: Sequence[tuple[Any, Any]]) -> tuple[Array, Array]:
            return tuple(np.array([two[k] for two in many], dtype=np.float64).reshape(-1, 3) for k in (0, 1))  # type: ignore[return-value]

        found = stacked(ways)
        return cls((found[0], _unit(found[1])), stacked(turns))

    def agreeing(self, change: Array) -> tuple[Any, Any]:
        """Which directions and which turns agree once the camera's axes are changed by an orthogonal matrix."""
        sign = np.linalg.det(change)
        off = np.degrees(np.arccos(np.clip((self.ways[0] @ change.T * self.ways[1]).sum(axis=1), -1.0, 1.0)))
        shown, stated = self.axes[0] @ (sign * change).T, self.axes[1]
        size = np.maximum(np.linalg.norm(shown, axis=1), np.linalg.norm(stated, axis=1))
        limit = np.maximum(np.radians(_ROTATION_DEG), _ROTATION_SHARE * size)
        return off <= _DIRECTION_DEG, np.linalg.norm(shown - stated, axis=1) <= limit

    def fitting(self, change: Array) -> float:
        """The share that agrees: of directions or of turns, the smaller; of which there are too few does not count."""
        return min((float(part.mean()) for part in self.agreeing(change) if len(part) >= _ENOUGH), default=1.0)

    def aligned(self, sign: float) -> Array:
        """The orthogonal matrix of this determinant under which most agree: Kabsch's solution, from those that do."""
        size = np.linalg.norm(self.axes[0], axis=1), np.linalg.norm(self.axes[1], axis=1)
        shown = np.concatenate([sign * self.ways[0], self.axes[0] / np.maximum(size[0], 1e-9)[:, None]])
        stated = np.concatenate([self.ways[1], self.axes[1] / np.maximum(size[1], 1e-9)[:, None]])
        weights = np.ones(len(shown))
        R = np.eye(3)
        for _ in range(10):
            U, _, Vt = np.linalg.svd((stated * weights[:, None]).T @ shown)
            R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
            weights = 1.0 / (0.1 + np.linalg.norm(shown @ R.T - stated, axis=1))
        return np.asarray(sign * R)

    def lens(self) -> float:
        """By which factor turns look longer than they are; NaN where too few agree in their axes."""
        size = [np.linalg.norm(axes, axis=1) for axes in self.axes]
        along = (self.axes[0] * self.axes[1]).sum(axis=1) / np.maximum(size[0] * size[1], 1e-12)
        clear = (along > np.cos(np.radians(20.0))) & (np.minimum(*size) > np.radians(0.5 * _TURN_DEG))
        if clear.sum() < _ENOUGH or clear.mean() < _FITTING:
            return float("nan")
        return float(np.exp(np.median(np.log(size[0][clear] / size[1][clear]))))


def _cause(items: _Items, fitting: float, lens: float) -> str:
    """What explains it, in words; empty where nothing does or nothing is wrong."""
    turned, mirrored = items.aligned(1.0), items.aligned(-1.0)
    scores = items.fitting(turned), items.fitting(mirrored)
    if fitting <= _FITTING and max(scores) >= max(_EXPLAINING, fitting + 0.3):
        # Without turns a reflection is as good as a rotation, and the rotation is what people get wrong.
        if scores[1] > scores[0] + 0.1:
            kind = max(_REFLECTIONS, key=lambda name: float(np.trace(_REFLECTIONS[name].T @ mirrored)))
            return f"the pictures are {kind}; see what the driver or the conversion does to them"
        angle = np.degrees(so3_log(turned))
        if np.linalg.norm(angle) > _DIRECTION_DEG:
            about = ", ".join(f"{name} {value:.0f}" for name, value in zip("xyz", angle, strict=True))
            rolled = abs(abs(angle[2]) - 180.0) < _DIRECTION_DEG and scores[1] >= _EXPLAINING
            unsure = (
                "; or the pictures are mirrored left to right, which looks the same on level ground" if rolled else ""
            )
            if np.linalg.norm(np.abs(angle) - (180.0, 0.0, 0.0)) < _DIRECTION_DEG:
                unsure = (
                    "; so are OpenGL's camera axes (y up, z backward) from OpenCV's: of a capture with "
                    "transforms.json, nerf:PATH,axes=opencv"
                )
            if len(items.axes[0]) < _ENOUGH:
                unsure = "; without turns in the drive up to a roll about the motion"
            return (
                f"the camera is mounted otherwise than the poses or extrinsics say, turned by "
                f"{np.linalg.norm(angle):.0f} deg (about its own axes, deg: {about}): correct /tf_static or "
                f"--extrinsics{unsure}"
            )
    if np.isfinite(lens) and not 1.0 / _LENS < lens < _LENS:
        return (
            f"turns look {lens:.2f} times as long as the poses say: the lens is not that of camera_info; focal lengths "
            f"of about {lens:.2f} times those would fit"
        )
    return ""


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
