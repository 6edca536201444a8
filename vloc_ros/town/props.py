"""Trees, vehicles, people, street furniture: their painted textures and their boxes."""

from __future__ import annotations

import cv2
import numpy as np

from vloc_ros.town import scene
from vloc_ros.town.textures import Atlas, smooth_noise, to_texture
from vloc_ros.types import Array

__all__ = ["Props"]

CAR_COLOURS = [
    (190, 30, 35), (30, 60, 140), (225, 225, 225), (40, 42, 46), (140, 145, 150), (60, 110, 70), (210, 170, 60),
    (120, 160, 190), (90, 40, 50), (235, 120, 40),
]  # fmt: skip


def _plain(rng: np.random.Generator, colour: tuple[int, int, int], n: int = 64, grain: float = 8.0) -> np.ndarray:
    img = np.empty((n, n, 3), np.float32)
    img[:] = colour
    img += rng.normal(0, grain, (n, n, 1)).astype(np.float32)
    img += grain * smooth_noise(rng, n, n, 12)[..., None]
    return to_texture(img)


class Props:
    """Prototypes in local frames (x forward, z up, on the ground), textures in ``atlas``."""

    def __init__(self, rng: np.random.Generator, atlas: Atlas) -> None:
        self._rng, self._atlas = rng, atlas
        self.plain = {
            name: atlas.add(_plain(rng, c))
            for name, c in {
                "metal": (110, 112, 115), "dark": (45, 46, 50), "bark": (86, 66, 50), "concrete": (150, 147, 140),
                "green": (40, 80, 52), "wood": (140, 104, 70), "skin": (190, 150, 125),
            }.items()
        }  # fmt: skip
        self.cars = [self._vehicle(c, van=False) for c in CAR_COLOURS]
        self.vans = [self._vehicle(c, van=True) for c in CAR_COLOURS[2:8:2] + CAR_COLOURS[8:]]
        self.people = [self._person() for _ in range(6)]
        self.tree_textures = [self._tree_texture() for _ in range(8)]
        self.hedge_textures = [self._hedge() for _ in range(3)]
        self.sign_textures = [self._sign() for _ in range(24)]
        self.wall_textures = [self._fence() for _ in range(6)]

    def _vehicle(self, colour: tuple[int, int, int], van: bool) -> Array:
        rng, k = self._rng, 24
        length, width = (5.2, 2.0) if van else (rng.uniform(3.9, 4.7), 1.75)
        body_h, total_h = (1.1, 2.2) if van else (0.85, 1.45)

        def side(flip: bool, lo: float, hi: float, span: float, cabin: bool) -> tuple[float, float, float, float]:
            h, w = int((hi - lo) * k), int(span * k)
            img = np.empty((h, w, 4), np.uint8)
            img[:, :, :3] = np.clip(np.array(colour) * (1.0 if not cabin else 0.95), 0, 255)
            img[:, :, 3] = 0
            if cabin:
                n = 2 if not van else 1
                for j in range(n):
                    x0, x1 = int(w * (0.08 + 0.46 * j)), int(w * (0.5 + 0.43 * j)) if not van else int(w * 0.3)
                    img[int(h * 0.15) : int(h * 0.85), x0:x1, :3] = (32, 38, 44)
                    img[int(h * 0.15) : int(h * 0.85), x0:x1, 3] = 220
            else:
                img[int(h * 0.72) :, :, :3] = img[int(h * 0.72) :, :, :3] // 2
                img[:, w // 2, :3] = img[:, w // 2, :3] // 2
                for x in (0.2, 0.8):
                    cv2.circle(img, (int(x * w), int(h * 0.86)), int(0.33 * k), (22, 22, 24, 0), -1, cv2.LINE_AA)
                    cv2.circle(img, (int(x * w), int(h * 0.86)), int(0.18 * k), (130, 130, 135, 0), -1, cv2.LINE_AA)
            return self._atlas.add(np.ascontiguousarray(img[:, ::-1] if flip else img))

        def end(front: bool, lo: float, hi: float, cabin: bool) -> tuple[float, float, float, float]:
            h, w = int((hi - lo) * k), int(width * k)
            img = np.zeros((h, w, 4), np.uint8)
            img[:, :, :3] = np.clip(np.array(colour) * 0.97, 0, 255)
            if cabin:
                img[int(h * 0.12) : int(h * 0.9), int(w * 0.08) : int(w * 0.92), :3] = (30, 36, 42)
                img[int(h * 0.12) : int(h * 0.9), int(w * 0.08) : int(w * 0.92), 3] = 230
            else:
                lamp = (250, 248, 235) if front else (190, 20, 20)
                for x in (0.03, 0.77):
                    img[int(h * 0.25) : int(h * 0.45), int(x * w) : int((x + 0.2) * w), :3] = lamp
                img[int(h * 0.5) : int(h * 0.68), int(w * 0.35) : int(w * 0.65), :3] = (235, 235, 230)
                img[int(h * 0.78) :, :, :3] = (35, 35, 38)
            return self._atlas.add(img)

        tops = self._atlas.add(_plain(rng, colour, 64, 2.0))
        body = {
            "front": end(True, 0.2, body_h, False), "back": end(False, 0.2, body_h, False),
            "left": side(False, 0.2, body_h, length, False), "right": side(True, 0.2, body_h, length, False),
            "top": tops,
        }  # fmt: skip
        cab_len, cab_x = (length * 0.78, -length * 0.11) if van else (length * 0.55, -length * 0.06)
        cabin = {
            "front": end(True, body_h, total_h, True), "back": end(False, body_h, total_h, True),
            "left": side(True, body_h, total_h, cab_len, True), "right": side(False, body_h, total_h, cab_len, True),
            "top": tops,
        }  # fmt: skip
        rows = scene.box((0, 0), 0, length, width, 0.12, body_h, body, scene.VEHICLE)
        rows += scene.box((cab_x, 0), 0, cab_len, width * 0.9, body_h, total_h, cabin, scene.VEHICLE)
        return np.array(rows)

    def _person(self) -> Array:
        rng = self._rng
        shirt = self._atlas.add(_plain(rng, CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))], 64, 6))
        legs = self._atlas.add(_plain(rng, [(40, 50, 80), (50, 45, 40), (30, 30, 32)][int(rng.integers(3))], 64, 6))
        h = rng.uniform(1.55, 1.9)
        rows = scene.box((0, 0), 0, 0.3, 0.36, 0.0, 0.48 * h, {"all": legs})
        rows += scene.box((0, 0), 0, 0.3, 0.48, 0.48 * h, 0.85 * h, {"all": shirt})
        rows += scene.box((0, 0), 0, 0.22, 0.2, 0.86 * h, h, {"all": self.plain["skin"]})
        return np.array(rows)

    def _tree_texture(self) -> tuple[float, float, float, float]:
        rng, n = self._rng, 128
        alpha = np.zeros((n, n), np.uint8)
        shade = np.zeros((n, n), np.float32)
        for _ in range(int(rng.integers(170, 280))):
            a, r = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1)) * n * 0.4
            p = (int(n / 2 + r * np.cos(a)), int(n * 0.5 + r * np.sin(a) * 0.95))
            size = int(rng.integers(3, 8))
            cv2.circle(alpha, p, size, 255, -1, cv2.LINE_AA)
            cv2.circle(shade, p, size, float(rng.uniform(-1, 1) - 0.5 * np.sin(a) * r / n), -1)
        img = np.empty((n, n, 3), np.float32)
        img[:] = np.array([72, 112, 46]) + rng.normal(0, 8, 3)
        img *= 1 + 0.32 * shade[..., None] + 0.1 * rng.normal(0, 1, (n, n, 1))
        return self._atlas.add(to_texture(img, alpha))

    def _hedge(self) -> tuple[float, float, float, float]:
        rng = self._rng
        img = np.empty((64, 192, 3), np.float32)
        img[:] = (58, 92, 44)
        img *= 1 + 0.3 * smooth_noise(rng, 64, 192, 6)[..., None] + 0.15 * rng.normal(0, 1, (64, 192, 1))
        return self._atlas.add(to_texture(img, np.full((64, 192), 255, np.uint8)))

    def _sign(self) -> tuple[float, float, float, float]:
        rng = self._rng
        img = np.empty((64, 64, 3), np.uint8)
        img[:] = rng.integers(30, 240, 3)
        c = [tuple(int(v) for v in rng.integers(0, 255, 3)) for _ in range(3)]
        if rng.random() < 0.5:
            cv2.circle(img, (32, 32), 29, c[0], -1, cv2.LINE_AA)
            cv2.circle(img, (32, 32), 20, (240, 240, 240), -1, cv2.LINE_AA)
        else:
            cv2.rectangle(img, (4, 4), (60, 60), c[0], 5)
        text = "".join(rng.choice(list("0123456789PSTX"), 2))
        cv2.putText(img, text, (10, 42), cv2.FONT_HERSHEY_DUPLEX, 1.1, c[1], 3, cv2.LINE_AA)
        return self._atlas.add(img)

    def _fence(self) -> tuple[float, float, float, float]:
        rng, h, w = self._rng, 48, 256
        base = [(150, 110, 80), (170, 165, 155), (120, 70, 55), (90, 100, 90), (200, 195, 185)][int(rng.integers(5))]
        img = np.empty((h, w, 3), np.float32)
        img[:] = base
        img[:, :: int(rng.integers(6, 20))] *= 0.6
        img[:: int(rng.integers(8, 24))] *= 0.7
        img += 18 * smooth_noise(rng, h, w, 16)[..., None] + rng.normal(0, 6, (h, w, 1))
        if rng.random() < 0.5:
            canvas = np.clip(img, 0, 255).astype(np.uint8)
            for _ in range(3):
                pts = np.stack([np.linspace(20, w - 20, 12), rng.uniform(6, h - 6, 12)], 1).astype(np.int32)
                cv2.polylines(canvas, [pts], False, tuple(int(v) for v in rng.integers(0, 255, 3)), 3, cv2.LINE_AA)
            img = canvas.astype(np.float32)
        return self._atlas.add(to_texture(img))

    def tree(self, rng: np.random.Generator, x: float, y: float, z: float) -> list[Array]:
        """A trunk and two crossed crowns; 5 to 8 m tall."""
        trunk, crown = rng.uniform(1.8, 2.6), rng.uniform(3.0, 5.0)
        rows = scene.box((x, y), rng.uniform(0, 3), 0.28, 0.28, z - 0.5, z + trunk + 0.8, {"all": self.plain["bark"]})
        tex = self.tree_textures[int(rng.integers(len(self.tree_textures)))]
        heading, tone = rng.uniform(0, np.pi), rng.uniform(0.8, 1.15)
        tint = (tone * rng.uniform(0.9, 1.15), tone, tone * rng.uniform(0.85, 1.1))
        for k in range(2):
            d = np.array([np.cos(heading + k * np.pi / 2), np.sin(heading + k * np.pi / 2), 0]) * crown
            origin = np.array([x, y, z + trunk + crown]) - d / 2
            rows.append(scene.quad(origin, d, np.array([0, 0, -crown]), tex, scene.FOLIAGE, tint, two_sided=True))
        return rows

    def lamp(self, x: float, y: float, z: float, heading: float) -> list[Array]:
        """A lamp post with its arm towards the road."""
        t = {"all": self.plain["metal"]}
        rows = scene.box((x, y), heading, 0.14, 0.14, z - 0.5, z + 6.0, t)
        ax, ay = x + 0.7 * np.cos(heading), y + 0.7 * np.sin(heading)
        return rows + scene.box((ax, ay), heading, 1.6, 0.16, z + 5.9, z + 6.05, t)

    def sign(self, rng: np.random.Generator, x: float, y: float, z: float, heading: float) -> list[Array]:
        """A traffic sign facing ``heading``."""
        rows = scene.box((x, y), heading, 0.08, 0.08, z - 0.5, z + 2.4, {"all": self.plain["metal"]})
        tex = self.sign_textures[int(rng.integers(len(self.sign_textures)))]
        t = {"front": tex, "back": self.plain["metal"], "left": self.plain["metal"], "right": self.plain["metal"]}
        ax, ay = x + 0.08 * np.cos(heading), y + 0.08 * np.sin(heading)
        size = rng.uniform(0.55, 0.8)
        return rows + scene.box((ax, ay), heading, 0.05, size, z + 2.4 - size, z + 2.4, t)

    def bin(self, rng: np.random.Generator, x: float, y: float, z: float, heading: float) -> list[Array]:
        """A waste bin, post box or cabinet."""
        name = ["green", "dark", "concrete", "wood"][int(rng.integers(4))]
        tint = tuple(float(v) for v in rng.uniform(0.6, 1.6, 3))
        s = rng.uniform(0.5, 0.9)
        return scene.box((x, y), heading, s, s * rng.uniform(0.8, 1.6), z - 0.4, z + rng.uniform(0.9, 1.5),
                         {"all": self.plain[name]}, tint=(tint[0], tint[1], tint[2]))  # fmt: skip
