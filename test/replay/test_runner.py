"""Replay end to end on a tiny drive: figures, result bag, determinism, and bags with something missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bag_copies import copy_without

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.bag.drive import BagOptions
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.errors import BagError
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS
from vloc_ros.messages import pose_covariance, stamp_ns, transform
from vloc_ros.pipeline import PipelineSettings
from vloc_ros.replay import replay
from vloc_ros.types import LocalizationState

REPORT_KEYS = {
    "backend", "map", "device", "frames", "localized", "lost", "median_translation_m", "median_rotation_deg",
    "mean_translation_m", "mean_rotation_deg", "states", "recall", "nees_mean", "nees_share_in_95",
    "oracle_median_translation_m", "latency_ms", "map_bytes", "settings", "version",
}  # fmt: skip


@pytest.fixture(scope="module")
def result(drive_bag, bundle, knowing, make_drive, tmp_path_factory):
    out = tmp_path_factory.mktemp("replay") / "out"
    return replay(drive_bag, bundle.path, out, localizer=knowing(bundle, make_drive()))


def test_report_has_every_field_and_the_right_figures(result):
    report = json.loads((result.report_path.parent / "report.json").read_text())
    assert REPORT_KEYS <= set(report)
    assert report["frames"] == 40 and report["backend"] == "knowing" and report["problem"] == ""
    # Three agreeing fixes come before the first LOCALIZED; everything after it is published.
    assert report["published"] == report["localized"] == 38
    assert 0.1 < report["median_translation_m"] < 0.6
    assert report["states"]["LOCALIZED"] == pytest.approx(38 / 40)
    assert [(r["translation_m"], r["rotation_deg"]) for r in report["recall"]] == [
        list(t) and t for t in RECALL_THRESHOLDS
    ]
    assert report["recall"][-1]["share"] == pytest.approx(38 / 40)
    assert 3 < report["nees_mean"] < 10 and report["nees_share_in_95"] > 0.8
    # Map positions lie 0.25 m above the path, at every fourth frame (0.8 m apart).
    assert 0.25 <= report["oracle_median_translation_m"] < 0.9
    assert report["oracle_median_translation_m"] < report["retrieval_median_translation_m"] < 2.0
    assert 0.0 < report["retrieval_median_rotation_deg"] < 20.0
    assert set(report["latency_ms"]["stages"]) >= {"decode", "localize", "localize/search", "track"}
    assert all(report["latency_ms"][k] > 0 for k in ("p50", "p95", "max"))


def test_result_bag_holds_what_the_live_node_publishes(result, make_drive):
    sequence = make_drive()
    with BagReader(result.bag_path) as reader:
        assert reader.problem is None
        assert {"/vloc/pose", "/vloc/state", "/tf", "/tf_static", "/diagnostics", "/reference/pose"} <= set(
            reader.topics
        )
        poses = {stamp_ns(m.message): m.message for m in reader.messages(["/vloc/pose"])}
        states = [m.message.data for m in reader.messages(["/vloc/state"])]
    assert len(states) == 40 and states[0] == "INITIALIZING" and states[-1] == "LOCALIZED"
    assert set(poses) < set(sequence.stamps_ns.tolist())
    for record in result.records:
        if record.published:
            message = poses[record.stamp_ns]
            np.testing.assert_allclose(transform(message), record.T_map_base, atol=1e-9)
            np.testing.assert_allclose(pose_covariance(message), record.covariance, atol=1e-12)
    # TF: map -> odom -> base_link -> camera, looked up at the image stamps.
    with BagDrive_of_results(result) as drive:
        stamp = int(sequence.stamps_ns[20])
        T = drive.tree.at("map", "camera_optical_frame", stamp)
        assert np.linalg.norm(T[:3, 3] - sequence.T_map_cam[20, :3, 3]) < 1.0
        assert drive.tree.at("map", "base_link", int(sequence.stamps_ns[0]) - 1) is None


class BagDrive_of_results:
    """The result bag has no images: only its transforms are of interest."""

    def __init__(self, result):
        from vloc_ros.datasets.bag.transform_tree import TransformTree
        from vloc_ros.messages import frame_id

        self.tree = TransformTree()
        with BagReader(result.bag_path) as reader:
            for item in reader.messages(["/tf", "/tf_static"]):
                for t in item.message.transforms:
                    if item.topic == "/tf_static":
                        self.tree.add_static(frame_id(t), t.child_frame_id, transform(t))
                    else:
                        self.tree.add(frame_id(t), t.child_frame_id, stamp_ns(t), transform(t))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_trajectory_is_evo_readable_tum_of_the_base(result):
    rows = np.loadtxt(result.report_path.parent / "trajectory.tum")
    assert rows.shape == (38, 8)
    np.testing.assert_allclose(np.linalg.norm(rows[:, 4:], axis=1), 1.0, atol=1e-8)
    published = [r for r in result.records if r.published]
    np.testing.assert_allclose(rows[:, 1:4], [r.T_map_base[:3, 3] for r in published], atol=1e-8)
    text = (result.report_path.parent / "trajectory.tum").read_text().split()[0]
    assert text == f"{published[0].stamp_ns // 10**9}.{published[0].stamp_ns % 10**9:09d}"


def test_plots_are_written(result):
    names = {p.name for p in (result.report_path.parent / "plots").iterdir()}
    assert names == {"trajectory.png", "errors.png", "nees.png", "recall.png", "stages.png", "candidates.png"}
    assert all(f"plots/{n}" in (result.report_path.parent / "report.md").read_text() for n in names)


def test_replay_repeats_exactly(drive_bag, bundle, knowing, make_drive, tmp_path):
    texts = []
    for name in ("a", "b"):
        replay(drive_bag, bundle.path, tmp_path / name, localizer=knowing(bundle, make_drive()), plots=False)
        texts.append((tmp_path / name / "trajectory.tum").read_text())
    assert texts[0] == texts[1] != ""


def test_silence_while_lost_counts_as_infinite_error(drive_bag, bundle, knowing, make_drive, tmp_path):
    sequence = make_drive()
    lost = sequence.stamps_ns[10:34].tolist()
    out = replay(drive_bag, bundle.path, tmp_path / "out", localizer=knowing(bundle, sequence, lost), plots=False)
    assert out.report["lost"] > 0
    assert np.isinf(out.report["median_translation_m"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["median_translation_m"] is None
    silent = [r for r in out.records if r.state.value == "LOST"]
    assert silent and not any(r.published for r in silent)
    # The bag is as silent: odometry goes on, but nothing connects it with the map.
    stamps = {r.stamp_ns for r in silent}
    assert stamps <= {s for s, _, _ in transforms_of(out.bag_path) if s}
    assert not stamps & {s for s, parent, _ in transforms_of(out.bag_path) if parent == "map"}
    with BagReader(out.bag_path) as reader:
        assert not stamps & {stamp_ns(m.message) for m in reader.messages(["/vloc/pose"])}


@pytest.mark.parametrize("publish_degraded", [True, False])
def test_degraded_poses_are_written_as_the_setting_says(
    drive_bag, bundle, knowing, make_drive, tmp_path, publish_degraded
):
    sequence = make_drive()
    weak = set(sequence.stamps_ns[20:25].tolist())
    localizer = knowing(bundle, sequence)
    localize = localizer.localize

    def weakened(query, keep_candidates=False):
        estimate = localize(query, keep_candidates)
        return estimate.with_state(LocalizationState.DEGRADED) if query.stamp_ns in weak else estimate

    localizer.localize = weakened
    out = replay(
        drive_bag, bundle.path, tmp_path / "out", localizer=localizer, plots=False,
        pipeline_settings=PipelineSettings(publish_degraded=publish_degraded),
    )  # fmt: skip
    assert {r.stamp_ns for r in out.records if r.state is LocalizationState.DEGRADED} == weak
    with BagReader(out.bag_path) as reader:
        posed = {stamp_ns(m.message) for m in reader.messages(["/vloc/pose"])}
    placed = {s for s, parent, _ in transforms_of(out.bag_path) if parent == "map"}
    assert (weak <= posed, weak <= placed) == (publish_degraded, publish_degraded)
    assert bool(weak & posed) == bool(weak & placed) == publish_degraded


def transforms_of(bag):
    """(stamp, parent, child) of everything on /tf."""
    with BagReader(bag) as reader:
        return [
            (stamp_ns(item), item.header.frame_id, item.child_frame_id)
            for message in reader.messages(["/tf"])
            for item in message.message.transforms
        ]


def test_without_truth_everything_is_written_and_the_result_says_so(bundle, knowing, make_drive, drive_bag, tmp_path):
    without = tmp_path / "no_truth"
    copy_without(drive_bag, without, "/reference/pose")
    out = replay(without, bundle.path, tmp_path / "out", localizer=knowing(bundle, make_drive()))
    assert out.report["published"] == 38 and out.report["frames_with_reference"] == 0
    assert (tmp_path / "out" / "plots" / "trajectory.png").exists()
    with pytest.raises(BagError, match=r"images but no truth.*38 of 40 frames"):
        out.raise_problem()
    intended = replay(
        without,
        bundle.path,
        tmp_path / "out",
        BagOptions(truth="none"),
        localizer=knowing(bundle, make_drive()),
        plots=False,
    )
    intended.raise_problem()


def test_without_images_nothing_can_be_done(bundle, knowing, make_drive, drive_bag, tmp_path):
    copy_without(drive_bag, tmp_path / "no_images", "/camera/image")
    with pytest.raises(BagError, match="no images"):
        replay(tmp_path / "no_images", bundle.path, tmp_path / "out", localizer=knowing(bundle, make_drive()))


def test_without_odometry_tf_is_map_to_base(bundle, knowing, make_drive, tmp_path):
    from dataclasses import replace

    sequence = replace(make_drive(), T_odom_base=None)
    bag = write_sequence(sequence, tmp_path / "bag")
    out = replay(bag, bundle.path, tmp_path / "out", localizer=knowing(bundle, sequence), plots=False)
    assert out.report["published"] >= 37
    with BagReader(out.bag_path) as reader:
        edges = {(t.header.frame_id, t.child_frame_id) for m in reader.messages(["/tf"]) for t in m.message.transforms}
    assert edges == {("map", "base_link")}


def test_unfinished_bag_is_localized_as_far_as_it_goes(bundle, knowing, make_drive, drive_bag, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    data = (drive_bag / "drive.mcap").read_bytes()
    (broken / "drive.mcap").write_bytes(data[: int(0.6 * len(data))])
    out = replay(broken, bundle.path, tmp_path / "out", localizer=knowing(bundle, make_drive()), plots=False)
    assert 10 < out.report["frames"] < 40
    assert out.report["published"] == out.report["frames"] - 2
    with pytest.raises(BagError, match=r"unfinished.*frames were localized"):
        out.raise_problem()
    with BagReader(out.bag_path) as reader:
        assert reader.problem is None


def test_black_image_is_refused_and_counted(bundle, knowing, make_drive, tmp_path):
    sequence = make_drive(black=20)
    bag = write_sequence(sequence, tmp_path / "bag")
    out = replay(bag, bundle.path, tmp_path / "out", localizer=knowing(bundle, sequence), plots=False)
    assert out.report["refused"] == {"blank_image": 1}
    assert not out.records[20].published and out.records[20].T_reference is not None
    with BagReader(out.bag_path) as reader:
        stamps = {stamp_ns(m.message) for m in reader.messages(["/vloc/pose"])}
    assert int(sequence.stamps_ns[20]) not in stamps


def test_frames_slice(bundle, knowing, make_drive, drive_bag, tmp_path):
    out = replay(
        drive_bag, bundle.path, tmp_path / "out", localizer=knowing(bundle, make_drive()), frames="10:30:2", plots=False
    )
    assert out.report["frames"] == 10


def test_sqlite_result(bundle, knowing, make_drive, drive_bag, tmp_path):
    out = replay(
        drive_bag,
        bundle.path,
        tmp_path / "out",
        localizer=knowing(bundle, make_drive()),
        storage="sqlite3",
        plots=False,
    )
    assert [p.suffix for p in sorted(out.bag_path.iterdir())] == [".yaml", ".db3"] or (
        out.bag_path / "result.db3"
    ).exists()


def test_satellite_fixes_are_told_in_the_frame_of_the_map():
    from types import SimpleNamespace

    from vloc_ros.geometry.geodesy import Datum
    from vloc_ros.replay.runner import _at_datum

    def bundle(datum):
        return SimpleNamespace(manifest=SimpleNamespace(scenes=[SimpleNamespace(datum=datum)]))

    assert _at_datum(BagOptions(), bundle(Datum(48.0, 11.0, 500.0))).datum == (48.0, 11.0, 500.0)
    assert _at_datum(BagOptions(datum=(1.0, 2.0, 3.0)), bundle(Datum(48.0, 11.0, 500.0))).datum == (1.0, 2.0, 3.0)
    assert _at_datum(BagOptions(), bundle(None)).datum is None
