"""GGA sentences: any position survives, any single changed character is found."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets.nmea import checksum, read_gga
from vloc_ros.datasets.problems import Problems

NEAR = 1_602_074_877_621_449_728
DAY = 86_400 * 10**9


def sentence(latitude: float, longitude: float, height: float, milliseconds: int) -> str:
    def angle(value: float, digits: int) -> str:
        minutes = round(abs(value) * 60, 8)
        return f"{int(minutes // 60):0{digits}d}{minutes % 60:011.8f}"

    seconds, rest = divmod(milliseconds, 1000)
    clock = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{rest:03d}"
    body = (
        f"GNGGA,{clock},{angle(latitude, 2)},{'NS'[latitude < 0]},{angle(longitude, 3)},{'EW'[longitude < 0]},"
        f"4,12,0.8,{height:.4f},M,46.5000,M,,"
    )
    return f"${body}*{checksum(body):02X}\r\n"


@given(st.floats(-89, 89), st.floats(-179, 179), st.floats(-100, 9000), st.integers(0, 86_399_999))
def test_any_fix_survives(tmp_path_factory, latitude, longitude, height, milliseconds):
    path = tmp_path_factory.mktemp("nmea") / "log.nmea"
    path.write_text(sentence(latitude, longitude, height, milliseconds))
    problems = Problems()
    track = read_gga(path, NEAR, problems)
    assert not problems.counts
    np.testing.assert_allclose(track.latitude_deg, [latitude], atol=1e-9)
    np.testing.assert_allclose(track.longitude_deg, [longitude], atol=1e-9)
    np.testing.assert_allclose(track.altitude_m, [height + 46.5], atol=1e-4)
    stamp = int(track.stamps_ns[0])
    assert stamp % DAY == milliseconds * 10**6 and abs(stamp - NEAR) <= DAY // 2


@given(st.integers(7, 60), st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="*$"))
def test_a_changed_character_is_found(tmp_path_factory, at, letter):
    path = tmp_path_factory.mktemp("nmea") / "log.nmea"
    line = sentence(48.25, 11.5, 540.0, 45_000_000)
    changed = line[:at] + letter + line[at + 1 :]
    path.write_text(changed)
    problems = Problems()
    track = read_gga(path, NEAR, problems)
    if changed == line:
        assert track is not None
    else:
        assert track is None and problems.counts == {"NMEA line with a wrong checksum": 1}


def test_other_sentences_and_logs_without_a_fix(tmp_path):
    path = tmp_path / "log.nmea"
    path.write_text("$GPRMC,1*00\n\nGGA\n$GPGGA\n")
    problems = Problems()
    assert read_gga(path, NEAR, problems) is None
    assert problems.counts == {"NMEA line with a wrong checksum": 1}
