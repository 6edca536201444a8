"""``vloc trajectory`` from the command line: table, files, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vloc_ros.cli.main import main
from vloc_ros.convert.writer import BagWriter
from vloc_ros.evaluation.trajectory import read_tum, write_tum
from vloc_ros.geometry.se3 import se3_exp

SECOND = 1_000_000_000
STAMPS = [1_700_000_000 * SECOND + i * SECOND // 10 for i in range(60)]


def lap() -> np.ndarray:
    T = np.tile(np.eye(4), (60, 1, 1))
    angle = np.linspace(0, 5, 60)
    T[:, 0, 3], T[:, 1, 3] = 12 * np.cos(angle), 12 * np.sin(angle)
    return T


@pytest.fixture
def run(capsys):
    def trajectory(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["trajectory", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return trajectory


@pytest.fixture
def files(tmp_path):
    """A reference, and an estimate turned by 0.3 rad, moved, and 2 ms late."""
    moved = se3_exp(np.array([5.0, 6.0, 1.0, 0.0, 0.0, 0.3])) @ lap()
    write_tum(tmp_path / "reference.tum", zip(STAMPS, lap(), strict=True))
    write_tum(tmp_path / "estimate.tum", zip((s + 2_000_000 for s in STAMPS[10:]), moved[10:], strict=True))
    return tmp_path / "estimate.tum", tmp_path / "reference.tum"


def test_table_and_report(run, files, tmp_path):
    out = tmp_path / "out"
    code, said, err = run(*files, "--align", "se3", "--delta", "5", "--out", out)
    assert (code, err) == (0, "")
    assert "ATE translation" in said and "RPE rotation over 5 m" in said and "83.3 % of the reference" in said
    report = json.loads((out / "report.json").read_text())
    assert report["associated"] == 50 and report["poses_reference"] == 60 and report["contested"] == 0
    assert report["ate_translation_m"]["max"] < 1e-6 and report["rpe_translation_m"]["count"] > 5
    assert report["alignment"]["rotation_xyzw"] == pytest.approx([0, 0, -np.sin(0.15), np.cos(0.15)], abs=1e-6)
    for page in ("report.md", "report.html"):
        assert "ATE translation" in (out / page).read_text()
    mine, truth = read_tum(out / "estimate.tum"), read_tum(out / "reference.tum")
    assert mine.stamps_ns.tolist() == truth.stamps_ns.tolist() == STAMPS[10:]
    np.testing.assert_allclose(mine.T, truth.T, atol=1e-6)


def test_a_bag_against_a_file(run, files, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for stamp, T in zip(STAMPS, lap(), strict=True):
            bag.pose_with_covariance("/vloc/pose", stamp, "map", T, np.eye(6))
            bag.pose("/reference/pose", stamp, "map", T)
    code, said, _ = run(tmp_path / "bag", tmp_path / "bag", "--delta", "3", "--delta-unit", "f", "--all-pairs")
    assert code == 0 and "57 pairs" in said
    assert run(tmp_path / "bag", files[1], "--topic", "/reference/pose")[0] == 0


def test_problems_are_one_line_and_exit_1(run, files, tmp_path):
    assert run(*files, "--max-difference", "0.001")[2].count("--time-offset") == 1
    for option, value in (("--time-offset", "nan"), ("--time-offset", "1e300"), ("--max-difference", "inf")):
        code, _, err = run(*files, option, value)
        assert code == 1 and err.startswith(f"vloc: {option}: expected seconds") and err.count("\n") == 1
    assert run(*files, "--max-difference", "0.001", "--time-offset", "-0.002")[0] == 0
    bad = tmp_path / "bad.tum"
    bad.write_text(files[0].read_text() + "1 2 3\n")
    code, _, err = run(bad, files[1])
    assert code == 1 and "bad.tum:51: expected 8 fields" in err and err.count("\n") == 1
    code, said, _ = run(bad, files[1], "--keep-going")
    assert code == 0 and "1 x row of the wrong length" in said
    write_tum(tmp_path / "line.tum", ((s, np.eye(4)) for s in STAMPS))
    code, _, err = run(tmp_path / "line.tum", files[1], "--align", "sim3")
    assert code == 1 and "on a line" in err
    code, said, _ = run(*files, "--delta", "1000")
    assert code == 0 and "no two poses are 1000 m apart" in said
    assert run(*files, "--delta", "0")[0] == 1
    assert run(*files, "--align", "affine")[0] == 2
