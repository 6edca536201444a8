"""Everything that a report tells of one scene: what was driven, held out, found weak or ambiguous, and advised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.evaluation.metrics import CHI2_95_6
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.cascade.bundle import calibration_of, validation_of
from vloc_ros.maps import MapBundle
from vloc_train.frame_choice.selection import Choice
from vloc_train.frame_choice.settings import ReportSettings
from vloc_train.frame_choice.split import Split
from vloc_train.map_report.accuracy import HeldOutFrames, localize_held_out
from vloc_train.map_report.advice import advice
from vloc_train.map_report.agreement import Agreement
from vloc_train.map_report.ambiguity import Ambiguity, ambiguous_places, map_descriptors, thumbnail_descriptors
from vloc_train.map_report.segments import Segment, median, segments_of

__all__ = ["SceneReport", "scene_reports"]


@dataclass(frozen=True)
class SceneReport:
    """Everything of one scene that a report tells."""

    name: str
    choices: tuple[Choice, ...]
    split: Split
    held: tuple[HeldOutFrames, ...]
    segments: tuple[Segment, ...]
    ambiguity: Ambiguity
    calibrated: bool
    advice: tuple[str, ...] = field(default_factory=tuple)
    #: What the map was found to be worth when it was made, where nothing was held out of it for good.
    validation: Mapping[str, Any] = field(default_factory=dict)
    #: What the images of each drive say about its poses.
    agreements: tuple[Agreement, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Plain values for ``report.json``."""
        error, deg, sigma, chi = (
            np.concatenate([getattr(h, n) for h in self.held]) if self.held else np.zeros(0)
            for n in ("error_m", "error_deg", "sigma_m", "nees")
        )
        states = [s for h in self.held for s in h.state]
        accuracy: dict[str, Any] = {"frames": len(error)}
        if len(error):
            accuracy.update(
                median_translation_m=float(np.median(error)),
                p90_translation_m=float(np.quantile(error, 0.9)),
                max_translation_m=float(error.max()),
                median_rotation_deg=float(np.median(deg)),
                median_sigma_m=median(sigma),
                nees_share_in_95=float((chi[np.isfinite(chi)] <= CHI2_95_6).mean()) if np.isfinite(chi).any() else None,
                states={s.value: states.count(s) / len(states) for s in dict.fromkeys(states)},
            )
        return {
            "hold_out": {
                "kind": self.split.kind,
                "nearest_m": self.split.nearest_m,
                "nearest_s": self.split.nearest_s,
                "meaning": self.split.in_words(),
            },
            "calibrated": self.calibrated,
            "accuracy": accuracy,
            "validation": dict(self.validation),
            "drives": [
                {
                    "name": c.sequence.name,
                    "length_m": c.length_m,
                    "posed": len(c.reason),
                    "kept": len(c.kept),
                    "left_out": c.counts,
                    "not_readable": dict(c.sequence.dropped),
                }
                for c in self.choices
            ],
            "images_against_poses": [one.figures() for one in self.agreements],
            "weak": [
                {
                    "drive": p.drive, "start_m": p.start_m, "stop_m": p.stop_m, "position": list(p.position),
                    "reasons": list(p.reasons),
                }
                for p in self.segments if p.reasons
            ],
            "ambiguous": {
                "source": self.ambiguity.source,
                "share": self.ambiguity.share,
                "pairs": [
                    {
                        "a": p.T_a[:3, 3].tolist(), "b": p.T_b[:3, 3].tolist(), "similarity": p.similarity,
                        "distance_m": p.distance_m, "frames": p.frames,
                    }
                    for p in self.ambiguity.pairs
                ],
            },
            "advice": list(self.advice),
        }  # fmt: skip


def scene_reports(
    bundle: MapBundle,
    choices: Mapping[str, Sequence[Choice]],
    splits: Mapping[str, Split],
    held: Mapping[str, Sequence[PosedSequence]],
    agreements: Mapping[str, Sequence[Agreement]],
    settings: ReportSettings,
    work: Path,
    device: str,
) -> list[SceneReport]:
    """Localize what was held out, and judge every scene; all mappings are by a scene's name.

    :param work: where images are cached.
    """
    out = []
    with load_localizer(bundle.path, device) as localizer:
        for name, mine in choices.items():
            routes = {c.sequence.name: c.sequence.T_map_base[:, :3, 3] for c in mine}
            found = localize_held_out(localizer, held.get(name, ()), name, work, routes)
            described = map_descriptors(bundle, name)
            if described is None:
                thumbnails = np.concatenate([c.measures.thumbnails[c.kept] for c in mine])
                poses = np.concatenate([c.used.T_map_cam for c in mine])
                described = poses, thumbnail_descriptors(thumbnails), "small grey pictures"
            ambiguity = ambiguous_places(*described, settings)
            calibrated = bool(calibration_of(bundle).get(name))
            segments = segments_of(mine, splits[name], found, settings)
            own = validation_of(bundle).get(name, {}) if splits[name].kind == "folds" else {}
            words = [one.in_words() for one in agreements[name] if not one.good]
            words += advice(mine, splits[name], found, segments, ambiguity, calibrated, own.get("frames", 0))
            out.append(
                SceneReport(
                    name,
                    tuple(mine),
                    splits[name],
                    tuple(found),
                    tuple(segments),
                    ambiguity,
                    calibrated,
                    tuple(words),
                    own,
                    tuple(agreements[name]),
                )
            )
    return out
