"""What it costs an image-level backend that a camera sees only a part of the map's view, in the synthetic town.

    python bench/covered_share.py MAP [MAP ...] --out FILE

The default of ``least_covered``, and how the covariance grows, were chosen by its figures, of drive 6, which nothing
else reports. The maps are of town 1 with a lens of 75 degrees: ``models/town_demo``, and what ``vloc evaluate
other_lenses`` makes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.geometry.se3 import nees, pose_error
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.calibration import largest_sigma
from vloc_ros.types import LocalizationState, Query
from vloc_train.benchmark.lens import Lens, seen_by
from vloc_train.training.town import TownDrive, cache_folder, town_drive

SIDES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
LIMIT_95 = 12.59


def measured(path: str, drive: Any, side: float, corner: bool) -> dict[str, Any]:
    """Frames of a drive whose images are cut to a part, the middle or the upper left corner."""
    at = 0.0 if corner else 0.5 * (1.0 - side)
    part = seen_by(Lens(window=(at, at, side, side)), drive)
    rows: list[tuple[float, ...]] = []
    with load_localizer(path, "cpu", settings={"least_covered": 0.05}) as localizer:
        backend, view = localizer.backend, localizer.view(part.camera)
        for index, image in part.frames():
            found = localizer.localize(Query(image, part.camera, int(part.stamps_ns[index])))
            error = pose_error(found.T_map_cam, part.T_map_cam[index])
            rows.append((
                float(np.linalg.norm(error[:3])), float(np.degrees(np.linalg.norm(error[3:]))),
                nees(error, found.covariance), largest_sigma(found.covariance[:3, :3]), found.score,
                float(found.state is LocalizationState.LOCALIZED), float(found.state is LocalizationState.LOST),
            ))  # fmt: skip
    metres, degrees, squared, sigma, score, localized, lost = np.array(rows).T
    sure, told = localized > 0, lost == 0
    share = 1.0 if view is None else view.covered
    return {
        "backend": backend, "side": side, "corner": corner, "covered": round(share, 3), "frames": len(rows),
        "median_m": float(np.median(metres)), "within_2m_5deg": float(((metres < 2) & (degrees < 5)).mean()),
        "localized": float(localized.mean()), "lost": float(lost.mean()),
        "localized_median_m": float(np.median(metres[sure])) if sure.any() else None,
        "localized_max_m": float(metres[sure].max()) if sure.any() else None,
        "localized_inside_95": float((squared[sure] <= LIMIT_95).mean()) if sure.any() else None,
        "published_inside_95": float((squared[told] <= LIMIT_95).mean()) if told.any() else None,
        "published_nees_median": float(np.median(squared[told])) if told.any() else None,
        "sigma_median_m": float(np.median(sigma)), "score_median": float(np.median(score)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=4.0, help="metres between queries")
    arguments = parser.parse_args()
    shape = TownDrive(seed=1, index=6, loop_m=200.0, width=480, height=270, spacing_m=arguments.spacing)
    drive = town_drive(shape, cache_folder(), print)[0]
    found = []
    for path in arguments.maps:
        for corner in (False, True):
            for side in SIDES[1:] if corner else SIDES:
                found.append(measured(path, drive, side, corner))
                print(json.dumps(found[-1]), flush=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
