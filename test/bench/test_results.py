"""The results that documents point at can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "bench" / "results").rglob("*.json"))


def test_there_are_results():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "bench" / "results")))
def test_a_result_is_json(path):
    assert json.loads(path.read_text(encoding="utf-8"))
