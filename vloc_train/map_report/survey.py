"""Everything that a report tells of one scene."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vloc_train.frame_choice.selection import Choice
from vloc_train.frame_choice.split import Split
from vloc_train.map_report.ambiguity import Ambiguity
from vloc_train.map_report.held_out import HeldOut
from vloc_train.map_report.pieces import Piece, median

__all__ = ["Survey"]

CHI2_95_6 = 12.59


@dataclass(frozen=True)
class Survey:
    """Everything of one scene that a report tells."""

    scene: str
    choices: tuple[Choice, ...]
    split: Split
    held: tuple[HeldOut, ...]
    pieces: tuple[Piece, ...]
    ambiguity: Ambiguity
    calibrated: bool
    advice: tuple[str, ...] = field(default_factory=tuple)

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
            "weak": [
                {
                    "drive": p.drive, "start_m": p.start_m, "stop_m": p.stop_m, "position": list(p.position),
                    "reasons": list(p.reasons),
                }
                for p in self.pieces if p.reasons
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
