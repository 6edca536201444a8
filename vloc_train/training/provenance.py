"""What every map says about how it was made."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import vloc_ros
from vloc_ros.datasets import PosedSequence
from vloc_ros.maps import Scene

__all__ = ["commit", "frame_id_of", "provenance", "scene_of"]


def commit() -> str:
    """The commit of the code, where it lies in a checkout."""
    root = Path(vloc_ros.__file__).resolve().parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def provenance(
    scenes: Mapping[str, Sequence[PosedSequence]], settings: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The ``provenance`` section of a manifest: data, code, date, settings and ``more``."""
    return {
        "data": {name: [s.name for s in sequences] for name, sequences in scenes.items()},
        **more,
        "vloc_ros": vloc_ros.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        **({"settings": dict(settings)} if settings is not None else {}),
    }


def frame_id_of(scenes: Mapping[str, Sequence[PosedSequence]]) -> str:
    """The frame that all drives agree on, or ``map``."""
    ids = {s.frame_id for sequences in scenes.values() for s in sequences}
    return ids.pop() if len(ids) == 1 else "map"


def scene_of(name: str, positions: npt.NDArray[np.floating[Any]], frame_id: str = "map") -> Scene:
    """A manifest's scene over the box of ``(N, 3)`` positions."""
    (x, y, z), (X, Y, Z) = positions.min(axis=0), positions.max(axis=0)
    return Scene(name, frame_id, (float(x), float(y), float(z)), (float(X), float(Y), float(Z)))
