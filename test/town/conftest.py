"""One small town and one drive through it, shared by the tests of the package."""

from __future__ import annotations

import pytest

from vloc_ros.town import Renderer, Town, Traversal, default_camera


@pytest.fixture(scope="session")
def town() -> Town:
    return Town(5, 160.0)


@pytest.fixture(scope="session")
def drive(town: Town) -> Traversal:
    return Traversal(town, 0)


@pytest.fixture(scope="session")
def renderer(town: Town) -> Renderer:
    return Renderer(town, default_camera(160, 90), noise=False)
