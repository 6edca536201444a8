"""Settings of CoPR: the regressor H, where descriptors are regressed to, and how. Defaults are the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.settings import Fixed, ranged, settings_to_mapping

__all__ = [
    "PLANE_ANCHORS",
    "PLANE_TOLERANCE",
    "DensifySettings",
    "PlaneSettings",
    "RegressorSettings",
    "TargetSettings",
]


#: O, nearest references that a plane is fitted to: the paper's, the fewest that fix it.
PLANE_ANCHORS = 4
#: Directions in which the anchors spread less than this share of their largest spread carry no slope: anchors along a
#: road lie on a line, and the plane is then the one of least norm.
PLANE_TOLERANCE = 0.05


@dataclass(frozen=True)
class RegressorSettings:
    """What fixes the shape of H (Section III-C3, Figure 4); stored in the map and never changed at run time.

    :param layers: hidden layers.
    :param width: of every hidden layer; none means N + 7, N the length of a descriptor.
    :param activation: after each hidden layer.
    :param relative_frame: the pose of the target relative to the anchor: ``body`` in the axes of the anchor's camera,
        or ``map`` in those of the map.
    :param standardise: descriptors enter with zero mean and unit spread over the training data, and leave as they were.
    :param translation_scale_m: the relative translation enters divided by this.
    :param octaves: sines and cosines of the relative translation and rotation at so many frequencies enter beside them,
        the first of half a period over ``translation_scale_m``; 0 for none.
    :param residual: the network's output is added to the anchor's descriptor.
    :param skip: each hidden layer's output is added to its input.
    """

    layers: int = ranged(7, minimum=1, maximum=64)
    width: int | None = ranged(None, minimum=1, maximum=1 << 15)
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    relative_frame: Literal["body", "map"] = "body"
    standardise: bool = False
    translation_scale_m: float = ranged(1.0, minimum=1e-3, maximum=1e4)
    octaves: int = ranged(0, minimum=0, maximum=16)
    residual: bool = False
    skip: bool = False


@dataclass(frozen=True)
class TargetSettings:
    """The poses P' that descriptors are regressed to (Section III-B).

    :param scheme: ``interpolate`` between consecutive references of a trajectory, or ``extrapolate`` around references.
    :param step_m: distance between targets: along the trajectory, or of the grid (paper, indoors: 0.05).
    :param span_m: extrapolation reaches this far from a reference in the ground plane; none means half of the largest
        distance between consecutive references, so that neighbouring grids meet.
    :param side_m: grids ``anchor`` and ``global``: no farther than this to the side of where the reference's camera
        looks, the width of a road; none means as far as ``span_m``.
    :param max_gap_m: consecutive references farther apart are ends of trajectories, nothing is interpolated between
        them; none means three times the median distance.
    :param at: interpolation: ``step`` places targets evenly; ``dropped`` places them at the references that ``every``
        has left out (the paper's Table III).
    :param grid: extrapolation: ``anchor`` is a grid of its own around each reference, ``global`` one grid whose points
        use their nearest reference, ``lateral`` the positions of ``lateral_m`` beside each reference.
    :param lateral_m: with grid ``lateral``: how far to the right of the camera (negative: left); the paper's Station
        Escalator has one of 1.8.
    :param yaw_deg: each target also turned by these angles about the vertical; 0 is the orientation as it is.
    :param follow_trajectory: extrapolation: orientation and height follow the trajectory beside the reference, instead
        of being the reference's.
    :param max_targets: refuse to make more in one scene.
    """

    scheme: Literal["interpolate", "extrapolate"] = "extrapolate"
    step_m: float = ranged(0.05, minimum=1e-3, maximum=1e4)
    span_m: float | None = ranged(None, minimum=1e-3, maximum=1e4)
    side_m: float | None = ranged(None, minimum=0.0, maximum=1e4)
    max_gap_m: float | None = ranged(None, minimum=1e-3, maximum=1e6)
    at: Literal["step", "dropped"] = "step"
    grid: Literal["anchor", "global", "lateral"] = "anchor"
    lateral_m: tuple[float, ...] = ranged((), minimum=-1e3, maximum=1e3)
    yaw_deg: tuple[float, ...] = ranged((0.0,), minimum=-180.0, maximum=180.0)
    follow_trajectory: bool = False
    max_targets: int = ranged(5_000_000, minimum=1, maximum=1 << 31)

    def __post_init__(self) -> None:
        if not self.yaw_deg:
            raise ConfigError("yaw_deg: expected at least one angle, found none; 0 keeps the orientation")
        if self.scheme == "extrapolate" and (self.grid == "lateral") != bool(self.lateral_m):
            raise ConfigError("lateral_m: expected distances with grid lateral, and only then")
        if 0.0 in self.lateral_m:
            raise ConfigError("lateral_m: expected distances other than 0, which is the reference itself")


@dataclass(frozen=True)
class PlaneSettings:
    """Linear regression by a local plane (Section III-C2).

    :param per_trajectory: take so many nearest references of each of the two nearest trajectories instead (paper: 2 on
        Station Escalator); 0: the four nearest of all.
    :param ridge_m: strength of a ridge penalty on the slopes, in metres of spread; 0: least squares.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "anchors": Fixed(PLANE_ANCHORS), "tolerance": Fixed(PLANE_TOLERANCE)
    }  # fmt: skip

    per_trajectory: int = ranged(0, minimum=0, maximum=500)
    ridge_m: float = ranged(0.0, minimum=0.0, maximum=1e6)


@dataclass(frozen=True)
class DensifySettings:
    """How a map is densified.

    :param method: ``linear`` interpolation (equations 1 to 3), ``plane`` (local plane fit) or ``nonlinear`` (H).
    :param targets: where to.
    :param plane: of method ``plane``.
    :param blend: method ``nonlinear``: mean of what H makes of so many nearest references, weighted by the inverse of
        their distances; 1 is the paper's.
    :param every: keep only every n-th image of the map first (paper: 50); 1 keeps all.
    :param chunk: targets at a time.
    """

    method: Literal["linear", "plane", "nonlinear"] = "nonlinear"
    targets: TargetSettings = field(default_factory=TargetSettings)
    plane: PlaneSettings = field(default_factory=PlaneSettings)
    blend: int = ranged(1, minimum=1, maximum=64)
    every: int = ranged(1, minimum=1, maximum=1 << 31)
    chunk: int = ranged(8192, minimum=1, maximum=1 << 24)

    def __post_init__(self) -> None:
        if self.method == "linear" and self.targets.scheme != "interpolate":
            raise ConfigError(
                "method linear: expected scheme interpolate, two references with the target between them; found scheme "
                "extrapolate, which takes method plane or nonlinear"
            )
        if self.targets.at == "dropped" and (self.every == 1 or self.targets.scheme != "interpolate"):
            raise ConfigError("at dropped: expected scheme interpolate and every above 1, which leaves references out")

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as a manifest holds them."""
        return settings_to_mapping(self)
