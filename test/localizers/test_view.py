"""Which other cameras an image-level backend takes, and how much is believed of what they see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vloc_ros.errors import CameraMismatchError, ConfigError
from vloc_ros.geometry.cameras import cropped, resized
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.view import ViewWarp
from vloc_ros.localizers.calibration import Confidence
from vloc_ros.localizers.view import MapViews, ViewSettings, less_sure
from vloc_ros.types import CameraModel, LocalizationState

MAP = CameraModel(80, 50, 60.0, 60.0, 39.5, 24.5)
PREPROCESS = Preprocess(80, 50)
LOCALIZED, DEGRADED, LOST = LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST


def test_the_same_lens_is_taken_as_it_is_and_a_wider_one_warped_once():
    views = MapViews(MAP, PREPROCESS, ViewSettings())
    image = np.full((100, 160, 3), 200, np.uint8)
    twice = resized(MAP, 160, 100)
    assert views.of(MAP) is None and views.of(twice) is None and views.seen(image, twice) is image
    wide = replace(twice, fx=60.0, fy=60.0)
    view = views.of(wide)
    assert view is not None and view.covered == 1.0 and views.of(wide) is view
    assert views.seen(image, wide).shape == (50, 80, 3)
    fisheye = replace(wide, distortion_model="equidistant", distortion=(0.0, 0.0, 0.0, 0.0))
    assert views.of(fisheye) is not None
    for focal in range(40, 60):
        views.of(replace(wide, fx=float(focal)))
    assert views.of(wide) is not view, "the last few cameras are kept"


def test_too_little_or_too_coarse_is_refused_with_both_numbers():
    half = cropped(MAP, 20, 0, 40, 50)
    with pytest.raises(CameraMismatchError, match=r"at least 60 %.*least_covered.*found 50 %.*field of view"):
        MapViews(MAP, PREPROCESS, ViewSettings(least_covered=0.6)).of(half)
    assert MapViews(MAP, PREPROCESS, ViewSettings(least_covered=0.4)).of(half) is not None
    assert MapViews(MAP, PREPROCESS).of(half) is not None, "without limits"
    coarse = CameraModel(40, 25, 10.0, 10.0, 19.5, 12.0)
    with pytest.raises(CameraMismatchError, match=r"at most 2 of the map's.*most_enlarged.*found 6\.0: 40x25"):
        MapViews(MAP, PREPROCESS, ViewSettings()).of(coarse)
    assert MapViews(MAP, PREPROCESS, ViewSettings(most_enlarged=7.0)).of(coarse) is not None
    for wrong in ({"least_covered": 0.0}, {"least_covered": 1.1}, {"most_enlarged": 0.0}):
        with pytest.raises(ConfigError):
            from vloc_ros.settings import settings_from_mapping

            settings_from_mapping(ViewSettings, wrong, "settings")


def test_fewer_pixels_are_believed_less():
    limits = ViewSettings(localized_sigma_m=1.0, lost_sigma_m=4.0)
    whole = Confidence(np.eye(6) * 0.7**2, LOCALIZED, 0.7)
    sigmas, states = [], []
    for width in (80, 72, 64, 40, 8):
        part = less_sure(whole, ViewWarp(cropped(MAP, 0, 0, width, 50), MAP), 0.0, limits)
        assert part.position_sigma_m is not None
        sigmas.append(part.position_sigma_m)
        states.append(part.state)
        np.testing.assert_allclose(np.sqrt(part.covariance[0, 0]), part.position_sigma_m)
    assert (np.diff(sigmas) > 0).all() and sigmas[0] == pytest.approx(0.7)
    assert states[:2] == [LOCALIZED, LOCALIZED] and states[3] is DEGRADED and states[-1] is LOST
    wide = ViewWarp(replace(MAP, fx=40.0, fy=40.0), MAP)
    assert less_sure(whole, wide, -9.0, limits) == whole, "all of it is seen: the backend's own judgement stands"
    nearly = ViewWarp(cropped(MAP, 0, 0, 76, 50), MAP)
    assert less_sure(whole, nearly, -1.9, limits).state is LOCALIZED
    assert less_sure(whole, nearly, -2.1, limits).state is DEGRADED, "unfamiliar"
    assert less_sure(replace(whole, state=LOST), nearly, -2.1, limits).state is LOST
    # Of what was never calibrated a part is no better than degraded.
    unknown = Confidence(np.eye(6), LOCALIZED)
    assert less_sure(unknown, ViewWarp(cropped(MAP, 0, 0, 72, 50), MAP), 0.0, limits).state is DEGRADED
