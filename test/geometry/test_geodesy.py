"""WGS-84 against published values and against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.geodesy import Datum, ecef_to_geodetic, geodetic_to_ecef


@pytest.mark.parametrize(
    ("geodetic", "ecef"),
    [
        ((0, 0, 0), (6378137.0, 0, 0)),  # the semi-major axis
        ((90, 0, 0), (0, 0, 6356752.314245)),  # the semi-minor axis
        ((0, 90, 100), (0, 6378237.0, 0)),
        # The defining formula evaluated with 50 digits.
        ((30, 60, 1000), (2764561.3323483100810, 4788360.6882675818494, 3170873.7353836377673)),
    ],
)
def test_known_points(geodetic, ecef):
    np.testing.assert_allclose(geodetic_to_ecef(*geodetic), ecef, rtol=0, atol=1e-6)


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-10_000, 1e6))
def test_ecef_round_trip(lat, lon, alt):
    back = ecef_to_geodetic(geodetic_to_ecef(lat, lon, alt))
    assert abs(back[0] - lat) < 1e-11
    if abs(lat) < 89.999999:
        assert abs((back[1] - lon + 180) % 360 - 180) < 1e-9 / np.cos(np.radians(lat))
    assert abs(back[2] - alt) < 2e-8


@given(st.floats(-89, 89), st.floats(-180, 180), st.tuples(*[st.floats(-50_000, 50_000)] * 3))
def test_enu_round_trip(lat, lon, enu):
    datum = Datum(lat, lon, 120.0)
    np.testing.assert_allclose(datum.to_enu(*datum.to_geodetic(enu)), enu, atol=1e-6)


def test_axes_and_lengths():
    datum = Datum(52.0, 13.0, 40.0)
    np.testing.assert_allclose(datum.to_enu(52.0, 13.0, 40.0), 0, atol=1e-9)
    np.testing.assert_allclose(datum.to_enu(52.0, 13.0, 47.5), [0, 0, 7.5], atol=1e-9)
    # Radii of curvature at 52 N: meridian 6375.0 km, prime vertical 6391.4 km; 0.001 deg of each.
    e2 = 0.0066943799901413165
    s = np.sin(np.radians(52.0))
    meridian, normal = 6378137 * (1 - e2) / (1 - e2 * s * s) ** 1.5, 6378137 / np.sqrt(1 - e2 * s * s)
    north, east = datum.to_enu(52.001, 13.0, 40.0), datum.to_enu(52.0, 13.001, 40.0)
    assert abs(north[1] - np.radians(0.001) * (meridian + 40)) < 1e-3
    assert abs(north[0]) < 1e-9
    assert abs(east[0] - np.radians(0.001) * (normal + 40) * np.cos(np.radians(52.0))) < 1e-3
    assert north[2] < 0 and east[2] < 0, "the Earth curves away below the tangent plane"
    np.testing.assert_allclose(datum.R_enu_ecef @ datum.R_enu_ecef.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(datum.R_enu_ecef) > 0


def test_batches():
    datum = Datum(52.0, 13.0, 40.0)
    enu = datum.to_enu([52.0, 52.001], [13.0, 13.0], 40.0)
    assert enu.shape == (2, 3)
    np.testing.assert_allclose(enu[1], datum.to_enu(52.001, 13.0, 40.0), atol=1e-9)


@pytest.mark.parametrize("values", [(91, 0, 0), (0, 400, 0), (np.nan, 0, 0)])
def test_impossible_origins_are_refused(values):
    with pytest.raises(GeometryError, match="datum"):
        Datum(*values)
