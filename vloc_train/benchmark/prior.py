"""Where the localization of a query begins: the truth moved at random, or the pose of a map frame some way off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.settings import ranged
from vloc_ros.types import Array
from vloc_train.training.frames import keyed_rng

__all__ = ["Prior", "ReferencePrior"]

#: Keeps these random numbers apart from others of the same seed.
_STREAM = 71
#: Nobody is surer than this, whatever the protocol says: a covariance must not be singular (m, degrees).
_LEAST = (1e-3, 1e-2)


@dataclass(frozen=True)
class ReferencePrior:
    """The pose of a frame that the split names for its map, drawn from those at such a distance from the query.

    Frames that a fold leaves out of its map count, too: their pose is all that is used, so that priors are the same
    with and without the exclusion.

    :param between_m: nearest and farthest distance.
    :param within_deg: largest angle between the viewing directions.
    :param sigma_deg: standard deviation of the rotation that the prior states, about each axis.
    """

    between_m: tuple[float, float] = ranged((2.0, 4.0), minimum=0.0)
    within_deg: float = ranged(180.0, minimum=0.0, maximum=180.0)
    sigma_deg: float = ranged(3.0, minimum=0.0, maximum=90.0)

    def __post_init__(self) -> None:
        _rising("between_m", self.between_m)


@dataclass(frozen=True)
class Prior:
    """What a query is told about its pose. Its covariance is that of the distribution that it is drawn from.

    :param offset_m: the truth moved by a distance uniform between these two, in a direction uniform on the sphere.
    :param offset_deg: and turned by an angle uniform between these two, about an axis uniform on the sphere.
    :param reference: a map frame's pose instead.
    :param seed: of what is drawn; none: the protocol's.
    :param repeats: every query is asked so often, each time from a prior of its own.
    """

    offset_m: tuple[float, float] | None = ranged(None, minimum=0.0)
    offset_deg: tuple[float, float] | None = ranged(None, minimum=0.0, maximum=180.0)
    reference: ReferencePrior | None = None
    seed: int | None = ranged(None, minimum=0)
    repeats: int = ranged(1, minimum=1, maximum=1000)

    def __post_init__(self) -> None:
        moved = self.offset_m is not None or self.offset_deg is not None
        if moved == (self.reference is not None):
            raise ConfigError("prior: expected either offset_m and offset_deg, or reference")
        for name in ("offset_m", "offset_deg"):
            if getattr(self, name) is not None:
                _rising(name, getattr(self, name))

    @property
    def covariance(self) -> Array:
        """(6, 6) of what :meth:`poses` gives, as :mod:`vloc_ros.types` defines it.

        A distance d in a uniform direction has the variance E[d^2] / 3 along every axis. Nothing is said about the
        road's direction, which a reference's offset mostly has: who localizes does not know it either.
        """
        if self.reference is not None:
            sigma_m, sigma_deg = np.sqrt(_square(self.reference.between_m) / 3.0), self.reference.sigma_deg
        else:
            sigma_m, sigma_deg = (np.sqrt(_square(limits or (0.0, 0.0)) / 3.0)
                                  for limits in (self.offset_m, self.offset_deg))  # fmt: skip
        sigmas = (max(float(sigma_m), _LEAST[0]), np.radians(max(float(sigma_deg), _LEAST[1])))
        return np.diag([sigmas[0] ** 2] * 3 + [sigmas[1] ** 2] * 3)

    def poses(
        self, truth: Array, stamps_ns: npt.NDArray[np.int64], references: Array, seed: int, repeat: int, where: str = ""
    ) -> Array:
        """``T_map_cam`` (N, 4, 4) to begin with, for N queries.

        The numbers of a query depend on the seed, its stamp and the repeat alone: not on what else is asked.

        :param truth: (N, 4, 4). :param stamps_ns: (N,).
        :param references: (M, 4, 4) poses of the map drives' frames.
        :param seed: the protocol's, for a prior without its own.
        :param where: the place to name in messages.
        :raises ConfigError: a query has no reference so far away.
        """
        seed = seed if self.seed is None else self.seed
        out = np.array(truth, dtype=np.float64)
        for row, stamp in enumerate(stamps_ns.tolist()):
            rng = keyed_rng(seed, _STREAM, repeat, stamp)
            if self.reference is None:
                out[row] = self._moved(truth[row], rng)
            else:
                rows = _around(truth[row], references, self.reference)
                if not len(rows):
                    low, high = self.reference.between_m
                    raise ConfigError(
                        f"{where}: prior: expected map frames {low:g} to {high:g} m from every query that look within "
                        f"{self.reference.within_deg:g} degrees of it, found none for the query at {stamp} ns"
                    )
                out[row] = references[rng.choice(rows)]
        return out

    def _moved(self, T: Array, rng: np.random.Generator) -> Array:
        # Both are always drawn, so that the distances are the same ones without a turn.
        metres, degrees = (rng.uniform(*(limits or (0.0, 0.0))) for limits in (self.offset_m, self.offset_deg))
        way, axis = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
        out = np.array(T, dtype=np.float64)
        out[:3, 3] += metres * way
        out[:3, :3] = so3_exp(np.radians(degrees) * axis) @ T[:3, :3]
        return out


def _around(T: Array, references: Array, wanted: ReferencePrior) -> npt.NDArray[np.int64]:
    distance = np.linalg.norm(references[:, :3, 3] - T[:3, 3], axis=1)
    cosine = np.clip(references[:, :3, 2] @ T[:3, 2], -1.0, 1.0)
    near = (distance >= wanted.between_m[0]) & (distance <= wanted.between_m[1])
    return np.flatnonzero(near & (np.degrees(np.arccos(cosine)) <= wanted.within_deg)).astype(np.int64)


def _square(limits: tuple[float, float]) -> float:
    """E[d^2] of a d that is uniform between the limits."""
    a, b = limits
    return (a * a + a * b + b * b) / 3.0


def _rising(name: str, limits: tuple[float, float]) -> None:
    if limits[0] > limits[1]:
        raise ConfigError(f"{name}: expected two numbers that do not fall, found {list(limits)}")
