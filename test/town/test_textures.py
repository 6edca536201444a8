from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vloc_ros.town.textures import ALIGN, LEVELS, Atlas, MipImage


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def ramp() -> np.ndarray:
    image = np.zeros((64, 128, 4), np.uint8)
    image[..., 0] = np.arange(128)
    image[..., 1] = np.arange(64)[:, None]
    return image


@given(st.floats(0.6, 127.4), st.floats(0.6, 63.4))
@settings(max_examples=60, deadline=None)
def test_level_zero_is_exact_between_texel_centres(x: float, y: float) -> None:
    out = MipImage(ramp()).sample(f32(x), f32(y), f32(0.0))
    # OpenCV interpolates in 1/32 texel steps and rounds to integers.
    assert out[0, 0] == pytest.approx(x - 0.5, abs=0.55)
    assert out[0, 1] == pytest.approx(y - 0.5, abs=0.55)


def test_coarser_levels_average_what_they_cover() -> None:
    mip = MipImage(ramp())
    for lod in (1.0, 2.5, 4.0):
        out = mip.sample(f32(64.0), f32(32.0), f32(lod))
        assert out[0, 0] == pytest.approx(63.5, abs=1.6)
        assert out[0, 1] == pytest.approx(31.5, abs=1.6)


def test_neighbours_in_the_atlas_never_mix() -> None:
    atlas = Atlas(width=4 * ALIGN)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    rects = [atlas.add(np.full((40, 50, 3), c, np.uint8)) for c in colours]
    mip = atlas.build()
    for (x, y, w, h), colour in zip(rects, colours, strict=True):
        for lod in np.linspace(0, LEVELS - 1, 7):
            for fx in (-0.1, 0.0, 0.5, 1.0, 1.1):
                bounds = (f32(x), f32(y), f32(x + w), f32(y + h))
                out = mip.sample(f32(x + fx * w), f32(y + fx * h), f32(lod), bounds)
                np.testing.assert_allclose(out[0, :3], colour, atol=1.0)
