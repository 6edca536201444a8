"""What it costs an image-level backend that a camera sees only a part of the map's view, in the synthetic town.

    python bench/covered_share.py MAP [MAP ...] --out FILE

The default of ``least_covered``, and how the covariance grows, were chosen by its figures, of drive 6, which nothing
else reports. The maps are of town 1 with a lens of 75 degrees: ``models/town_demo``, and what ``vloc evaluate
other_lenses`` makes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.geometry.se3 import largest_sigma, nees, pose_error
from vloc_ros.localizers.base import load_localizer
from vloc_ros.types import LocalizationState, Query
from vloc_train.benchmark.lens import Lens, seen_by
from vloc_train.training.town import TownDrive, cache_folder, town_drive

SIDES = (0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
#: Pixels of the map's view that one of a lens of 90 degrees becomes.
ENLARGED = (1.0, 2.0, 3.0, 4.0, 6.0)
LIMIT_95 = 12.59


def measured(path: str, part: Any, about: str) -> dict[str, Any]:
    """All frames of a drive."""
    rows: list[tuple[float, ...]] = []
    with load_localizer(path, "cpu", settings={"least_covered": 0.05, "most_enlarged": 100.0}) as localizer:
        backend, view = localizer.backend, localizer.view(part.camera)
        for index, image in part.frames():
            found = localizer.localize(Query(image, part.camera, int(part.stamps_ns[index])))
            error = pose_error(found.T_map_cam, part.T_map_cam[index])
            rows.append((
                float(np.linalg.norm(error[:3])), float(np.degrees(np.linalg.norm(error[3:]))),
                nees(error, found.covariance), largest_sigma(found.covariance[:3, :3]), found.score,
                float(found.claimed is LocalizationState.LOCALIZED), float(found.state is LocalizationState.LOST),
            ))  # fmt: skip
    metres, degrees, squared, sigma, score, localized, lost = np.array(rows).T
    sure, told = localized > 0, lost == 0
    share, enlarged = (1.0, None) if view is None else (round(view.covered, 3), round(view.enlarged, 2))
    return {
        "backend": backend, "lens": about, "covered": share, "enlarged": enlarged, "frames": len(rows),
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
    wide = town_drive(replace(shape, fov_deg=90.0), cache_folder(), print)[0]
    found = []
    for path in arguments.maps:
        asked = {"the map's": drive}
        for side in SIDES:
            for name, at in (("middle", 0.5 * (1.0 - side)), ("upper left", 0.0)):
                asked[f"{name} {side:g}"] = seen_by(Lens(window=(at, at, side, side)), drive)
        with load_localizer(path, "cpu") as localizer:
            fine = localizer.view(wide.camera)
        for factor in ENLARGED if fine is not None else ():
            asked[f"90 deg, 1 to {factor:g}"] = seen_by(Lens(scale=min(fine.enlarged / factor, 1.0)), wide)
        for about, part in asked.items():
            found.append(measured(path, part, about))
            print(json.dumps(found[-1]), flush=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
