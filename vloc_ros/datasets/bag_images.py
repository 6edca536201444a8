"""The images of a bag's drive, by number or in one pass, decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag_reader import BagReader
from vloc_ros.errors import BagError, ImageError
from vloc_ros.images.decode import CompressedImage, decode
from vloc_ros.types import RgbImage

__all__ = ["BagImages"]


class BagImages:
    """Images of a bag by frame number. Each process opens the bag for itself: file positions are not shared."""

    def __init__(
        self, path: Path, topic: str, stamps: list[int], times: list[int], size: tuple[int, int] | None = None
    ) -> None:
        self._path, self._topic, self._stamps, self._times, self._size = path, topic, stamps, times, size
        self._reader: BagReader | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None, "_owner": 0}

    def _open(self) -> BagReader:
        if self._reader is None or self._owner != os.getpid():
            self._reader, self._owner = BagReader(self._path), os.getpid()
        return self._reader

    def image(self, index: int) -> RgbImage:
        time = self._times[index]
        for item in self._open().messages([self._topic], time, time + 1):
            if msgs.stamp_ns(item.message) == self._stamps[index]:
                return self._decoded(item.message, index)
        raise self._vanished(index)

    def encoded(self, index: int) -> tuple[bytes, str] | None:
        """The recorded file and its format; None where pixels were recorded."""
        time = self._times[index]
        for item in self._open().messages([self._topic], time, time + 1):
            if msgs.stamp_ns(item.message) == self._stamps[index]:
                image = msgs.message_image(item.message)
                return (bytes(image.data), image.format) if isinstance(image, CompressedImage) else None
        raise self._vanished(index)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        index = 0
        for item in self._open().messages([self._topic], min(self._times, default=0)):
            if index < len(self._stamps) and msgs.stamp_ns(item.message) == self._stamps[index]:
                yield index, self._decoded(item.message, index)
                index += 1

    def select(self, indices: Sequence[int]) -> BagImages:
        """Some of the images; :meth:`frames` then decodes these alone."""
        rows = [int(i) for i in indices]
        return BagImages(
            self._path, self._topic, [self._stamps[i] for i in rows], [self._times[i] for i in rows], self._size
        )

    def _vanished(self, index: int) -> BagError:
        return BagError(f"{self._path}: frame {index} (stamp {self._stamps[index]} ns) has vanished from {self._topic}")

    def _decoded(self, message: object, index: int) -> RgbImage:
        where = f"{self._path}: {self._topic}: image {index} (stamp {self._stamps[index]} ns)"
        try:
            image = decode(msgs.message_image(message))
        except ImageError as problem:
            raise BagError(f"{where}: {problem}") from problem
        if self._size is not None and image.shape[1::-1] != self._size:
            raise BagError(
                f"{where}: expected {self._size[0]}x{self._size[1]} as camera_info says, found "
                f"{image.shape[1]}x{image.shape[0]}; --keep-going leaves such images out"
            )
        return image
