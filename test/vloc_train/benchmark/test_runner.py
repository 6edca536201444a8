"""Whole protocols on a tiny town, with a backend that needs no training: tables, caches, claims, failures."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import thumbnails
import yaml

from vloc_ros.errors import ConfigError, TrainingError, VlocError
from vloc_ros.localizers import base as registry
from vloc_ros.settings import settings_to_mapping
from vloc_train.benchmark import maps as maps_module
from vloc_train.benchmark import runner
from vloc_train.benchmark.command import evaluate
from vloc_train.benchmark.protocol import parse
from vloc_train.benchmark.runner import evaluate_protocol
from vloc_train.benchmark.table import write_table
from vloc_train.training import registry as trainers
from vloc_train.training.run import RunOptions

TOWN = {"seed": 4, "loop_m": 120.0, "width": 48, "height": 27, "spacing_m": 4.0, "light": "noon"}
PROTOCOL = {
    "name": "tiny",
    "title": "A tiny town",
    "baseline": "nearest",
    "untrained": [],
    "data": {
        "map": {"town": {**TOWN, "index": 0, "lane_offset_m": 1.75}},
        "query": {"town": {**TOWN, "index": 1, "lane_offset_m": 0.5}},
        "train": {"town": {**TOWN, "index": 2}},
    },
    "splits": {
        "full": {"map": ["map"], "query": ["query"], "about": "All frames."},
        "sparse": {"map": ["map[::5]"], "query": ["query"]},
        "folds": {"map": ["map"], "query": ["query"], "folds": 3},
    },
    "steps": {
        "trained": {"train": "thumbnails", "data": ["train"]},
        "mapped": {"build": "thumbnails", "data": ["$map"], "extractor": "trained"},
        "full_map": {"build": "thumbnails", "data": ["map"]},
    },
    "rows": [
        {"method": "nearest", "map": "mapped", "splits": ["full", "sparse", "folds"]},
        {"method": "farthest", "map": "mapped", "splits": ["full"], "settings": {"last": True}},
        {"method": "silent", "map": "mapped", "splits": ["full"], "settings": {"lost": True}},
        {"method": "undensified", "map": "full_map", "splits": ["sparse"]},
    ],
    "claims": [
        {"text": "nearest beats farthest", "split": "full", "method": "nearest", "against": "farthest", "factor": 0.5},
        {"text": "nearest is good to a millimetre", "split": "full", "method": "nearest", "at_most": 0.001},
        {"text": "no better than the oracle", "split": "full", "method": "oracle", "against": "nearest"},
    ],
}
OPTIONS = RunOptions(device="cpu", progress=False)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "thumbnails", "thumbnails:Thumbnails")
    for table in (trainers.TRAINERS, trainers.BUILDERS):
        monkeypatch.setitem(table, "thumbnails", "thumbnails:TRAINER")
    thumbnails.MADE.out.clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Drives that all tests of this file share; maps and answers are each test's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fresh(cache, tmp_path):
    """A cache with drives and nothing else."""
    if (cache / "drives").exists():
        shutil.copytree(cache / "drives", tmp_path / "cache" / "drives")
    yield tmp_path / "cache"
    if not (cache / "drives").exists() and (tmp_path / "cache" / "drives").exists():
        shutil.copytree(tmp_path / "cache" / "drives", cache / "drives")


def protocol(**changes):
    out = copy.deepcopy(PROTOCOL)
    out.update(changes)
    return parse(yaml.safe_dump(out, sort_keys=False), "here")


def run(made, cache, out, only=()):
    return evaluate_protocol(made, None, cache, out, OPTIONS, only)


def rows_of(made):
    """The rows of a protocol as its file has them."""
    return [settings_to_mapping(row) for row in made.rows]


def plain(rows):
    """Rows as text: two NaN are equal."""
    return json.dumps(rows)


def by_name(table):
    return {(row["split"], row["method"]): row for row in table.rows}


def test_a_table_with_oracle_and_baseline_beside_every_row(fresh, tmp_path):
    table = run(protocol(), fresh, tmp_path / "out")
    rows = by_name(table)
    assert not table.failed
    assert {s for s, m in rows if m == "oracle"} == {"full", "sparse", "folds"}
    for (split, method), row in rows.items():
        assert row["frames"] == 30
        assert row["baseline_median_translation_m"] == rows[split, "nearest"]["localizer_median_translation_m"]
        assert method == "oracle" or row["oracle_median_translation_m"] <= row["localizer_median_translation_m"] + 1e-9
    nearest, farthest = rows["full", "nearest"], rows["full", "farthest"]
    assert nearest["localizer_median_translation_m"] < farthest["localizer_median_translation_m"]
    change = farthest["localizer_median_translation_m"] / nearest["localizer_median_translation_m"] - 1
    assert farthest["change_median_translation_m"] == pytest.approx(change)
    assert "change_median_translation_m" not in nearest
    assert rows["full", "nearest"]["descriptors"] == 30 and rows["sparse", "nearest"]["descriptors"] == 6
    assert rows["sparse", "undensified"]["descriptors"] == 30
    # The oracle of a row is of its own map, that of the split of the split's images.
    sparse = rows["sparse", "oracle"]["localizer_median_translation_m"]
    assert rows["sparse", "nearest"]["oracle_median_translation_m"] == pytest.approx(sparse, abs=1e-4)  # float32 poses
    assert rows["sparse", "undensified"]["oracle_median_translation_m"] < sparse


def test_silence_counts_as_an_infinite_error_when_published_and_not_for_the_localizer(fresh, tmp_path):
    rows = by_name(run(protocol(), fresh, tmp_path / "out", ["silent"]))
    silent, nearest = rows["full", "silent"], rows["full", "nearest"]
    assert silent["lost"] == 6 and silent["states"]["LOST"] == pytest.approx(0.2)
    assert silent["mean_over"] == 24 and silent["localizer_mean_over"] == 30
    assert silent["localizer_recall"] == nearest["localizer_recall"]
    assert silent["recall"][-1]["share"] < silent["localizer_recall"][-1]["share"]
    assert ("full", "farthest") not in rows  # neither asked for nor compared with


def test_nothing_is_made_twice_and_only_what_changed_again(fresh, tmp_path, monkeypatch):
    first = run(protocol(), fresh, tmp_path / "a")
    made = list(thumbnails.MADE.out)
    # One map of all frames, one of every fifth, one without an ancestor; three folds with equal maps are one map.
    assert sorted(made) == ["full_map", "mapped", "mapped", "trained"]
    asked = []
    real = runner.answer
    monkeypatch.setattr(runner, "answer", lambda localizer, queries: asked.append(1) or real(localizer, queries))
    again = run(protocol(), fresh, tmp_path / "b")
    assert thumbnails.MADE.out == made and not asked
    assert plain(again.rows) == plain(first.rows)
    other = copy.deepcopy(PROTOCOL["steps"])
    other["full_map"]["settings"] = {"size": 5}
    changed = run(protocol(steps=other), fresh, tmp_path / "c")
    assert thumbnails.MADE.out == [*made, "full_map"] and len(asked) == 1
    assert plain(by_name(changed)["full", "nearest"]) == plain(by_name(first)["full", "nearest"])


def test_two_runs_of_a_seed_write_the_same_table(fresh, tmp_path):
    texts = []
    for name in ("a", "b"):
        shutil.rmtree(fresh / "maps", ignore_errors=True)
        shutil.rmtree(fresh / "answers", ignore_errors=True)
        table = run(protocol(), fresh, tmp_path / name)
        write_table(table, protocol(), {"seed": 0}, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.suffix in (".json", ".md", ".tum"))
        texts.append({str(path.relative_to(tmp_path / name)): path.read_bytes()
                      for path in files if path.stem != "timings"})  # fmt: skip
    assert texts[0] == texts[1] and {"table.json", "table.md", "trajectories/full/nearest.tum"} <= set(texts[0])
    timings = json.loads((tmp_path / "a" / "timings.json").read_text())["rows"]
    assert all(t["train_seconds"] > 0 and t["ms_p50"] > 0 for t in timings)


def test_a_lost_step_is_made_again_from_its_parts(fresh, tmp_path):
    run(protocol(), fresh, tmp_path / "a")
    for note in (fresh / "maps").glob("mapped-*/made.json"):
        note.unlink()  # killed between the map and the note
    thumbnails.MADE.out.clear()
    table = run(protocol(), fresh, tmp_path / "b")
    assert thumbnails.MADE.out == ["mapped", "mapped"] and not table.failed


@pytest.mark.parametrize(("fail", "problem"), [("out of luck", "out of luck"), ("bug", "ZeroDivisionError: bug")])
def test_a_failing_step_costs_its_rows_alone(fresh, tmp_path, fail, problem):
    steps = {**copy.deepcopy(PROTOCOL["steps"]), "full_map": {"build": "thumbnails", "data": ["map"],
             "settings": {"fail": fail}}}  # fmt: skip
    table = run(protocol(steps=steps), fresh, tmp_path / "out")
    assert table.failed == [{"split": "sparse", "method": "undensified", "problem": problem}]
    assert ("full", "nearest") in by_name(table)
    text = write_table(table, protocol(steps=steps), {}, tmp_path / "out").read_text()
    assert f"sparse / undensified: {problem}" in text


def test_an_interruption_ends_everything(fresh, tmp_path):
    steps = copy.deepcopy(PROTOCOL["steps"])
    steps["trained"]["settings"] = {"fail": "interrupted; the same command continues"}
    with pytest.raises(TrainingError, match="interrupted"):
        run(protocol(steps=steps), fresh, tmp_path / "out")


def test_the_time_of_an_interrupted_step_counts(fresh, tmp_path, monkeypatch):
    clock = iter(range(0, 100000, 100))
    monkeypatch.setattr(maps_module.time, "perf_counter", lambda: float(next(clock)))
    made = thumbnails.TRAINER.run
    broken = [True]

    def run_once_broken(*arguments, **options):
        if broken.pop() if broken else False:
            raise TrainingError("interrupted; the same command continues")
        return made(*arguments, **options)

    monkeypatch.setattr(thumbnails.TRAINER, "run", run_once_broken)
    with pytest.raises(TrainingError, match="interrupted"):
        run(protocol(), fresh, tmp_path / "a", ["full/nearest"])
    table = run(protocol(), fresh, tmp_path / "b", ["full/nearest"])
    (timing,) = table.timings
    assert timing["map_seconds"] == 100 and timing["train_seconds"] == 300


def test_queries_are_never_learned_from(fresh, tmp_path):
    steps = copy.deepcopy(PROTOCOL["steps"])
    steps["trained"]["data"] = ["train", "query[3:4]"]
    table = run(protocol(steps=steps), fresh, tmp_path / "out", ["nearest"])
    assert len(table.failed) == 3
    assert "steps.trained: expected frames that are no queries, found some of query" in table.failed[0]["problem"]


def test_a_setting_can_be_another_steps_map(fresh, tmp_path):
    steps = copy.deepcopy(PROTOCOL["steps"])
    steps["full_map"]["maps"] = {"other": "trained"}
    assert not run(protocol(steps=steps), fresh, tmp_path / "out", ["undensified"]).failed
    assert thumbnails.MADE.out == ["trained", "mapped", "full_map"]
    steps["full_map"]["maps"] = {"nothing": "trained"}
    table = run(protocol(steps=steps), fresh, tmp_path / "out", ["undensified"])
    assert "steps.full_map.maps: thumbnails has no setting 'nothing'" in table.failed[0]["problem"]


def test_queries_are_told_what_the_split_or_the_row_says(fresh, tmp_path):
    told = {"offset_m": [1.0, 2.0], "offset_deg": [0.0, 5.0], "repeats": 2}
    splits = {"full": {**PROTOCOL["splits"]["full"], "prior": told}, "sparse": PROTOCOL["splits"]["sparse"]}
    near = {"reference": {"between_m": [6, 30]}}
    believing = {"map": "mapped", "settings": {"prior": True}}
    rows = [
        {"method": "nearest", "map": "mapped", "splits": ["full", "sparse"], "without_prior": True},
        {"method": "told", "splits": ["full"], "against": "prior", **believing},
        {"method": "nearby", "splits": ["sparse"], "prior": near, **believing},
    ]
    claims = [
        {"text": "no better", "split": "full", "method": "told", "against": "prior"},
        {"text": "some within", "split": "full", "method": "told", "figure": "localizer_recall_1.5m_5deg",
         "at_least": 0.2},
        {"text": "all within", "split": "full", "method": "told", "figure": "localizer_recall_1.5m_5deg",
         "at_least": 0.9},
    ]  # fmt: skip
    made = protocol(splits=splits, rows=rows, claims=claims, recall=[[1.5, 5.0]])
    table = run(made, fresh, tmp_path / "out")
    assert not table.failed
    rows = by_name(table)
    prior, alone, believer = (rows["full", name] for name in ("prior", "nearest", "told"))
    assert prior["frames"] == believer["frames"] == 60 and alone["frames"] == 30
    assert 1.0 <= prior["localizer_median_translation_m"] <= 2.0
    for figure in ("localizer_median_translation_m", "localizer_mean_rotation_deg", "localizer_recall"):
        assert believer[figure] == pytest.approx(prior[figure]) or believer[figure] == prior[figure]
    assert believer["prior_median_translation_m"] == prior["localizer_median_translation_m"]
    assert believer["change_median_translation_m"] == pytest.approx(0.0, abs=1e-9)
    assert "prior_median_translation_m" not in alone
    assert believer["nees_share_in_95"] > 0.8  # the covariance is that of the priors
    assert [claim["holds"] for claim in table.claims] == [True, True, False]
    # A prior of the row's own.
    assert 6.0 <= rows["sparse", "nearby"]["localizer_median_translation_m"] <= 30.0 and ("sparse", "prior") not in rows
    text = write_table(table, made, {}, tmp_path / "out", plots=False).read_text()
    assert "within 1.5 m 5°" in text and "uniformly 1 to 2 m and 0 to 5 degrees, 2 times each" in text
    assert "| nearest (no prior) |" in text and "| at least 0.9 | NO |" in text
    # Trajectories have every frame once, and nothing is asked twice.
    assert len((tmp_path / "out" / "trajectories" / "full" / "told.tum").read_text().splitlines()) == 30
    answers = sorted((fresh / "answers").iterdir())
    run(made, fresh, tmp_path / "again")
    assert sorted((fresh / "answers").iterdir()) == answers
    splits["full"]["prior"] = {**told, "seed": 5}
    made = protocol(splits=splits, rows=rows_of(made), claims=[], recall=[[1.5, 5.0]])
    other = by_name(run(made, fresh, tmp_path / "other"))
    assert plain(other["full", "prior"]) != plain(prior) and plain(other["full", "nearest"]) == plain(alone)


def test_a_prior_that_cannot_be_costs_its_row(fresh, tmp_path):
    far = {"reference": {"between_m": [900, 1000]}}
    rows = [PROTOCOL["rows"][0], {"method": "far", "map": "mapped", "splits": ["full"], "prior": far}]
    table = run(protocol(rows=rows, claims=[]), fresh, tmp_path / "out")
    assert [f["method"] for f in table.failed] == ["far"]
    assert "split full, row 'far': prior: expected map frames 900 to 1000 m" in table.failed[0]["problem"]


def test_distorted_images_are_rectified_unless_the_localizer_takes_them(fresh, tmp_path, monkeypatch):
    import tiny_street

    from vloc_train.benchmark.drives import Part
    from vloc_train.benchmark.score import Asked, answer

    seen = []
    drive = tiny_street.drive(2, tiny_street.LENS)

    class Camera:
        takes_distorted = False

        def check_camera(self, camera):
            seen.append(camera.is_distorted)

        def localize(self, query):
            seen.append((query.camera.is_distorted, bool((query.image_rgb == drive.image(0)).all())))
            raise ConfigError("seen enough")

    asked = Asked((Part("street", np.array([0]), drive, "d"),))
    for takes in (False, True):
        monkeypatch.setattr(Camera, "takes_distorted", takes)
        assert np.isnan(answer(Camera(), asked).T_map_cam).all()
    assert seen == [False, (False, False), True, (True, True)]


def test_claims_say_what_was_found(fresh, tmp_path):
    table = run(protocol(), fresh, tmp_path / "out")
    good, hard, oracle = table.claims
    assert good["holds"] is True and good["found"] <= good["limit"] == pytest.approx(0.5 * good["other"])
    assert hard["holds"] is False and hard["found"] > 0.001
    assert oracle["holds"] is True
    partly = run(protocol(), fresh, tmp_path / "partly", ["sparse/*"])
    assert [claim["holds"] for claim in partly.claims] == [None, None, None]


def test_the_page_shows_every_row_and_no_infinity(fresh, tmp_path):
    table = run(protocol(), fresh, tmp_path / "out")
    path = write_table(table, protocol(), {"seed": 0}, tmp_path / "out")
    text = path.read_text()
    for name in ("nearest", "farthest", "silent", "undensified", "oracle", "A tiny town", "in 3 folds", "| NO |"):
        assert name in text
    assert (tmp_path / "out" / "full.png").stat().st_size > 1000
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(content["rows"]) == 9 and content["baseline"] == "nearest"
    lines = (tmp_path / "out" / "trajectories" / "full" / "nearest.tum").read_text().splitlines()
    assert len(lines) == 30 and np.isfinite([float(v) for v in lines[0].split()]).all()


def test_the_command(fresh, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(PROTOCOL, sort_keys=False))
    common = {"device": "cpu", "cache": fresh, "root": None, "workers": 0, "plots": False, "progress": False}
    evaluate(str(file), tmp_path / "out", only="farthest, sparse/*", seed=3, **common)
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["seed"] == 3
    assert {(r["split"], r["method"]) for r in content["rows"]} == {
        ("full", "oracle"), ("full", "nearest"), ("full", "farthest"),
        ("sparse", "oracle"), ("sparse", "nearest"), ("sparse", "undensified"),
    }  # fmt: skip
    assert content["device"] == "cpu"
    for only in ("none", "farthest, none"):
        with pytest.raises(
            ConfigError, match=r"expected methods of tiny, found .none.; it has nearest, .* on full, sp"
        ):
            evaluate(str(file), tmp_path / "out", only=only, seed=None, **common)
    with pytest.raises(ConfigError, match="--root: expected a folder"):
        evaluate(str(file), tmp_path / "out", only=None, seed=None, **{**common, "root": tmp_path / "absent"})
    broken = copy.deepcopy(PROTOCOL)
    broken["steps"]["full_map"]["settings"] = {"fail": "out of luck"}
    file.write_text(yaml.safe_dump(broken, sort_keys=False))
    with pytest.raises(VlocError, match="1 rows failed, the first sparse / undensified: out of luck"):
        evaluate(str(file), tmp_path / "out", only=None, seed=None, **common)
