"""Textured rectangles and triangles: the one primitive everything but the ground is made of.

A scene is a float64 table, one row per quad. Axis ``a`` runs to the right and ``b`` downwards as
seen from outside, so that (u, v) metres along them are image columns and rows of the texture.
"""

from __future__ import annotations

import numpy as np

from vloc_ros.types import Array

__all__ = ["KIND", "box", "facing_normal", "quad", "transform_quads"]

ORIGIN, A, B, SIZE, TEX, TINT = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11), slice(11, 15), slice(15, 18)
KIND, SHAPE, TWO_SIDED, MOVING = 18, 19, 20, 21
COLUMNS = 22

#: Materials: what the texture's fourth channel means, and how the surface takes light.
WALL, ROOF, FOLIAGE, VEHICLE, PROP = 0.0, 1.0, 2.0, 3.0, 4.0
RECTANGLE, GABLE = 0.0, 1.0

Rect = tuple[float, float, float, float]


def quad(
    origin: Array,
    right: Array,
    down: Array,
    tex: Rect,
    kind: float = WALL,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: float = RECTANGLE,
    two_sided: bool = False,
) -> Array:
    """One row: ``origin`` the upper left corner, ``right`` and ``down`` perpendicular edge vectors in metres."""
    row = np.zeros(COLUMNS)
    lu, lv = np.linalg.norm(right), np.linalg.norm(down)
    row[ORIGIN], row[A], row[B] = origin, right / lu, down / lv
    row[SIZE] = lu, lv
    row[TEX] = tex
    row[TINT] = tint
    row[KIND], row[SHAPE], row[TWO_SIDED] = kind, shape, float(two_sided)
    return row


def facing_normal(rows: Array) -> Array:
    """Outward unit normals (N, 3)."""
    return np.cross(rows[:, B], rows[:, A])


def box(
    centre: tuple[float, float],
    heading: float,
    length: float,
    width: float,
    z0: float,
    z1: float,
    tex: dict[str, Rect],
    kind: float = PROP,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
    top_kind: float | None = None,
) -> list[Array]:
    """An upright box; ``tex`` by face: front (+x of the heading), back, left, right, top, or "all"."""
    f = np.array([np.cos(heading), np.sin(heading), 0.0])
    s = np.array([-np.sin(heading), np.cos(heading), 0.0])
    c = np.array([centre[0], centre[1], 0.0])
    up = np.array([0.0, 0.0, z1 - z0])
    top = np.array([0.0, 0.0, z1])
    hf, hs = f * (length / 2), s * (width / 2)

    def t(name: str) -> Rect:
        return tex.get(name, tex["all"] if "all" in tex else next(iter(tex.values())))

    rows = [
        quad(c + hf + hs + top, -2 * hs, -up, t("front"), kind, tint),
        quad(c - hf - hs + top, 2 * hs, -up, t("back"), kind, tint),
        quad(c - hf + hs + top, 2 * hf, -up, t("left"), kind, tint),
        quad(c + hf - hs + top, -2 * hf, -up, t("right"), kind, tint),
        quad(c - hf + hs + top, 2 * hf, -2 * hs, t("top"), kind if top_kind is None else top_kind, tint),
    ]
    # Seen from outside, "right" must be right: the rows above give outward normals b x a.
    out = np.array(rows)
    mid = c + np.array([0.0, 0.0, 0.5 * (z0 + z1)])
    for row in out:
        centre_of_face = row[ORIGIN] + 0.5 * row[A] * row[9] + 0.5 * row[B] * row[10]
        if np.cross(row[B], row[A]) @ (centre_of_face - mid) < 0:
            row[ORIGIN] = row[ORIGIN] + row[A] * row[9]
            row[A] = -row[A]
    return list(out)


def transform_quads(rows: Array, T: Array) -> Array:
    """The same quads moved by a rigid transform."""
    out = rows.copy()
    R = T[:3, :3]
    out[:, ORIGIN] = rows[:, ORIGIN] @ R.T + T[:3, 3]
    out[:, A] = rows[:, A] @ R.T
    out[:, B] = rows[:, B] @ R.T
    return out
