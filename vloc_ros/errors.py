"""The exceptions of the package: one small hierarchy, every message actionable.

A message says what was expected, what was found, where, and what to do about it. Code that
catches :class:`VlocError` catches everything the package raises on purpose; anything else is a bug.
"""

from __future__ import annotations

__all__ = [
    "BagError",
    "CalibrationError",
    "CameraError",
    "CameraMismatchError",
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "GeometryError",
    "ImageError",
    "InterpolationError",
    "LocalizerClosedError",
    "MapBackendError",
    "MapChecksumError",
    "MapError",
    "MapFormatError",
    "MapNotFoundError",
    "MapTensorError",
    "MapVersionError",
    "StampError",
    "TrainingError",
    "VlocError",
    "printable",
]


def printable(text: str) -> str:
    """Text from a file as a terminal may show it: control characters, escape sequences among them, as ``\\x1b``."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class VlocError(Exception):
    """Base of every error that the package raises on purpose."""


class ConfigError(VlocError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class GeometryError(VlocError):
    """A value is not what its geometric type demands (a rotation, a unit quaternion, ...)."""


class InterpolationError(GeometryError):
    """A pose was asked for outside a track, or inside a gap longer than the limit."""


class CameraError(VlocError):
    """Camera intrinsics are missing, not finite, or of an unsupported distortion model."""


class CameraMismatchError(CameraError):
    """A camera sees too differently (field of view, aspect) from the one a map was made with."""


class ImageError(VlocError):
    """An image cannot be decoded, or holds nothing to localize with."""


class StampError(VlocError):
    """A stamp is zero, repeated, or older than one already handled."""


class LocalizerClosedError(VlocError):
    """A localizer was used after its ``close()``."""


class MapError(VlocError):
    """Base of everything that can be wrong with a map file."""


class MapNotFoundError(MapError):
    """The map, or a file that its manifest names, does not exist."""


class MapFormatError(MapError):
    """The manifest is not a map manifest, or a field is missing or of the wrong type."""


class MapVersionError(MapError):
    """The map was written in a format version that this release does not read."""


class MapChecksumError(MapError):
    """A file of the map is truncated or altered: size or SHA-256 differ from the manifest."""


class MapTensorError(MapError):
    """A tensor is missing, has the wrong shape or type, or is not finite."""


class MapBackendError(MapError):
    """The map was made for another backend than the one asked for."""


class WriteError(VlocError):
    """A file cannot be written: no room, no permission, or another process is writing it; the message names it."""


class CalibrationError(VlocError):
    """A covariance calibration cannot be fitted (too few frames, no spread of errors)."""


class BagError(VlocError):
    """A bag is missing, empty, unfinished, or lacks the topics that were asked for."""


class DeviceError(VlocError):
    """The device that was to compute ran out of memory, or does not answer any more."""


class ClusterError(VlocError):
    """The machines that were to help do not answer, have another version, or were lost."""


class DatasetError(VlocError):
    """A data set deviates from its layout; the message names the file and the line."""


class TrainingError(VlocError):
    """Training cannot start, continue or export."""
