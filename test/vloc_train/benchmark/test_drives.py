"""Data sets as drives of a protocol: several drives of one source, numbered or all together; maps that exist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import thumbnails
import tiny_datasets

from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.localizers import base as registry
from vloc_train.benchmark.data import Drive, Selection, SourceDrive
from vloc_train.benchmark.drives import Drives, check_datum, overlap
from vloc_train.benchmark.protocol import Protocol, Row, Step
from vloc_train.benchmark.runner import evaluate_protocol
from vloc_train.benchmark.splits import Split
from vloc_train.training import registry as trainers
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets")
    tiny_datasets.write_seven_scenes(out, ["chess"])
    tiny_datasets.write_tum(out / "desk", tiny_datasets.poses(0))
    tiny_datasets.write_kitti(out / "street", tiny_datasets.poses(1))
    return out


def drives(root, tmp_path, **sources):
    return Drives({name: Drive(source=SourceDrive(**s)) for name, s in sources.items()}, root, tmp_path)


def picked(parts):
    return [(part.name, part.rows.tolist()) for part in parts]


def test_the_drives_of_a_source_stand_together_or_alone(root, tmp_path):
    opened = drives(root, tmp_path, chess={"path": "chess", "options": {"depth": "none"}})
    parse = lambda text: Selection.parse(text, "here")  # noqa: E731
    assert picked(opened.parts(parse("chess"))) == [("chess#0", list(range(6))), ("chess#1", list(range(6)))]
    assert picked(opened.parts(parse("chess#1"))) == [("chess#1", list(range(6)))]
    assert picked(opened.parts(parse("chess#1[::4]"))) == [("chess#1", [0, 4])]
    # A slice counts through all of them.
    assert picked(opened.parts(parse("chess[::4]"))) == [("chess#0", [0, 4]), ("chess#1", [2])]
    assert picked(opened.parts(parse("chess[8:10]"))) == [("chess#1", [2, 3])]
    assert str(parse("chess#1[::4]")) == "chess#1[::4]"
    with pytest.raises(ConfigError, match="chess#2: expected one of the 2 drives of chess"):
        opened.parts(parse("chess#2"))
    with pytest.raises(ConfigError, match="expected frames of one drive, found 2"):
        opened.part(parse("chess"))
    with pytest.raises(ConfigError, match=r"expected \$map without a number"):
        parse("$map#1")
    one = opened.part(parse("chess#1"))
    np.testing.assert_allclose(np.diff(one.sequence.stamps_ns), 1e9 / 30, atol=1)


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ({"path": "desk", "format": "tum", "options": {"intrinsics": [10.0, 10.0, 7.5, 5.5]}}, 0),
        ({"path": "street", "options": {"images": "images", "intrinsics": [10.0, 10.0, 7.5, 5.5], "world": "z_up"}}, 1),
    ],
)
def test_any_layout_is_a_drive(source, number, root, tmp_path):
    part = drives(root, tmp_path, a=source).part(Selection("a"))
    assert part.name == "a" and len(part) in (5, 6)
    np.testing.assert_allclose(part.sequence.T_map_cam, tiny_datasets.poses(number)[: len(part)], atol=1e-9, rtol=0)
    grey = drives(root, tmp_path, a={**source, "grey": True}).part(Selection("a"))
    assert (np.ptp(grey.sequence.image(0), axis=2) == 0).all() and grey.digest != part.digest


def test_maps_are_made_anew_where_depth_is_from_elsewhere_and_frames_stay_the_same(root, tmp_path):
    """Options that leave the images alone change what is learned from them, not which frames they are."""
    chess = {"path": "chess", "format": "seven_scenes"}
    opened = drives(
        root, tmp_path,
        a={**chess, "options": {"depth_offset": [0.0, 0.0, 0.0]}},
        b={**chess, "options": {"depth_offset": [0.02, 0.0, 0.0]}},
    )  # fmt: skip
    a, again, b = (opened.part(Selection(name, drive=0)) for name in ("a", "a", "b"))
    assert a.digest == again.digest != b.digest
    assert overlap([a], [b]) == "a#0"


def test_what_cannot_be_opened_is_named(root, tmp_path):
    for source, message in (
        ({"path": "chess", "format": "nothing"}, r"data\.a: format: expected one of bag, .*found 'nothing'"),
        ({"path": "../chess"}, r"data\.a: expected a path below --root, found '\.\./chess'"),
        ({"path": "chess", "options": {"wrong": 1}}, "seven_scenes:.*unknown field 'wrong'"),
        ({"path": "chess", "queries": True}, r"data\.a: queries: expected a layout with queries"),
    ):
        with pytest.raises((ConfigError, DatasetError), match=message):
            drives(root, tmp_path, a=source).parts(Selection("a"))


def test_drives_that_go_together_have_one_datum(root, tmp_path):
    opened = drives(root, tmp_path, chess={"path": "chess"})
    parts = opened.parts(Selection("chess"))
    check_datum(parts, "here")
    here, there = (
        replace(part, sequence=replace(part.sequence, datum=Datum(51.0, k, 100.0))) for k, part in enumerate(parts)
    )
    with pytest.raises(ConfigError, match=r"split a: expected drives with one datum.*option datum"):
        check_datum([here, there], "split a")


def test_a_map_that_exists_serves_and_its_absence_costs_its_rows(root, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "thumbnails", "thumbnails:Thumbnails")
    monkeypatch.setitem(trainers.BUILDERS, "thumbnails", "thumbnails:TRAINER")
    source = {"path": "chess", "format": "seven_scenes", "options": {"depth": "none"}}
    protocol = Protocol(
        name="tiny",
        data={"chess": Drive(source=SourceDrive(**source))},
        splits={"chess": Split(("chess#0",), ("chess#1",))},
        steps={
            "built": Step(build="thumbnails", data=["$map"]),
            "given": Step(existing="maps/given", get="ask for it"),
        },
        rows=(Row("built", "built", ("chess",)), Row("given", "given", ("chess",))),
        baseline="built",
    )
    table = evaluate_protocol(protocol, root, tmp_path / "cache", tmp_path / "out", OPTIONS)
    assert [f["method"] for f in table.failed] == ["given"]
    assert table.failed[0]["problem"].endswith("maps/given, found nothing; ask for it")
    drive = drives(root, tmp_path, chess=source).part(Selection("chess", drive=0)).frames()
    (root / "maps").mkdir()
    settings = thumbnails.Settings()
    thumbnails.TRAINER.run({"map": [drive]}, root / "maps" / "given", settings, OPTIONS)
    again = evaluate_protocol(protocol, root, tmp_path / "cache", tmp_path / "out", OPTIONS)
    assert not again.failed
    ours, given = (r["localizer_median_translation_m"] for r in again.rows if r["method"] in ("built", "given"))
    assert ours == given > 0


def test_drives_at_the_same_moments_have_trajectories_of_their_own(tmp_path):
    from vloc_ros.evaluation.metrics import FrameRecord
    from vloc_ros.types import LocalizationState
    from vloc_train.benchmark.score import write_trajectories

    def frames(stamps):
        pose = np.eye(4)
        return [FrameRecord(s, LocalizationState.LOCALIZED, T_reference=pose, T_estimated=pose) for s in stamps]

    write_trajectories(tmp_path, "s", "m", {"a#0": frames([1, 2]), "a#1": frames([3])})
    write_trajectories(tmp_path, "t", "m", {"a#0": frames([1, 2]), "a#1": frames([2])})
    assert len((tmp_path / "trajectories/s/m.tum").read_text().splitlines()) == 3
    assert sorted(p.name for p in (tmp_path / "trajectories/t").iterdir()) == [
        "m.a_0.tum", "m.a_1.tum", "reference.a_0.tum", "reference.a_1.tum",
    ]  # fmt: skip
