"""Text tables: every complaint names file and line, and stamps are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import (
    in_order,
    read_rows,
    read_yaml,
    stamp_in_ns,
    transform_from_matrix,
    transform_from_quaternion,
)
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import quaternion_to_matrix

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
OF_OUR_TIME = st.integers(631_152_000 * 10**9, 4_102_444_800 * 10**9)


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


def test_rows_know_their_lines(tmp_path):
    path = table(tmp_path, "header,of,three\n# a comment\n\n1, 2,3 # and one behind\n4,5,6\n")
    rows = list(read_rows(path, Problems(), 3, ",", header_lines=1))
    assert [(r.number, r.fields) for r in rows] == [(4, ("1", "2", "3")), (5, ("4", "5", "6"))]
    assert rows[0].where == f"{path}:4"
    np.testing.assert_array_equal(rows[1].numbers(Problems(), 1), [5.0, 6.0])


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        ("1,2", r"t\.csv:2: expected 3 fields, found 2: '1 2'", "row of the wrong length"),
        ("1,2,3,4", r"t\.csv:2: expected 3 fields, found 4", "row of the wrong length"),
        ("1,x,3", r"t\.csv:2: expected numbers, found '1 x 3'", "row with text for a number"),
        ("1,nan,3", r"t\.csv:2: expected finite numbers.*--keep-going", "row with NaN or infinity"),
        ("1,-inf,3", r"t\.csv:2: expected finite", "row with NaN or infinity"),
        (",,", r"t\.csv:2: expected numbers", "row with text for a number"),
    ],
)
def test_faulty_rows_are_named_or_skipped_and_counted(tmp_path, line, message, kind):
    path = table(tmp_path, f"1,2,3\n{line}\n7,8,9\n")

    def read(problems):
        values = (row.numbers(problems) for row in read_rows(path, problems, 3, ","))
        return [v.tolist() for v in values if v is not None]

    with pytest.raises(DatasetError, match=message):
        read(Problems())
    problems = Problems(keep_going=True)
    assert read(problems) == [[1, 2, 3], [7, 8, 9]] and problems.counts == {kind: 1}


def test_several_lengths_and_bytes_that_are_no_text(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"1 2\n1 2 3\n\xff\xfe 2\n1\n")
    with pytest.raises(DatasetError, match=r"t\.txt:4: expected 2 or 3 fields, found 1"):
        list(read_rows(tmp_path / "t.txt", Problems(), (2, 3)))
    with pytest.raises(DatasetError, match=r"nothing\.txt: no such file"):
        list(read_rows(tmp_path / "nothing.txt", Problems(True), 2))


@given(OF_OUR_TIME, st.sampled_from(sorted(UNITS)), st.integers(0, 3))
def test_stamps_are_exact(stamp, unit, zeros):
    """A float64 would be off by up to 200 ns."""
    whole, rest = divmod(stamp, UNITS[unit])
    digits = len(str(UNITS[unit])) - 1
    text = f"{whole}.{rest:0{digits}d}" if digits else str(whole)
    assert stamp_in_ns(text + ("0" * zeros if digits else ""), unit, "x") == stamp
    assert stamp_in_ns(f" {text}\n", unit, "x") == stamp


@given(st.integers(0, 10**9), st.text("0123456789", max_size=25), st.sampled_from(sorted(UNITS)))
def test_more_digits_than_nanoseconds_are_rounded(whole, fraction, unit):
    text = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Fraction(text) * UNITS[unit]
    assert abs(stamp_in_ns(text, unit, "x", since_1970=False) - exact) <= Fraction(1, 2)


@given(OF_OUR_TIME, st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_another_unit_is_noticed_and_named(stamp, unit, written):
    text = str(stamp // UNITS[written])
    if unit == written:
        assert stamp_in_ns(text, unit, "x") // UNITS[unit] == stamp // UNITS[unit] or unit == "ns"
        return
    with pytest.raises(
        DatasetError, match=rf"t\.csv:7: expected a stamp in {unit} since 1970.*in {written} it would be"
    ):
        stamp_in_ns(text, unit, "t.csv:7")


@given(st.text(max_size=20))
def test_what_is_no_stamp_is_refused(text):
    try:
        assert stamp_in_ns(text, "s", "x", since_1970=False) >= 0
        assert Fraction(text.strip() if not text.strip().endswith(".") else text.strip()[:-1]) >= 0
    except DatasetError as error:
        assert str(error).startswith("x: expected a stamp in s")


@pytest.mark.parametrize("text", ["", "-1", "1e9", "nan", "1.5.2", "1,5", "0x10", "٣", "1.-5", "1 2"])
def test_strange_stamps(text):
    with pytest.raises(DatasetError, match="x: expected a stamp"):
        stamp_in_ns(text, "ns", "x", since_1970=False)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(0.9905, 1.0095))
def test_nearly_unit_quaternions_are_normalised(values, length):
    norm = np.linalg.norm(values)
    if norm < 1e-3:
        return
    unit = np.array(values) / norm
    T = transform_from_quaternion(np.array([1.0, 2.0, 3.0]), unit * length, "x", Problems())
    np.testing.assert_allclose(T[:3, :3], quaternion_to_matrix(unit), atol=1e-9)
    np.testing.assert_array_equal(T[:3, 3], [1, 2, 3])


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [0, 0, 0, 1.02], [0, 0, 0, np.nan], [90, 0, 0, 0]])
def test_other_quaternions_are_faults(quaternion):
    with pytest.raises(DatasetError, match=r"t\.csv:5: expected a unit quaternion, found one of length"):
        transform_from_quaternion(np.zeros(3), np.array(quaternion, float), "t.csv:5", Problems())
    problems = Problems(keep_going=True)
    assert transform_from_quaternion(np.zeros(3), np.array(quaternion, float), "t.csv:5", problems) is None
    assert problems.counts == {"quaternion that is not of unit length": 1}


@given(st.integers(0, 10**9), st.integers(0, 12), st.integers(-15, 3))
def test_seconds_with_an_exponent_are_exact(whole, fraction, exponent):
    text = f"{whole}.{fraction:03d}e{exponent:+03d}"
    exact = Fraction(text) * 10**9
    try:
        assert abs(stamp_in_ns(text, "s", "x", since_1970=False) - exact) <= Fraction(1, 2)
    except DatasetError:
        assert exact > 2**62


@given(st.text("0123456789", min_size=17, max_size=60), st.sampled_from(sorted(UNITS)), st.booleans())
def test_no_stamp_is_more_than_an_int64_holds(text, unit, since_1970):
    try:
        np.array([stamp_in_ns(text, unit, "x", since_1970=since_1970)], dtype=np.int64)
    except DatasetError as error:
        assert str(error).startswith("x: expected a stamp")


def test_matrices_are_made_rigid_or_refused():
    T = np.eye(4)
    T[0, 1], T[:3, 3] = 1e-5, (1e6, 2.0, 3.0)
    found = transform_from_matrix(T, "t.txt:3")
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-15)
    np.testing.assert_array_equal(found[:3, 3], T[:3, 3])
    with pytest.raises(DatasetError, match=r"t\.txt:3: expected a rotation"):
        transform_from_matrix(np.diag([1.0, 1.0, -1.0, 1.0]), "t.txt:3")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf1.5 2.5\n")
    (row,) = read_rows(path, Problems(), 2)
    assert row.numbers(Problems()).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    "text", ["a: !!int ''", "a: !!bool foo", f"a: {'9' * 5000}", "a: !!timestamp foo", "[1, 2", "- 1", "a: &b [*b]", ""]
)
def test_yaml_that_is_none_is_told_by_its_file(tmp_path, text):
    path = tmp_path / "sensor.yaml"
    path.write_text(text)
    try:
        read_yaml(path)
    except DatasetError as problem:
        assert str(path) in str(problem)
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}
    path.write_text("a: 1\n" * 400_000)
    with pytest.raises(DatasetError, match="expected a calibration, found 2000000 bytes"):
        read_yaml(path)


def test_numbers_in_names_count_as_numbers():
    names = [f"frame_{k}.png" for k in range(8, 20)]
    assert in_order(sorted(names), "x") == names
    assert in_order(["1.25.png", "1.50.png"], "x") == ["1.25.png", "1.50.png"]
    with pytest.raises(DatasetError, match=r"x: .*1\.5\.png and 1\.25\.png"):
        in_order(["1.25.png", "1.5.png"], "x")
