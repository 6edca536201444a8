"""PixLoc's protocols end to end on a tiny town: trained, built, asked from priors and after ImPosing."""

from __future__ import annotations

import json

import pytest
import yaml

from vloc_ros.maps import read_map
from vloc_train.benchmark.maps import Steps, reference_cameras
from vloc_train.benchmark.protocol import load, parse
from vloc_train.benchmark.runner import evaluate_protocol
from vloc_train.benchmark.table import write_table
from vloc_train.training.run import RunOptions

TOWN = {"seed": 4, "loop_m": 120.0, "width": 96, "height": 60, "spacing_m": 3.0, "light": "noon"}
IMPOSING = {
    "network": {
        "backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 32, 64]}, "pooling": "grid",
        "pool_grid": [1, 2], "embed_dim": 32, "hidden": 32, "position_octaves": 5, "rotation_octaves": 3,
    },
    "search": {"candidates": 48, "refinements": 2, "components": 12, "averaged": 16, "lost_sigma_m": 1000.0},
    "image_width": 96, "image_height": 60, "epochs": 2, "batch_size": 20, "train_candidates": 16, "train_initial": 32,
    "validate_every": 1, "validation_frames": 4, "weight_average": 0.5, "narrowing": 1.0,
}  # fmt: skip
NETWORK = {
    "encoder": "plain", "encoder_options": {"channels": [8, 12, 16], "convolutions": 1}, "strides": [1, 4],
    "dimensions": [8, 12], "decoder": [12, 8],
}  # fmt: skip
FEATURES = {
    "network": NETWORK, "optimizer": {"iterations": 4}, "points": {"stored": 128, "drawn": 32},
    "pairs": {"least_points": 10, "overlap": 0.1}, "image_width": 96, "image_height": 60, "scales": [1.0], "epochs": 1,
    "batch_size": 8, "train_iterations": 2, "validation_pairs": 8,
}  # fmt: skip
BUILT = {
    "source": "depth", "report": False, "depth": {"cell_px": 6, "tolerance": 0.1, "minimum_track": 2},
    "subsample": {"minimum_track": 2, "per_frame": 100}, "map": {"pyramid": [1.0]},
}  # fmt: skip
PROTOCOL = {
    "name": "tiny",
    "baseline": "retrieval",
    "untrained": [],
    "recall": [[0.05, 0.2]],
    "data": {
        "map": {"town": {**TOWN, "index": 0}},
        "query": {"town": {**TOWN, "index": 1}},
        "train": {"town": {**TOWN, "index": 2}},
    },
    "splits": {
        "priors": {"map": ["map"], "query": ["query[:4]"], "prior": {"offset_m": [0, 0.5], "offset_deg": [0, 1]}},
        "drive": {"map": ["map"], "query": ["query[4:8]"]},
    },
    "steps": {
        "features": {"train": "pixloc", "preset": "small", "data": {"a": ["train"]}, "settings": FEATURES},
        "map_pixloc": {"build": "pixloc", "data": ["$map"], "calibration": ["train[::2]"], "extractor": "features",
                       "settings": BUILT},
        "map_int8": {"build": "pixloc", "data": ["$map"], "calibration": ["train[:2]"], "extractor": "features",
                     "settings": {**BUILT, "map": {"pyramid": [1.0], "precision": "int8"}}},
        "imposing": {"train": "imposing", "preset": "small", "data": ["train"], "settings": IMPOSING},
        "both": {"cascade": ["imposing", "map_pixloc"], "settings": {"max_sigma_m": 1000.0}},
        "encoder": {
            "train": "retrieval", "preset": "small", "data": ["train"],
            "settings": {"max_minutes": None, "epochs": 1, "validate_every": 1, "extractor": {
                "backbone_options": {"channels": [8, 16, 24, 32], "stem_width": 8}, "image_width": 64,
                "image_height": 40}},
        },
        "database": {"build": "retrieval", "data": ["$map"], "extractor": "encoder"},
    },
    "rows": [
        {"method": "retrieval", "map": "database", "splits": ["priors", "drive"], "without_prior": True},
        {"method": "PixLoc", "map": "map_pixloc", "splits": ["priors"], "against": "prior"},
        {"method": "int8", "map": "map_int8", "splits": ["priors"], "against": "PixLoc"},
        {"method": "ImPosing", "map": "imposing", "splits": ["drive"]},
        {"method": "both", "map": "both", "splits": ["drive"], "against": "ImPosing"},
    ],
    "claims": [
        {"text": "refines", "split": "priors", "method": "PixLoc", "figure": "recall_0.05m_0.2deg", "at_least": 0.0},
        {"text": "no worse", "split": "drive", "method": "both", "against": "ImPosing", "factor": 1000.0},
    ],
}  # fmt: skip


def test_trained_built_refined_and_cascaded(tmp_path):
    protocol = parse(yaml.safe_dump(PROTOCOL), "here")
    options = RunOptions(device="cpu", progress=False)
    table = evaluate_protocol(protocol, None, tmp_path / "cache", tmp_path / "out", options)
    assert not table.failed
    rows = {(r["split"], r["method"]): r for r in table.rows}
    pixloc, both = rows["priors", "PixLoc"], rows["drive", "both"]
    assert pixloc["backend"] == "pixloc" and both["backend"] == "cascade"
    assert pixloc["prior_median_translation_m"] == rows["priors", "prior"]["localizer_median_translation_m"] <= 0.5
    # Whatever so little training does, it gives poses near their priors.
    assert pixloc["localizer_median_translation_m"] < 2.0 and pixloc["frames"] == 4
    assert {(r["translation_m"], r["rotation_deg"]) for r in pixloc["recall"]} >= {(0.05, 0.2), (0.25, 2.0)}
    assert rows["priors", "int8"]["map_bytes"] < pixloc["map_bytes"]
    assert [claim["holds"] for claim in table.claims] == [True, True]
    # A cascade is as large as its members, and its references are those that it refines with.
    assert both["map_bytes"] > pixloc["map_bytes"] + rows["drive", "ImPosing"]["map_bytes"]
    for row in (pixloc, both):
        assert row["oracle_median_translation_m"] <= rows[row["split"], "oracle"]["localizer_median_translation_m"] + 1
    text = write_table(table, protocol, {}, tmp_path / "out", plots=False).read_text()
    assert "| retrieval (no prior) |" in text and "within 0.05 m 0.2°" in text
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["splits"]["priors"]["prior"]["offset_m"] == [0.0, 0.5]
    cascade = next((tmp_path / "cache" / "maps").glob("both-*")) / "map"
    fine = next((tmp_path / "cache" / "maps").glob("map_pixloc-*")) / "map"
    assert (reference_cameras(read_map(cascade)) == reference_cameras(read_map(fine))).all()
    # A cache that has moved is a cache still.
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    moved = evaluate_protocol(protocol, None, tmp_path / "elsewhere", tmp_path / "again", options, ["both"])
    assert not moved.failed and json.dumps([r for r in moved.rows if r["method"] == "both"]) == json.dumps([both])


@pytest.mark.parametrize("name", ["pixloc_town", "pixloc_real"])
def test_the_protocols_have_settings_that_their_steps_take(name, tmp_path):
    protocol = load(name)
    steps = Steps(protocol, None, tmp_path, RunOptions(device="cpu"))  # type: ignore[arg-type]
    for step in protocol.steps:
        steps.settings(step)
        settings = protocol.steps[step].settings
        # The clock ends none of the runs: equal seeds give equal tables.
        assert getattr(steps.settings(step), "max_minutes", None) is None, settings
    for split, row in protocol.table():
        prior = row.asked(protocol.splits[split])
        assert (row.method == "retrieval") <= (prior is None)
        if protocol.steps[row.map].build == "pixloc" and not protocol.steps[row.map].maps:
            assert prior is not None  # a map without descriptors finds nothing without one
