"""The cameras of a rig in one bag: a drive each, and which of their images belong to one moment."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vloc_ros.datasets.bag.drive import BagDrive, BagFrame, BagOptions
from vloc_ros.errors import ConfigError

__all__ = ["moments", "other_drives", "rig_of"]


def other_drives(bag: str | Path, options: BagOptions, topics: Sequence[str]) -> Iterator[BagDrive]:
    """The same bag once more for each further image topic; intrinsics and mountings are each camera's own.

    :raises ConfigError: an option that is of one camera, or a topic that is named twice.
    """
    if not topics:
        return
    named = {"--camera-info": options.camera_info, "--extrinsics": options.extrinsics}
    for name, value in named.items():
        if value is not None:
            raise ConfigError(f"{name}: expected one --image with it, found {1 + len(topics)}: cameras differ in that")
    if len({options.image, *topics}) != 1 + len(topics):
        raise ConfigError(f"--image: expected different topics, found {', '.join([str(options.image), *topics])}")
    for topic in topics:
        yield BagDrive(bag, replace(options, image=topic))


def rig_of(drive: BagDrive, others: Sequence[BagDrive]) -> dict[str, BagDrive]:
    """The cameras by name: where their images lie without the part that all have; of one camera, an empty name.

    :raises ConfigError: two cameras in one frame, which would be in one place.
    """
    if not others:
        return {"": drive}
    out: dict[str, BagDrive] = {}
    for each in (drive, *others):
        topic = str(each.image_topic).removesuffix("/compressed").strip("/")
        name = topic.removesuffix("/image").replace("/", "_")
        out[topic.replace("/", "_") if name in out else name] = each
    frames = [each.camera_frame for each in out.values()]
    twice = next((f for f in frames if frames.count(f) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"--image: expected cameras with frames of their own, found {twice!r} on {frames.count(twice)} of them: "
            "two cameras are not in one place; mend frame_id in the recording"
        )
    return out


def moments(cameras: dict[str, BagDrive], tolerance_s: float) -> Iterator[dict[str, BagFrame]]:
    """The images in the order of their stamps, those of different cameras that are near each other together.

    :returns: by camera, in the order of ``cameras``. Of one camera each image by itself, as it was recorded.
    """
    if len(cameras) == 1:
        ((name, drive),) = cameras.items()
        yield from ({name: frame} for frame in drive.frames())
        return
    order = list(cameras)

    def stream(number: int) -> Iterator[tuple[int, int, BagFrame]]:
        for frame in cameras[order[number]].frames():
            yield frame.stamp_ns, number, frame

    moment: dict[int, BagFrame] = {}
    first = 0
    for stamp, number, frame in heapq.merge(*map(stream, range(len(order))), key=lambda item: item[:2]):
        if moment and (number in moment or stamp - first > tolerance_s * 1e9):
            yield {order[n]: moment[n] for n in sorted(moment)}
            moment = {}
        if not moment:
            first = stamp
        moment[number] = frame
    if moment:
        yield {order[n]: moment[n] for n in sorted(moment)}
