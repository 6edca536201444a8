"""What every test shares: the data folder, hypothesis without deadlines, and few threads."""

from __future__ import annotations

import os

# Before torch and OpenCV load: small tensors are slower on many threads, and on a machine that is busy much slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile(
    "vloc",
    deadline=None,  # the first example may pay for imports, and machines differ
    max_examples=int(os.environ.get("VLOC_HYPOTHESIS_EXAMPLES", "60")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("vloc")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data(name)``: the folder of real camera data ``../shared/data/<name>``, or a skip that says why."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"real camera data not found at ../shared/data/{name} beside the checkout")
        return path

    return find
