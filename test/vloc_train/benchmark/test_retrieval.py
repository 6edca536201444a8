"""The real thing on a tiny town: rendered, an extractor trained, maps built with it; twice, and the same table."""

from __future__ import annotations

import json

import yaml

from vloc_train.benchmark.protocol import parse
from vloc_train.benchmark.runner import evaluate_protocol
from vloc_train.benchmark.table import write_table
from vloc_train.training.run import RunOptions

TOWN = {"seed": 4, "loop_m": 120.0, "width": 64, "height": 36, "spacing_m": 3.0, "light": "noon"}
EXTRACTOR = {
    "backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 24, 32], "stem_width": 8},
    "image_width": 64, "image_height": 36,
}  # fmt: skip
PROTOCOL = {
    "name": "tiny",
    "baseline": "retrieval",
    "untrained": [],
    "seed": 3,
    "data": {
        "map": {"town": {**TOWN, "index": 0}},
        "query": {"town": {**TOWN, "index": 1}},
        "train": {"town": {**TOWN, "index": 2}},
    },
    "splits": {"full": {"map": ["map"], "query": ["query"]}, "sparse": {"map": ["map[::4]"], "query": ["query"]}},
    "steps": {
        "encoder": {
            "train": "retrieval", "preset": "small", "data": ["train"],
            "settings": {"max_minutes": None, "epochs": 2, "extractor": EXTRACTOR, "validate_every": 1},
        },
        "mapped": {"build": "retrieval", "data": ["$map"], "extractor": "encoder"},
    },
    "rows": [
        {"method": "retrieval", "map": "mapped", "splits": ["full", "sparse"]},
        {"method": "averaged", "map": "mapped", "splits": ["full"], "settings": {"k": 3}},
    ],
}  # fmt: skip


def test_equal_seeds_make_equal_tables(tmp_path):
    protocol = parse(yaml.safe_dump(PROTOCOL), "here")
    texts = []
    for name in ("a", "b"):
        out = tmp_path / name
        table = evaluate_protocol(protocol, None, out / "cache", out, RunOptions(device="cpu", progress=False))
        assert not table.failed
        write_table(table, protocol, {"seed": 3}, out, plots=False)
        texts.append([(out / file).read_bytes() for file in ("table.json", "table.md")])
        assert "| sparse | retrieval |" in (out / "timings.md").read_text()
    assert texts[0] == texts[1]
    rows = {(r["split"], r["method"]): r for r in json.loads(texts[0][0])["rows"]}
    # 40 frames, 128 m: five gaps of one frame each are held out.
    assert rows["full", "retrieval"]["descriptors"] == 35 and rows["full", "retrieval"]["regressed_share"] == 0
    assert rows["sparse", "retrieval"]["map_bytes"] < rows["full", "retrieval"]["map_bytes"]
    averaged = rows["full", "averaged"]
    assert averaged["localizer_median_translation_m"] > 0
    assert averaged["localizer_ate_rmse_m"] >= averaged["localizer_mean_translation_m"]
