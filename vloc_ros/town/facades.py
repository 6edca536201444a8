"""Painted building fronts: each unique, rich in detail, drawn from its own random numbers."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.town.textures import F32, U8, smooth_noise, to_texture

__all__ = ["TEXELS_PER_M", "paint_facade", "paint_roof", "paint_side"]

TEXELS_PER_M = 25
#: Metres of wall painted below the nominal ground line: the hill side shows them.
PLINTH_M = 1.5

WALLS = [
    (178, 92, 70), (150, 74, 58), (206, 178, 138), (222, 208, 180), (196, 196, 190), (158, 152, 142),
    (226, 190, 120), (204, 140, 110), (150, 170, 160), (170, 180, 200), (232, 228, 216), (118, 108, 100),
    (190, 120, 90), (140, 150, 120), (210, 160, 160), (128, 138, 158),
]  # fmt: skip
ACCENTS = [
    (180, 30, 40), (20, 80, 160), (20, 120, 70), (230, 180, 30), (240, 240, 235), (40, 40, 45),
    (120, 40, 120), (240, 120, 30), (60, 160, 180), (90, 60, 40),
]  # fmt: skip


def _pick(
    rng: np.random.Generator, colours: list[tuple[int, int, int]], spread: float = 12.0
) -> npt.NDArray[np.float64]:
    return np.clip(np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3), 12, 245)


def _rect(img: npt.NDArray[np.generic], x0: float, y0: float, x1: float, y1: float, value: npt.ArrayLike) -> None:
    k = TEXELS_PER_M
    c0, c1, r0, r1 = (max(round(float(v) * k), 0) for v in (x0, x1, y0, y1))
    img[r0:r1, c0:c1] = value


def _wall(rng: np.random.Generator, w: int, h: int, colour: npt.NDArray[np.float64], material: int) -> F32:
    img = np.empty((h, w, 3), np.float32)
    img[:] = colour
    if material == 0:  # brick
        row = 4
        shade = rng.normal(0, 12, (h // row + 1, w // 8 + 2)).astype(np.float32)
        yy, xx = np.mgrid[0:h, 0:w]
        r = yy // row
        img += shade[r, (xx + 4 * (r % 2)) // 8][..., None]
        mortar = (yy % row == 0) | ((xx + 4 * (r % 2)) % 8 == 0)
        img[mortar] = img[mortar] * 0.72 + 40
    elif material == 1:  # stone blocks
        row = int(rng.integers(10, 16))
        shade = rng.normal(0, 14, (h // row + 1, w // 20 + 2)).astype(np.float32)
        yy, xx = np.mgrid[0:h, 0:w]
        r = yy // row
        img += shade[r, (xx + 10 * (r % 2)) // 20][..., None]
        img[(yy % row == 0) | ((xx + 10 * (r % 2)) % 20 == 0)] *= 0.7
    elif material == 2:  # boards
        step = int(rng.integers(5, 9))
        shade = rng.normal(0, 9, h // step + 1).astype(np.float32)
        img += shade[np.arange(h) // step][:, None, None]
        img[::step] *= 0.75
    elif material == 3:  # panels
        sx, sy = int(rng.integers(40, 80)), int(rng.integers(30, 75))
        img[:, ::sx] *= 0.6
        img[::sy] *= 0.6
    img += rng.normal(0, 4, (h, w, 1)).astype(np.float32)
    img += 14 * smooth_noise(rng, h, w, 60)[..., None]
    img += 9 * smooth_noise(rng, h, w, 14)[..., None]
    streak = np.clip(smooth_noise(rng, h // 8 + 2, w, 7), 0, 1)
    img *= 1 - 0.22 * cv2.resize(streak, (w, h))[..., None]
    return img


def _window(
    rng: np.random.Generator, img: F32, glass: U8, x: float, y: float, w: float, h: float, style: dict[str, float],
    frame: npt.NDArray[np.float64], shutter: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    f = 0.1
    if style["lintel"] > 0.5:
        _rect(img, x - 0.2, y - 0.28, x + w + 0.2, y, frame * 0.85)
    _rect(img, x - f, y - f, x + w + f, y + h + f, frame)
    dark = rng.uniform(25, 70) * np.array([0.85, 0.95, 1.1])
    _rect(img, x, y, x + w, y + h, dark)
    _rect(glass, x, y, x + w, y + h, int(rng.integers(150, 256)))
    if rng.random() < style["curtain"]:
        c = rng.uniform(90, 210) * (1 + rng.normal(0, 0.12, 3))
        side = rng.uniform(0.15, 0.45) * w
        _rect(img, x, y, x + side, y + h, c)
        _rect(img, x + w - side, y, x + w, y + h, c)
        _rect(glass, x, y, x + side, y + h, 90)
        _rect(glass, x + w - side, y, x + w, y + h, 90)
    if rng.random() < style["blind"]:
        drop = rng.uniform(0.15, 0.9) * h
        _rect(img, x, y, x + w, y + drop, rng.uniform(120, 220) * np.array([1, 0.98, 0.92]))
        _rect(glass, x, y, x + w, y + drop, 40)
    for k in range(1, int(style["columns"])):
        xm = x + w * k / style["columns"]
        _rect(img, xm - 0.04, y, xm + 0.04, y + h, frame)
    if style["rows"] > 1:
        _rect(img, x, y + h * 0.4 - 0.04, x + w, y + h * 0.4 + 0.04, frame)
    _rect(img, x - 0.15, y + h + f, x + w + 0.15, y + h + f + 0.12, np.minimum(frame * 1.05, 250))
    if style["shutters"] > 0.5:
        for xs in (x - f - 0.45, x + w + f):
            _rect(img, xs, y, xs + 0.45, y + h, shutter)
            for yy in np.arange(y + 0.08, y + h, 0.16):
                _rect(img, xs + 0.05, yy, xs + 0.4, yy + 0.05, shutter * 0.7)
    if style["balcony"] > rng.random():
        _rect(img, x - 0.5, y + h * 0.5, x + w + 0.5, y + h * 0.5 + 0.08, shutter * 0.5)
        for xs in np.arange(x - 0.5, x + w + 0.5, 0.18):
            _rect(img, xs, y + h * 0.5, xs + 0.05, y + h + 0.15, shutter * 0.5)
        _rect(img, x - 0.6, y + h + 0.12, x + w + 0.6, y + h + 0.32, frame * 0.6)


def _text(rng: np.random.Generator, img: F32, x: float, y: float, w: float, h: float) -> None:
    k = TEXELS_PER_M
    back, ink = _pick(rng, ACCENTS), _pick(rng, ACCENTS)
    if np.abs(back - ink).sum() < 180:
        ink = 255 - back
    _rect(img, x, y, x + w, y + h, back)
    letters = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVZ&"), int(rng.integers(4, 10))))
    font = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_DUPLEX][int(rng.integers(3))]
    canvas = np.zeros((int(h * k), int(w * k)), np.uint8)
    if min(canvas.shape) < 6:
        return
    (tw, th), _ = cv2.getTextSize(letters, font, 1.0, 3)
    scale = min(canvas.shape[1] * 0.9 / tw, canvas.shape[0] * 0.65 / th)
    at = (int((canvas.shape[1] - tw * scale) / 2), int((canvas.shape[0] + th * scale) / 2))
    cv2.putText(canvas, letters, at, font, scale, 255, max(1, int(3 * scale)), cv2.LINE_AA)
    region = img[int(y * k) : int(y * k) + canvas.shape[0], int(x * k) : int(x * k) + canvas.shape[1]]
    a = canvas[: region.shape[0], : region.shape[1], None].astype(np.float32) / 255
    region[:] = region * (1 - a) + ink.astype(np.float32) * a


def _poster(rng: np.random.Generator, img: F32, x: float, y: float, w: float, h: float) -> None:
    k = TEXELS_PER_M
    pic = np.empty((max(int(h * k), 4), max(int(w * k), 4), 3), np.uint8)
    pic[:] = _pick(rng, ACCENTS, 30).astype(np.uint8)
    for _ in range(int(rng.integers(4, 9))):
        c = tuple(int(v) for v in _pick(rng, ACCENTS, 30))
        p = (int(rng.integers(pic.shape[1])), int(rng.integers(pic.shape[0])))
        if rng.random() < 0.5:
            cv2.circle(pic, p, int(rng.integers(2, max(3, pic.shape[0] // 3))), c, -1, cv2.LINE_AA)
        else:
            q = rng.integers(0, [pic.shape[1], pic.shape[0]], (3, 2)).astype(np.int32)
            cv2.fillConvexPoly(pic, q, c, cv2.LINE_AA)
    region = img[int(y * k) : int(y * k) + pic.shape[0], int(x * k) : int(x * k) + pic.shape[1]]
    region[:] = pic[: region.shape[0], : region.shape[1]]


def _graffiti(rng: np.random.Generator, img: F32, x: float, y: float, w: float, h: float) -> None:
    k = TEXELS_PER_M
    canvas = np.clip(img, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        pts = np.stack([np.linspace(x, x + w, 9) + rng.normal(0, 0.15, 9), y + rng.uniform(0, h, 9)], 1) * k
        c = tuple(int(v) for v in _pick(rng, ACCENTS, 30))
        cv2.polylines(canvas, [pts.astype(np.int32)], False, c, int(rng.integers(2, 6)), cv2.LINE_AA)
    img[:] = canvas


def paint_facade(rng: np.random.Generator, width_m: float, height_m: float) -> U8:
    """A street front, (rows, cols, 4) uint8 with ``TEXELS_PER_M`` and a plinth below the ground line.

    The fourth channel is how much of the texel is glass.
    """
    k = TEXELS_PER_M
    w, h = round(width_m * k), round((height_m + PLINTH_M) * k)
    colour, trim = _pick(rng, WALLS), _pick(rng, [(235, 232, 224), (90, 80, 72), (200, 190, 170), (60, 66, 70)], 8)
    shutter = _pick(rng, ACCENTS)
    img = _wall(rng, w, h, colour, int(rng.integers(5)))
    glass = np.zeros((h, w), np.uint8)
    shop = rng.random() < 0.42
    ground_h = min(rng.uniform(3.2, 4.2) if shop else rng.uniform(2.9, 3.4), height_m - 0.4)
    style = {
        "columns": float(rng.integers(1, 4)), "rows": float(rng.integers(1, 3)), "lintel": rng.random(),
        "shutters": rng.random() * 0.85, "curtain": rng.uniform(0, 0.7), "blind": rng.uniform(0, 0.4),
        "balcony": rng.choice([0.0, 0.0, 0.5, 1.0]),
    }  # fmt: skip
    storey = rng.uniform(2.7, 3.4)
    spacing = rng.uniform(2.0, 3.6)
    win_w, win_h = spacing * rng.uniform(0.32, 0.6), storey * rng.uniform(0.42, 0.62)
    if style["shutters"] > 0.5:
        win_w = min(win_w, spacing - 1.4)
    win_w = max(win_w, 0.6)
    n = max(1, int((width_m - 0.6) / spacing))
    x0 = (width_m - n * spacing) / 2
    floor_y = height_m - ground_h
    band = rng.random() < 0.5
    while floor_y - storey > 0.2:
        top = floor_y - storey
        if band:
            _rect(img, 0, floor_y - 0.12, width_m, floor_y + 0.1, trim * 0.9)
        for i in range(n):
            if rng.random() < 0.94:
                x = x0 + i * spacing + (spacing - win_w) / 2
                _window(rng, img, glass, x, top + (storey - win_h) * 0.45, win_w, win_h, style, trim, shutter)
        floor_y = top
    y_ground = height_m - ground_h
    if shop:
        if rng.random() < 0.7:
            _rect(img, 0, y_ground, width_m, height_m, _pick(rng, ACCENTS) * 0.8)
        n_shop = max(1, int(width_m / rng.uniform(2.6, 4.5)))
        door = int(rng.integers(n_shop))
        cell = width_m / n_shop
        for i in range(n_shop):
            x = i * cell + 0.25
            low = height_m - (0.05 if i == door else rng.uniform(0.35, 0.8))
            _rect(img, x - 0.08, y_ground + 0.85, x + cell - 0.42, low + 0.08, trim * 0.7)
            _rect(img, x, y_ground + 0.95, x + cell - 0.5, low, rng.uniform(30, 80, 3))
            _rect(glass, x, y_ground + 0.95, x + cell - 0.5, low, 220)
            for _ in range(int(rng.integers(1, 5))):  # goods in the window
                gx, gw, gh = x + rng.uniform(0, max(cell - 1.2, 0.1)), rng.uniform(0.2, 0.7), rng.uniform(0.2, 1.1)
                _rect(img, gx, low - gh, gx + gw, low, _pick(rng, ACCENTS, 25))
                _rect(glass, gx, low - gh, gx + gw, low, 60)
        _text(rng, img, rng.uniform(0, 0.2) * width_m, y_ground + 0.1, width_m * rng.uniform(0.55, 0.8), 0.7)
        if rng.random() < 0.4:  # awning stripes
            c1, c2 = _pick(rng, ACCENTS), _pick(rng, [(240, 240, 235)], 4)
            for i, x in enumerate(np.arange(0, width_m, 0.4)):
                _rect(img, x, y_ground + 0.8, x + 0.4, y_ground + 1.35, c1 if i % 2 else c2)
    else:
        door = int(rng.integers(n))
        for i in range(n):
            x = x0 + i * spacing
            if i == door:
                dw = min(1.3, spacing * 0.7)
                xd = x + (spacing - dw) / 2
                _rect(img, xd - 0.18, height_m - 2.55, xd + dw + 0.18, height_m + 0.1, trim)
                _rect(img, xd, height_m - 2.35, xd + dw, height_m + 0.1, shutter * 0.9)
                for r in range(2):
                    y = height_m - 2.15 + r * 1.05
                    _rect(img, xd + 0.15, y, xd + dw - 0.15, y + 0.85, shutter * 0.65)
                _rect(img, xd, height_m + 0.02, xd + dw, height_m + 0.3, (150, 148, 142))
            else:
                x += (spacing - win_w) / 2
                _window(rng, img, glass, x, height_m - 0.95 - win_h, win_w, win_h, style, trim, shutter)
    for _ in range(int(rng.integers(0, 4))):
        ph = rng.uniform(0.6, 1.6)
        _poster(
            rng, img, rng.uniform(0, max(width_m - 1.5, 0.1)), height_m - 0.5 - ph - rng.uniform(0, 0.8), ph * 0.7, ph
        )
    if rng.random() < 0.3:
        _graffiti(rng, img, rng.uniform(0, width_m * 0.6), height_m - 1.6, rng.uniform(1.2, 3.0), 1.2)
    if rng.random() < 0.25 and height_m > 6:
        _poster(rng, img, rng.uniform(0.1, 0.4) * width_m, rng.uniform(0.8, 2.0), min(3.2, width_m * 0.4), 2.0)
    if rng.random() < 0.6:  # drain pipe
        x = rng.choice([0.15, width_m - 0.3])
        _rect(img, x, 0, x + 0.12, height_m, trim * 0.5)
    _rect(img, 0, 0, width_m, rng.uniform(0.2, 0.5), trim * rng.uniform(0.6, 1.0))  # cornice
    plinth = _pick(rng, [(110, 106, 100), (84, 80, 78), (140, 120, 100)], 8)
    _rect(img, 0, height_m - rng.uniform(0.15, 0.6) * (0.2 if shop else 1.0), width_m, height_m + PLINTH_M, plinth)
    rows = np.arange(h, dtype=np.float32)[:, None, None] / k
    img *= 1 - 0.3 * np.exp(-np.abs(height_m - rows) / 0.5)  # dirt and ambient occlusion at the foot
    return to_texture(img, glass)


def paint_side(rng: np.random.Generator, width_m: float, height_m: float) -> U8:
    """A plainer wall: few windows, sometimes a mural or a big advertisement."""
    k = TEXELS_PER_M
    w, h = round(width_m * k), round((height_m + PLINTH_M) * k)
    img = _wall(rng, w, h, _pick(rng, WALLS), int(rng.integers(5)))
    glass = np.zeros((h, w), np.uint8)
    style = {
        "columns": 2.0,
        "rows": 1.0,
        "lintel": rng.random(),
        "shutters": 0.0,
        "curtain": 0.3,
        "blind": 0.3,
        "balcony": 0.0,
    }
    trim = _pick(rng, [(235, 232, 224), (90, 80, 72)], 8)
    for y in np.arange(0.9, height_m - 2.6, 3.0):
        for x in np.arange(rng.uniform(0.8, 2.5), width_m - 1.6, rng.uniform(2.4, 4.5)):
            if rng.random() < 0.6:
                _window(rng, img, glass, x, y, 1.0, 1.4, style, trim, trim)
    if rng.random() < 0.5 and width_m > 4:
        s = min(width_m * 0.6, height_m * 0.5)
        _poster(rng, img, rng.uniform(0.1, 0.3) * width_m, rng.uniform(0.1, 0.4) * height_m, s, s * 0.8)
    if rng.random() < 0.5:
        _graffiti(rng, img, rng.uniform(0, width_m * 0.5), height_m - 1.7, min(3.0, width_m * 0.5), 1.3)
    rows = np.arange(h, dtype=np.float32)[:, None, None] / k
    img *= 1 - 0.3 * np.exp(-np.abs(height_m - rows) / 0.5)
    return to_texture(img, glass)


def paint_roof(rng: np.random.Generator, width_m: float, depth_m: float) -> U8:
    """Tiles or felt, coarser than walls because nothing drives close to it."""
    k = 10
    w, h = max(int(width_m * k), 8), max(int(depth_m * k), 8)
    img = np.empty((h, w, 3), np.float32)
    img[:] = _pick(rng, [(150, 80, 60), (110, 60, 50), (80, 82, 88), (120, 110, 100)], 10)
    img += rng.normal(0, 8, (h, w, 1)).astype(np.float32)
    img[::3] *= 0.75
    img += 12 * smooth_noise(rng, h, w, 20)[..., None]
    return to_texture(img)
