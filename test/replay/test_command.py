"""``vloc replay`` from the command line: exit codes, and what is written when the bag is not all there."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from bag_copies import copy_without

from vloc_ros.cli import demo
from vloc_ros.cli.main import main
from vloc_ros.convert import town
from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets import open_sequence
from vloc_ros.replay import runner


@pytest.fixture
def run(monkeypatch, bundle, knowing, make_drive, tmp_path, capsys):
    """``run(bag, *options)`` -> (exit code, stdout, stderr), against the localizer that knows the truth."""
    monkeypatch.setattr(runner, "load_localizer", lambda *_, **__: knowing(bundle, make_drive()))

    def replay(bag, *options):
        with pytest.raises(SystemExit) as stop:
            main(
                ["replay", str(bag), "--map", str(bundle.path), "--out", str(tmp_path / "out"), "--no-plots", *options]
            )
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return replay


def test_whole_bag_is_0_with_a_table(run, drive_bag, tmp_path):
    code, out, err = run(drive_bag)
    assert (code, err) == (0, "")
    assert "median error" in out and "LOCALIZED" in out and "oracle" in out
    assert (tmp_path / "out" / "result" / "metadata.yaml").exists()


def test_unfinished_bag_is_1_and_everything_else_is_written(run, drive_bag, tmp_path):
    broken = tmp_path / "broken.mcap"
    data = (drive_bag / "drive.mcap").read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    code, out, err = run(broken)
    assert code == 1 and "unfinished" in err and err.count("\n") == 1
    assert "median error" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["published"] > 10 and "unfinished" in report["problem"]
    assert (tmp_path / "out" / "trajectory.tum").read_text().count("\n") == report["published"]


def test_empty_bag_is_1(run, tmp_path):
    with BagWriter(tmp_path / "empty"):
        pass
    code, _, err = run(tmp_path / "empty")
    assert code == 1 and "empty" in err and err.count("\n") == 1


def test_bag_without_camera_info_is_1_and_says_why(run, make_drive, tmp_path):
    sequence = make_drive()
    with BagWriter(tmp_path / "blind") as bag:
        stamp0 = int(sequence.stamps_ns[0])
        bag.transforms("/tf_static", stamp0, [("base_link", "camera", stamp0, sequence.T_base_cam)])
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            bag.pose("/reference/pose", stamp, "map", sequence.T_map_base[i])
            bag.image("/camera/image", stamp, "camera", sequence.image(i))
    code, _, err = run(tmp_path / "blind")
    assert code == 1 and err.count("\n") == 1
    assert "every frame was refused: no_camera_info: no camera_info for the image; check its topic" in err


def test_bag_without_images_is_1_and_says_so(run, drive_bag, tmp_path):
    copy_without(drive_bag, tmp_path / "dark", "/camera/image")
    code, _, err = run(tmp_path / "dark")
    assert code == 1 and "holds no images" in err and err.count("\n") == 1


def test_bag_without_truth_is_1_unless_that_is_intended(run, drive_bag, tmp_path):
    copy_without(drive_bag, tmp_path / "bag", "/reference/pose")
    code, _, err = run(tmp_path / "bag")
    assert code == 1 and "no truth" in err and err.count("\n") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["published"] > 10 and (tmp_path / "out" / "result" / "metadata.yaml").exists()
    assert run(tmp_path / "bag", "--truth", "none")[::2] == (0, "")


def test_without_matplotlib_it_says_so_before_the_work(run, drive_bag, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(drive_bag, "--plots")
    assert code == 1 and "vloc_ros[replay]" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert run(drive_bag)[0] == 0


def test_truth_of_another_frame_is_noted(run, make_drive, tmp_path):
    sequence = make_drive()
    with BagWriter(tmp_path / "bag") as bag:
        stamp0 = int(sequence.stamps_ns[0])
        bag.transforms("/tf_static", stamp0, [("base_link", "camera", stamp0, sequence.T_base_cam)])
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            bag.camera_info("/camera/camera_info", stamp, "camera", sequence.camera)
            bag.pose("/reference/pose", stamp, "utm", sequence.T_map_base[i])
            bag.image("/camera/image", stamp, "camera", sequence.image(i))
    code, out, _ = run(tmp_path / "bag")
    assert code == 0 and "'utm'" in out


def test_truth_in_utm_coordinates_needs_the_maps_origin(run, make_drive, tmp_path):
    sequence, origin = make_drive(), np.array([691_000.0, 5_334_000.0, 510.0])
    with BagWriter(tmp_path / "bag") as bag:
        stamp0 = int(sequence.stamps_ns[0])
        bag.transforms("/tf_static", stamp0, [("base_link", "camera", stamp0, sequence.T_base_cam)])
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            T = sequence.T_map_base[i].copy()
            T[:3, 3] += origin
            bag.camera_info("/camera/camera_info", stamp, "camera", sequence.camera)
            bag.pose("/reference/pose", stamp, "map", T)
            bag.image("/camera/image", stamp, "camera", sequence.image(i))
    report = tmp_path / "out" / "report.json"
    assert run(tmp_path / "bag", "--origin", "691000,5334000,510")[0] == 0
    assert json.loads(report.read_text())["median_translation_m"] < 1.0
    assert run(tmp_path / "bag")[0] == 0
    assert json.loads(report.read_text())["median_translation_m"] > 5e6
    code, _, err = run(tmp_path / "bag", "--origin", "691000,5334000")
    assert code == 1 and "--origin: expected 3 numbers" in err


def test_truth_hours_off_is_told_with_the_offset_that_fits(run, make_drive, tmp_path):
    """A recorder in local time: one true sentence, and with its offset the replay has its figures."""
    sequence, report = make_drive(), tmp_path / "out" / "report.json"
    with BagWriter(tmp_path / "bag") as bag:
        stamp0 = int(sequence.stamps_ns[0])
        bag.transforms("/tf_static", stamp0, [("base_link", "camera", stamp0, sequence.T_base_cam)])
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            bag.camera_info("/camera/camera_info", stamp, "camera", sequence.camera)
            bag.pose("/reference/pose", stamp + 8 * 3600 * 10**9, "map", sequence.T_map_base[i])
            bag.image("/camera/image", stamp, "camera", sequence.image(i))
    code, _, err = run(tmp_path / "bag")
    assert code == 1 and err.count("\n") == 1
    assert "--time-offset -28800.000" in err
    assert "--time-offset -28800.000" in json.dumps(json.loads(report.read_text()))
    code, _, err = run(tmp_path / "bag", "--time-offset", "-28800")
    assert (code, err) == (0, "")
    assert json.loads(report.read_text())["median_translation_m"] < 1.0


def test_demo_renders_a_drive_localizes_it_and_says_where_things_are(
    monkeypatch, bundle, knowing, tmp_path, capsys, repo_root
):
    """With a small camera, few frames, and the localizer that knows the truth in place of the shipped map."""
    out, original = tmp_path / "demo", town.convert_town
    small = {"width": 64, "height": 36, "spacing_m": 5.0}
    monkeypatch.setattr(town, "convert_town", lambda *args, **options: original(*args, **{**options, **small}))

    def load(*_, **__):
        return knowing(bundle, open_sequence(next((out / "drive").iterdir())))

    monkeypatch.setattr(runner, "load_localizer", load)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(out), "--map", str(bundle.path)])
    said, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    assert "median error" in said and "worst LOCALIZED" in said and "knowing alone" in said
    for made in ("plots/trajectory.png", "plots/nees.png", "plots/candidates.png", "report.md", "result/metadata.yaml"):
        assert (out / made).exists(), made
    assert all(str(out / place) in said.replace("\n", "") for place in ("report.html", "drive", "result"))


def test_demo_of_the_shipped_maps_is_refined_to_centimetres(monkeypatch, tmp_path, capsys):
    """Some frames of its drive, too far apart for a track."""
    plan = demo._plan
    monkeypatch.setattr(demo, "_plan", lambda path: {**plan(path), "every": 1})
    out, original = tmp_path / "demo", town.convert_town
    monkeypatch.setattr(
        town, "convert_town", lambda *args, **options: original(*args, **{**options, "spacing_m": 12.0})
    )
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(out), "--device", "cpu"])
    said, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "") and "imposing, then features" in said
    alone, chain = (json.loads((out / name / "report.json").read_text()) for name in (".", "chain"))
    assert alone["backend"] == "imposing" and chain["backend"] == "cascade" and chain["map_bytes"] > alone["map_bytes"]
    assert chain["frames"] == alone["frames"] > 10
    assert 0.1 < alone["localizer_median_translation_m"] < 1.0 and chain["localizer_median_translation_m"] < 0.05
