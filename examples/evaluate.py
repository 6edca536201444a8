"""Errors, recall and the consistency of the covariance of a drive, counted as the reports count them.

    python examples/evaluate.py DRIVE [MAP]

Medians and recall are over all frames with a reference pose; a frame without a published pose counts as an infinite
error. A covariance is consistent when 95 % of the errors lie inside its 95 % ellipsoid.
"""

import sys
from pathlib import Path

from sequence import MAP
from sequence import main as localize

from vloc_ros.datasets import open_sequence
from vloc_ros.evaluation.metrics import FrameRecord, Metrics, evaluate


def main(drive: Path, map_path: Path = MAP) -> Metrics:
    sequence = open_sequence(drive)
    records = [
        FrameRecord(
            stamp_ns=result.stamp_ns,
            state=result.state,
            T_map_base=result.T_map_base if result.publish else None,
            covariance=result.covariance_base if result.publish else None,
            T_reference=T_map_base,
            timings_ms=result.timings_ms,
        )
        for result, T_map_base in zip(localize(drive, map_path), sequence.T_map_base, strict=True)
    ]
    found = evaluate(records)
    print(f"median {found.median_translation_m:.2f} m {found.median_rotation_deg:.2f} deg of {len(records)} frames")
    for recall in found.recall:
        print(f"  within {recall.translation_m:g} m {recall.rotation_deg:g} deg: {recall.share:.0%}")
    print(f"  states: {', '.join(f'{state} {share:.0%}' for state, share in found.states.items())}")
    print(f"  inside the 95 % ellipsoid: {found.nees.share_in_95:.0%} of {found.nees.count}")
    return found


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
