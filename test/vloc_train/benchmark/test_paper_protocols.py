"""The protocols of the papers: structure, settings, figures that agree with each other, and whole runs in miniature."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_datasets
import yaml

from vloc_ros.datasets.formats import FORMATS
from vloc_ros.errors import DatasetError
from vloc_ros.evaluation.submission import read_submission
from vloc_ros.localizers import base as registry
from vloc_ros.localizers.camnet.settings import InferenceSettings
from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
from vloc_ros.settings import settings_from_mapping
from vloc_train.benchmark.drives import Drives
from vloc_train.benchmark.maps import Steps
from vloc_train.benchmark.papers import PaperRow, ranks
from vloc_train.benchmark.protocol import built_in, load, parse, protocol_text
from vloc_train.benchmark.runner import evaluate_protocol
from vloc_train.benchmark.table import write_table
from vloc_train.training import registry as trainers
from vloc_train.training.run import RunOptions

PAPERS = [name for name in built_in() if name.split("_")[0] in ("imposing", "irpnet", "camnet", "copr")] + [
    "pixloc_7scenes", "pixloc_cambridge", "pixloc_robotcar_seasons",
]  # fmt: skip
OPTIONS = RunOptions(device="cpu", progress=False)


def printed(protocol):
    """Every row with figures of a paper: those made here, then those of the paper alone."""
    own = {}
    for row in protocol.rows:
        if row.paper is not None:
            own.setdefault((row.method, row.paper.table), {}).update(row.paper.figures)
    rows = [PaperRow(method, table, figures) for (method, table), figures in own.items()]
    return [*rows, *protocol.published]


@pytest.mark.parametrize("name", built_in())
def test_every_step_and_source_of_a_shipped_protocol_has_settings_that_exist(name, tmp_path):
    protocol = load(name)
    steps = Steps(protocol, Drives(protocol.data, tmp_path, tmp_path), tmp_path, OPTIONS)
    for step in protocol.steps:
        steps.settings(step)
    for key, drive in protocol.data.items():
        if drive.source is not None and drive.source.format in FORMATS:
            reader = FORMATS[drive.source.format].reader()
            settings_from_mapping(reader.Options, drive.source.options, f"{name}: {key}")
            assert not drive.source.queries or hasattr(reader, "queries")
    for row in protocol.rows:
        backend = protocol.steps[row.map].build
        if backend in ("retrieval", "camnet"):
            settings = RetrievalSettings if backend == "retrieval" else InferenceSettings
            settings_from_mapping(settings, row.settings, f"{name}: {row.method}")


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_protocol_names_its_tables_and_what_they_leave_open(name):
    protocol = load(name)
    paper = {"imposing": "ImPosing", "irpnet": "IRPNet", "camnet": "CamNet", "pixloc": "PixLoc", "copr": "CoPR"}
    tables = {row.table for row in printed(protocol)}
    assert protocol.not_stated and all(table.startswith(paper[name.split("_")[0]]) for table in tables)
    assert tables or any("figures" in text for text in protocol.not_covered)
    # Every split has a baseline that needs nothing but the data.
    made = protocol.order(next(row.map for row in protocol.rows if row.method == protocol.baseline))
    assert all(protocol.steps[step].existing is None for step in made)


@pytest.mark.parametrize("name", PAPERS)
def test_printed_averages_are_those_of_the_printed_columns(name):
    """Catches most slips of transcription; papers round, and IRPNet's Table II is off by 0.05 degrees."""
    protocol = load(name)
    checked = 0
    for average, given in protocol.averages.items():
        for row in printed(protocol):
            for kind in ("median", "mean"):
                columns = [getattr(row.figures[s], kind) for s in given.over if s in row.figures]
                whole = getattr(row.figures.get(average), kind, None)
                if whole is None or len(columns) < len(given.over) or None in columns:
                    continue
                for value, others in zip(whole, zip(*columns, strict=True), strict=True):
                    assert value == pytest.approx(np.mean(others), rel=0.03, abs=0.011), (row.method, average, kind)
                    checked += 1
    # Of the Loop only the average is printed, of PixLoc only the columns.
    assert checked or not protocol.averages or "loop" in protocol.averages or "pixloc" in name


@pytest.mark.parametrize(("name", "slips"), [("irpnet_cambridge", 0), ("irpnet_7scenes", 5)])
def test_printed_ranks_follow_from_the_printed_medians(name, slips):
    """Tables III and V from Tables II and IV: all but five of other methods in Kitchen and Stairs."""
    protocol = load(name)
    rows = [row for row in printed(protocol) if any(f.rank for f in row.figures.values())]
    wrong = []
    for split in protocol.splits:
        for what in (0, 1):
            found = ranks([row.figures[split].median[what] for row in rows])
            wrong += [
                (split, row.method) for row, rank in zip(rows, found, strict=True)
                if rank != row.figures[split].rank[what]
            ]  # fmt: skip
    assert len(wrong) == slips and not [method for _, method in wrong if method == "IRPNet"]


def test_what_is_missing_is_said_before_anything_is_computed(tmp_path):
    protocol = load("imposing_robotcar_loop")
    (tmp_path / "data" / "2014-06-26-08-53-56").mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS)
    text = str(caught.value)
    assert "expected data in 4 folders, found nothing at 3 of them" in text
    assert str(tmp_path / "data" / "2014-06-23-15-41-25") in text and "2014-06-26-08-53-56" not in text
    assert "https://robotcar-dataset.robots.ox.ac.uk" in text
    assert not (tmp_path / "cache").exists() and not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="expected --root, the folder that holds 2014-06-23-15-36-04, 2014-"):
        evaluate_protocol(protocol, None, tmp_path / "cache", tmp_path / "out", OPTIONS)
    with pytest.raises(DatasetError, match="found nothing at 2 of them"):
        evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS, ["loop_1/*"])


def reduced(name, scenes=None):
    """A shipped protocol with its data, splits, rows and figures, and steps that need no training."""
    loaded = yaml.safe_load(protocol_text(name))
    for step in loaded["steps"].values():
        data = ["$map"] if step.get("densify") else step.get("data", ["$map"])
        data = ["$map"] if isinstance(data, dict) else data
        step.clear()
        step.update({"build": "thumbnails", "data": data})
    for row in loaded["rows"]:
        row.pop("settings", None)
    loaded.pop("claims", None)
    loaded["untrained"] = []
    if scenes:
        loaded["splits"] = {key: value for key, value in loaded["splits"].items() if key in scenes}
        loaded["averages"] = {}
        for row in loaded["rows"]:
            row["splits"] = [s for s in row["splits"] if s in scenes]
        loaded["rows"] = [row for row in loaded["rows"] if row["splits"]]
        for row in (*(r["paper"] for r in loaded["rows"] if "paper" in r), *loaded["published"]):
            row["figures"] = {key: value for key, value in row["figures"].items() if key in scenes}
        names = {s.split("[")[0].split("#")[0] for v in loaded["splits"].values() for s in (*v["map"], *v["query"])}
        loaded["data"] = {key: value for key, value in loaded["data"].items() if key in names}
    return parse(yaml.safe_dump({k: v for k, v in loaded.items() if not k.startswith(".")}, sort_keys=False), name)


def seven_scenes(root):
    tiny_datasets.write_seven_scenes(root, ["chess", "heads"])


def cambridge(root):
    tiny_datasets.write_cambridge(root, ["KingsCollege", "ShopFacade"])


def robotcar(root):
    drives = ("2014-06-26-08-53-56", "2014-06-26-09-24-58", "2014-06-23-15-36-04", "2014-06-23-15-41-25")
    tiny_datasets.write_robotcar(root, drives)


def robotcar_full(root):
    tiny_datasets.write_robotcar(root, ("2014-11-28-12-07-13", "2014-12-02-15-30-08", "2014-12-09-13-21-02"))


def robotcar_seasons(root):
    others = ("dawn", "dusk", "night", "night-rain", "overcast-summer", "overcast-winter", "rain", "snow", "sun")
    tiny_datasets.write_robotcar_seasons(root / "RobotCar-Seasons", others)


def fourseasons(root):
    protocol = load("imposing_4seasons")
    names = [drive.path for key, drive in protocol.data.items() if key.startswith(("business", "city"))]
    tiny_datasets.write_fourseasons(root, names)


def apolloscape(root):
    tiny_datasets.write_apolloscape(root, ["Road11", "Road12"])


#: Protocols with what writes their data in miniature, and the splits to keep. Further readers: one line each.
RUNS = [
    ("imposing_robotcar_loop", robotcar, None),
    ("imposing_robotcar_full", robotcar_full, None),
    ("camnet_robotcar", robotcar, None),
    ("pixloc_robotcar_seasons", robotcar_seasons, None),
    ("irpnet_cambridge", cambridge, ("kings", "shop")),
    ("pixloc_cambridge", cambridge, ("kings", "shop")),
    ("irpnet_7scenes", seven_scenes, ("chess", "heads")),
    ("camnet_7scenes", seven_scenes, ("chess", "heads")),
    ("pixloc_7scenes", seven_scenes, ("chess", "heads")),
    ("copr_7scenes_extrapolation", seven_scenes, ("chess", "heads")),
    ("imposing_4seasons", fourseasons, ("business_campus", "city_loop")),
    ("camnet_apolloscape", apolloscape, None),
]
RUNS = [run for run in RUNS if next(iter(load(run[0]).data.values())).source.format in FORMATS]


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "thumbnails", "thumbnails:Thumbnails")
    for table in (trainers.TRAINERS, trainers.BUILDERS):
        monkeypatch.setitem(table, "thumbnails", "thumbnails:TRAINER")


@pytest.mark.parametrize(("name", "write", "scenes"), RUNS, ids=[run[0] for run in RUNS])
def test_a_papers_protocol_runs_on_its_data_set_in_miniature(name, write, scenes, backend, tmp_path):
    protocol = reduced(name, scenes)
    write(tmp_path / "data")
    table = evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS)
    assert not table.failed
    text = write_table(table, protocol, {}, tmp_path / "out", plots=False).read_text()
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    rows = {(row["split"], row["method"]): row for row in content["rows"]}
    for split, row in protocol.table():
        counted = rows[split, row.method]
        known = protocol.splits[split].submission is False
        assert (counted["localizer_median_translation_m"] is not None) == known
        assert counted["oracle_median_translation_m"] is None or counted["oracle_median_translation_m"] < 12.0
        if row.paper is not None and split in row.paper.figures:
            assert counted["paper"]["table"] == row.paper.table
    assert {row["average"] for row in content["averages"]} == set(protocol.averages)
    assert content["not_stated"] == list(protocol.not_stated) and "## Not stated in the paper: our choice" in text
    assert "paper: " in text or not protocol.published


def test_figures_of_the_paper_stand_beside_ours(backend, tmp_path):
    protocol = reduced("imposing_robotcar_loop")
    robotcar(tmp_path / "data")
    table = evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS)
    text = write_table(table, protocol, {}, tmp_path / "out", plots=False).read_text()
    section = text[text.index("## loop: average over loop_1, loop_2") :]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("| ")}
    assert "1.93 m 1° | 3.03 m 1.8° | ImPosing Table 1" in lines["ImPosing"]
    assert "5.36 m 2.1° | 8.73 m 4.6° | ImPosing Table 1" in lines["AtLoc"]
    (average,) = [row for row in table.averages if row["method"] == "ImPosing"]
    rows = [r["localizer_median_translation_m"] for r in table.rows if r["method"] == "ImPosing"]
    assert average["localizer_median_translation_m"] == pytest.approx(np.mean(rows)) and len(rows) == 2


def test_submissions_are_in_the_world_of_the_data_set(backend, tmp_path):
    """The answers are poses of map images, which the data set's own model has in its own world."""
    protocol = reduced("pixloc_robotcar_seasons")
    robotcar_seasons(tmp_path / "data")
    evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS)
    names, T_world_cam = read_submission(tmp_path / "out" / "submissions" / "PixLoc.txt")
    asked = (tmp_path / "data" / "RobotCar-Seasons" / "robotcar_v2_test.txt").read_text().split()
    assert sorted(names) == sorted("/".join(line.split("/")[1:]) for line in asked)
    known = np.linalg.inv(tiny_datasets.T_MAP_WORLD) @ tiny_datasets.poses(0)
    for T in T_world_cam:
        assert np.abs(known - T).max(axis=(1, 2)).min() < 2e-5  # maps hold float32


def test_interpolation_runs_with_its_own_networks(tmp_path):
    """CoPR's protocol with nothing replaced but sizes: its steps, and maps that no image leaves."""
    text = protocol_text("copr_7scenes_interpolation").replace("::50", "::2").replace("every: 50", "every: 2")
    loaded = yaml.safe_load(text)
    small = {"backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 24, 32], "stem_width": 8},
             "image_width": 32, "image_height": 24}  # fmt: skip
    steps = loaded["steps"]
    for name in ("encoder_distance", "h_distance"):
        steps[name]["data"] = {scene: [f"{scene}_query"] for scene in ("chess", "heads")}
    steps["encoder_distance"]["settings"] = {
        "epochs": 1, "pretrained": False, "extractor": small, "validate_every": 1, "sampling": {"batch_size": 4},
    }  # fmt: skip
    steps["h_distance"]["settings"] = {
        "epochs": 1, "regressor": {"layers": 1}, "validate_every": 1, "pairs": {"radius_m": 50.0},
    }  # fmt: skip
    for name in ("encoder_distance", "h_distance"):
        steps[name]["hold_out"] = "every:2"
    loaded |= {"averages": {}, "published": [], "splits": {s: loaded["splits"][s] for s in ("chess", "heads")}}
    loaded["untrained"] = []  # pictures of noise, in which nothing is seen twice
    for row in loaded["rows"]:
        row["splits"] = ["chess", "heads"]
        row.pop("paper")
    loaded["data"] = {k: v for k, v in loaded["data"].items() if k.split("_")[0] in ("chess", "heads")}
    protocol = parse(yaml.safe_dump({k: v for k, v in loaded.items() if not k.startswith(".")}), "here")
    seven_scenes(tmp_path / "data")
    table = evaluate_protocol(protocol, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS)
    assert not table.failed
    rows = {row["method"]: row for row in table.rows if row["split"] == "heads"}
    assert rows["dense map of images"]["descriptors"] == 6 and rows["sparse map"]["descriptors"] == 3
    assert rows["CoPR (linear interpolation)"]["regressed_share"] > 0
    refused = {**loaded, "steps": {**steps, "encoder_distance": {**steps["encoder_distance"], "sees_queries": False}}}
    refused = parse(yaml.safe_dump({k: v for k, v in refused.items() if not k.startswith(".")}), "here")
    again = evaluate_protocol(refused, tmp_path / "data", tmp_path / "cache", tmp_path / "out", OPTIONS, ["heads/*"])
    assert again.failed and "expected frames that are no queries" in again.failed[0]["problem"]
