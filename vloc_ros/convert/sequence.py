"""One posed sequence to one bag, on the topics that all of the package uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.convert.frame_images import FrameImages, ImageFormat
from vloc_ros.convert.messages import BagMessages
from vloc_ros.convert.parts import PART_BYTES, PART_FRAMES, PartedBag
from vloc_ros.convert.writer import Storage
from vloc_ros.datasets.bag.truth import DATUM_TOPIC, GNSS_TOPIC, world_as_text
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError, GeometryError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.types import Array, RgbImage, check_transform

__all__ = [
    "BASE_FRAME",
    "CAMERA_FRAME",
    "IMAGE_TOPIC",
    "ODOM_FRAME",
    "TRUTH_TOPIC",
    "ImageFormat",
    "Summary",
    "identity_of",
    "noisy_odometry",
    "write_drive",
    "write_frame",
    "write_sequence",
]
IMAGE_TOPIC = "/camera/image"
COMPRESSED_TOPIC = "/camera/image/compressed"
INFO_TOPIC = "/camera/camera_info"
ODOMETRY_TOPIC = "/odometry"
TRUTH_TOPIC = "/reference/pose"
ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = "odom", "base_link", "camera_optical_frame"
#: The seconds of a ROS stamp are a signed 32-bit number, and 0 means "no stamp".
_LAST_STAMP_NS = (2**31 - 1) * 10**9


@dataclass(frozen=True)
class Summary:
    """What a conversion wrote.

    ``frames`` of ``chosen`` ones are in the bag, ``resumed`` of which an earlier attempt had written; ``skipped``
    counts by kind what was left out, by the reader and on the way. ``topics`` counts messages. ``origin_m``: what the
    reader subtracted from the data set's coordinates.
    """

    path: Path
    frames: int
    chosen: int
    resumed: int
    skipped: Mapping[str, int]
    topics: Mapping[str, int]
    files: int
    size_bytes: int
    first_ns: int
    last_ns: int
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def lines(self) -> list[str]:
        """For people."""
        seconds, count = (self.last_ns - self.first_ns) / 1e9, f"{self.frames:,}"
        if self.frames < self.chosen:
            count += f" of {self.chosen:,}"
        again = f", {self.resumed:,} of them before the interruption" if self.resumed else ""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        out = [
            f"{self.path}: {count} frames in {seconds:,.1f} s{again}; {_size(self.size_bytes)} in {files}",
            f"  stamps   {self.first_ns} to {self.last_ns} ns",
            f"  topics   {', '.join(f'{topic} {number:,}' for topic, number in self.topics.items())}",
        ]
        if any(self.origin_m):
            place = ", ".join(f"{v:.15g}" for v in self.origin_m)
            out.append(f"  origin   of the map: {place} m in the data set's coordinates (also in metadata.yaml)")
        if self.skipped:
            out.append(f"  skipped  {', '.join(f'{number:,} x {kind}' for kind, number in self.skipped.items())}")
        return out


def write_drive(
    sequence: PosedSequence,
    out: str | Path,
    *,
    image_format: ImageFormat | None = None,
    storage: Storage = "mcap",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    problems: Problems | None = None,
    identity: str = "",
    resume: bool = False,
    part_bytes: int = PART_BYTES,
    part_frames: int = PART_FRAMES,
) -> Summary:
    """Write a drive as a bag; ``image_format`` None keeps image files as they are (else: raw pixels).

    Frames stream through one at a time. What else the sequence knows goes along: the rig into ``/tf_static``, the datum
    and the GNSS fixes (each at its own stamp, in the order of time). Every part of the bag begins with what is latched.

    :param identity: of :func:`identity_of`; an interrupted conversion is continued only under the same.
    :param resume: continue, and stay continuable.
    :raises BagError: the output exists, or waits for another conversion.
    :raises DatasetError: an image cannot be read, a stamp or pose cannot be written, or nothing is left to write.
    """
    problems = problems or Problems()
    _check(sequence)
    sequence = _without_clashes(sequence, problems)
    T_cam_base, count = np.linalg.inv(sequence.T_base_cam), len(sequence)
    read_before = dict(problems.counts)
    images = FrameImages(sequence, image_format, problems)
    with PartedBag(out, storage, overwrite, identity=identity, resume=resume, about=world_as_text(sequence)) as bag:
        place = {"frame": 0, "fix": 0, "written": 0, "skipped": {}, **bag.state}
        for kind, number in place["skipped"].items():
            problems.counts[kind] = problems.counts.get(kind, 0) + number
        resumed, fix, written, in_part = place["written"], place["fix"], place["written"], 0
        if progress:
            progress(place["frame"], count)

        def skipped() -> dict[str, int]:
            return problems.since(read_before)

        def end_part(next_frame: int) -> None:
            bag.end_part({"frame": next_frame, "fix": fix, "written": written, "skipped": skipped()})

        for index in range(place["frame"], count):
            image = images.get(index)
            if image is not None:
                stamp = int(sequence.stamps_ns[index])
                fix = _write_fixes(bag, sequence, fix, stamp)
                _latch(bag, sequence, stamp)
                odometry = None if sequence.T_odom_base is None else sequence.T_odom_base[index]
                write_frame(bag, stamp, image, sequence, sequence.T_map_cam[index] @ T_cam_base, odometry)
                written, in_part = written + 1, in_part + 1
                full = in_part >= part_frames or bag.part_bytes >= part_bytes
                if full and index + 1 < count:  # what follows the last frame belongs to its part
                    end_part(index + 1)
                    in_part = 0
            if progress:
                progress(index + 1, count)
        if not written:
            raise DatasetError(
                f"{sequence.name}: not one of {count} frames could be written ({problems.summary() or 'no reason'})"
            )
        fix = _write_fixes(bag, sequence, fix, _LAST_STAMP_NS)
        end_part(count)
        info, size, left_out = bag.information, bag.size_bytes, dict(sequence.dropped)
        for kind, number in skipped().items():
            left_out[kind] = left_out.get(kind, 0) + number
    start = info["starting_time"]["nanoseconds_since_epoch"]
    return Summary(
        path=Path(out),
        frames=written,
        chosen=count,
        resumed=resumed,
        skipped=left_out,
        topics={row["topic_metadata"]["name"]: row["message_count"] for row in info["topics_with_message_count"]},
        files=len(info["files"]),
        size_bytes=size,
        first_ns=start,
        last_ns=start + info["duration"]["nanoseconds"],
        origin_m=sequence.origin_m,
    )


def write_sequence(
    sequence: PosedSequence,
    out: str | Path,
    *,
    image_format: ImageFormat | None = None,
    storage: Storage = "mcap",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """:func:`write_drive` without resumption and for one who does not want the summary: the path of the bag."""
    return write_drive(
        sequence, out, image_format=image_format, storage=storage, overwrite=overwrite, progress=progress
    ).path


def write_frame(
    bag: BagMessages,
    stamp_ns: int,
    image: RgbImage | tuple[bytes, str],
    sequence: PosedSequence,
    T_map_base: Array,
    T_odom_base: Array | None,
) -> None:
    """Everything of one frame. An image may be pixels, or encoded bytes with their format string."""
    # What describes the image goes first, so that a player delivers it first.
    if T_odom_base is not None and np.isfinite(T_odom_base).all():
        bag.transforms("/tf", stamp_ns, [(ODOM_FRAME, BASE_FRAME, stamp_ns, T_odom_base)])
        bag.odometry(ODOMETRY_TOPIC, stamp_ns, ODOM_FRAME, BASE_FRAME, T_odom_base)
    bag.pose(TRUTH_TOPIC, stamp_ns, sequence.frame_id, T_map_base)
    bag.camera_info(INFO_TOPIC, stamp_ns, CAMERA_FRAME, sequence.camera)
    if isinstance(image, tuple):
        bag.compressed_image(COMPRESSED_TOPIC, stamp_ns, CAMERA_FRAME, *image)
    else:
        bag.image(IMAGE_TOPIC, stamp_ns, CAMERA_FRAME, image)


def identity_of(sequence: PosedSequence, settings: Mapping[str, Any]) -> str:
    """A digest of what a bag's content follows from: the sequence without its images, and everything in ``settings``.

    :param settings: plain values that say where the images come from and how they are written.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    gnss = sequence.gnss
    numbers: list[Any] = [sequence.stamps_ns, sequence.T_map_cam, sequence.T_base_cam, sequence.T_odom_base]
    if gnss is not None:
        numbers += [gnss.stamps_ns, gnss.latitude_deg, gnss.longitude_deg, gnss.altitude_m, gnss.variance_m2]
    numbers += [np.asarray(T) for _, T in sorted(sequence.rig.items())]
    for values in numbers:
        digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    words = [sequence.camera, sequence.frame_id, sequence.datum, sorted(sequence.rig), gnss and gnss.frame_id]
    digest.update(repr([*words, *sorted(world_as_text(sequence).items())]).encode())
    return digest.hexdigest()


def _check(sequence: PosedSequence) -> None:
    """:raises DatasetError: no frames, or stamps and poses that no message can hold."""
    if not len(sequence):
        raise DatasetError(f"{sequence.name}: expected frames, found none")
    for index in (0, len(sequence) - 1):  # they increase
        stamp = int(sequence.stamps_ns[index])
        if not 0 < stamp <= _LAST_STAMP_NS:
            raise DatasetError(
                f"{sequence.name}, frame {index}: expected a stamp after 0 and before 2038 in ns, found {stamp}; "
                "is it in another unit?"
            )
    fixes = np.empty(0, np.int64) if sequence.gnss is None else sequence.gnss.stamps_ns
    if len(fixes) and not (0 < fixes.min() and fixes.max() <= _LAST_STAMP_NS and (np.diff(fixes) >= 0).all()):
        raise DatasetError(
            f"{sequence.name}: expected GNSS fixes in the order of their stamps, after 0 and before 2038"
        )
    finite = np.isfinite(sequence.T_map_cam).all(axis=(1, 2))
    R = sequence.T_map_cam[:, :3, :3]
    rigid = finite & (np.abs(R @ R.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2)) < 1e-4)
    if not rigid.all():
        index = int(np.flatnonzero(~rigid)[0])
        raise DatasetError(
            f"{sequence.name}, frame {index}: expected a pose, found {sequence.T_map_cam[index].tolist()}"
        )
    for frame, T in {CAMERA_FRAME: sequence.T_base_cam, **sequence.rig}.items():
        try:
            check_transform(T, f"{sequence.name}: mounting of {frame}")
        except GeometryError as error:
            raise DatasetError(str(error)) from error


def _without_clashes(sequence: PosedSequence, problems: Problems) -> PosedSequence:
    """The drive without those sensors whose frames have a name that is something else in the bag."""
    clashes = sorted({BASE_FRAME, CAMERA_FRAME, ODOM_FRAME, sequence.frame_id} & set(sequence.rig))
    if not clashes:
        return sequence
    message = f"{sequence.name}: sensors in frames {', '.join(clashes)} are left out of /tf_static: the names are taken"
    problems.skip("sensor whose frame's name is taken", message, len(clashes))
    return replace(sequence, rig={name: T for name, T in sequence.rig.items() if name not in clashes})


def _latch(bag: PartedBag, sequence: PosedSequence, stamp_ns: int) -> None:
    """At the head of each part: the mountings, all in one message, and the datum."""
    if bag.part_is_open:
        return
    mountings = {CAMERA_FRAME: sequence.T_base_cam, **sequence.rig}
    bag.transforms("/tf_static", stamp_ns, [(BASE_FRAME, frame, stamp_ns, T) for frame, T in mountings.items()])
    if sequence.datum is not None:
        bag.nav_sat_fix(DATUM_TOPIC, stamp_ns, sequence.frame_id, sequence.datum)


def _write_fixes(bag: PartedBag, sequence: PosedSequence, first: int, until_ns: int) -> int:
    """The GNSS fixes from number ``first`` on, up to a stamp; the number of the next one."""
    gnss = sequence.gnss
    if gnss is None:
        return first
    while first < len(gnss.stamps_ns) and gnss.stamps_ns[first] <= until_ns:
        stamp = int(gnss.stamps_ns[first])
        place = Datum(*(float(v[first]) for v in (gnss.latitude_deg, gnss.longitude_deg, gnss.altitude_m)))
        variance = None if gnss.variance_m2 is None else gnss.variance_m2[first]
        _latch(bag, sequence, stamp)
        bag.nav_sat_fix(GNSS_TOPIC, stamp, gnss.frame_id, place, variance)
        first += 1
    return first


def noisy_odometry(T_map_base: Array, translation: float, rotation_rad_m: float, seed: int) -> Array:
    """Drifting odometry (N, 4, 4) made from true poses: each step is measured with noise, and the errors add up.

    :param translation: standard deviation of a step's translation, as a share of its length.
    :param rotation_rad_m: standard deviation of the heading's drift after one metre, growing with the square
        root of the distance, as a random walk does.
    """
    random = np.random.default_rng(seed)
    T = np.broadcast_to(np.eye(4), T_map_base.shape).copy()
    for index in range(1, len(T)):
        step = np.linalg.inv(T_map_base[index - 1]) @ T_map_base[index]
        length = float(np.linalg.norm(step[:3, 3]))
        noise = np.zeros(6)
        noise[:3] = random.normal(size=3) * translation * length
        noise[5] = random.normal() * rotation_rad_m * np.sqrt(length)
        T[index] = T[index - 1] @ step @ se3_exp(noise)
    return T


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
