"""Two towns and the road between them: where a vehicle changes from one map to another (bench/vehicle.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vloc_ros.convert.town import town_sequence
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import Array, RgbImage


@dataclass(frozen=True)
class Place:
    """A moment of a drive: where, and which town's renderer shows it."""

    T_map_base: Array
    image: RgbImage
    town: str


class TwoTowns:
    """Two towns, and a round of road that leads from the easternmost point of one to the westernmost of the other.

    The frame is the first town's. Both loops are driven counter-clockwise: at its easternmost point one leads north, at
    its westernmost the other leads south, and half a circle joins them; the other half leads back.
    """

    RADIUS_M = 12.0

    def __init__(self) -> None:
        self.towns = {"west": Town(1, 200.0), "east": Town(2, 200.0)}
        self.camera = default_camera()
        self.drives = {name: Traversal(town, 5, weave_m=0.0) for name, town in self.towns.items()}
        self.renderers = {name: Renderer(town, self.camera) for name, town in self.towns.items()}
        west, east = self.drives["west"].T_map_base, self.drives["east"].T_map_base
        self.leave, self.enter = int(np.argmax(west[:, 0, 3])), int(np.argmin(east[:, 0, 3]))
        shift = west[self.leave][:3, 3] + (2.0 * self.RADIUS_M, 0.0, 0.0) - east[self.enter][:3, 3]
        #: From the east town's own frame.
        self.T_map_east = make_transform(np.eye(3), shift)

    def maps(self, folder: Path) -> list[Path]:
        """A map of features of each, of two drives that are not the one through both."""
        from vloc_train.features.build import BUILDER
        from vloc_train.features.settings import BuildSettings
        from vloc_train.training.run import RunOptions

        out = []
        for name, town in self.towns.items():
            if not (folder / name / "map.yaml").exists():
                T = self.T_map_east if name == "east" else np.eye(4)
                drives = []
                for index in (0, 1):
                    own = town_sequence(self.renderers[name], Traversal(town, index, spacing_m=1.0))
                    drives.append(replace(own, T_map_cam=T @ own.T_map_cam))
                options = RunOptions(device="cpu", progress=False)
                BUILDER.run({"map": drives}, folder / name, BuildSettings(), options)
            out.append(folder / name)
        return out

    def drive(self, before_m: float) -> Iterator[Place]:
        """From so far before the border round the east town, and back into the west one."""
        west, east = self.drives["west"], self.drives["east"]
        arc = west.arc_m - west.arc_m[self.leave]
        begin = int(np.argmin(np.abs((arc + before_m + west.town.loop.length) % west.town.loop.length)))
        count = len(west)
        legs: list[tuple[str, Array]] = []
        k = begin
        while k != self.leave:
            legs.append(("west", west.T_map_base[k]))
            k = (k + 1) % count
        last = west.T_map_base[self.leave]
        legs += self.bend(last, 1.0, "west", "east")
        for step in range(len(east)):
            legs.append(("east", self.T_map_east @ east.T_map_base[(self.enter + step) % len(east)]))
        legs += self.bend(self.T_map_east @ east.T_map_base[self.enter], -1.0, "east", "west")
        for step in range(round(before_m / 0.5)):
            legs.append(("west", west.T_map_base[(self.leave + step) % count]))
        for number, (name, T) in enumerate(legs):
            drive, local = self.drives[name], inverse(self.T_map_east) @ T if name == "east" else T
            image = self.renderers[name].render_at(drive, number % len(drive), local @ drive.T_base_cam).rgb
            yield Place(T, image, name)

    def bend(self, T: Array, east: float, first: str, second: str) -> list[tuple[str, Array]]:
        """Half a circle to the right from a pose; in its first half one sees the one town, then the other."""
        steps = round(np.pi * self.RADIUS_M / 0.5)
        out = []
        centre = T @ make_transform(np.eye(3), [0.0, -self.RADIUS_M, 0.0])
        for step in range(1, steps):
            turn = make_transform(so3_exp([0.0, 0.0, -np.pi * step / steps]), np.zeros(3))
            at = centre @ turn @ make_transform(np.eye(3), [0.0, self.RADIUS_M, 0.0])
            out.append((first if step < steps / 2 else second, at))
        return out
