"""A calibrated map of one lap for every backend but ImPosing, each made in a few seconds at most."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tiny_camnet
import tiny_copr
import tiny_drive
import tiny_irpnet
import tiny_pixloc

from vloc_ros.localizers.cascade.bundle import write_cascade
from vloc_train.copr.densify import densify_map, densify_settings
from vloc_train.training.calibration import recalibrate

BACKENDS = ("retrieval", "copr", "irpnet", "camnet", "pixloc", "cascade")


@functools.cache
def _folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="vloc-test-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _other_lap() -> dict[str, list]:
    return {"map": [tiny_drive.drive(30, "other", phase=0.07)]}


@functools.cache
def tiny_map(backend: str) -> Path:
    """The map of ``backend``, made once in a test run."""
    folder = _folder() / backend
    if backend == "retrieval":
        return tiny_copr.retrieval_map(folder).path
    if backend == "copr":
        between = densify_settings({"targets": {"scheme": "interpolate", "step_m": 0.5}})
        return densify_map(tiny_map("retrieval"), folder, between, calibration=_other_lap(), device="cpu").path
    if backend == "irpnet":
        return tiny_irpnet.trained_map()
    if backend == "pixloc":
        tiny_pixloc.lap_map(folder)
        return recalibrate(folder, {"map": [tiny_drive.drive(40)]}, folder, "cpu").path
    if backend == "cascade":
        return write_cascade(folder, [tiny_map("retrieval"), tiny_map("pixloc")]).path
    tiny_camnet.written(folder, [tiny_camnet.lap(40)])
    return recalibrate(folder, _other_lap(), folder, "cpu").path
