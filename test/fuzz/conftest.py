"""``python -m pytest test/fuzz --replay out/fuzz/maps-retrieval-17.json`` tries one input that failed."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest


def pytest_addoption(parser):
    parser.addoption("--replay", type=Path, default=None, help="an input that failed, as test/fuzz keeps it")


@pytest.fixture(autouse=True)
def replayed(request):
    """The input that is to be tried instead of all."""
    fuzzing.REPLAYED = request.config.getoption("--replay", default=None)
