"""From a recorded drive to a map without training, and what it knows about its own accuracy.

    python examples/bag_to_map.py DRIVE OUT

DRIVE is a bag with images, camera_info and reference poses, or any data-set folder of `vloc convert formats`. The
same as `vloc map build features --data DRIVE --out OUT`, which also writes a report.
"""

import sys
from pathlib import Path

from vloc_ros.datasets import open_sequence
from vloc_ros.maps import MapBundle
from vloc_train.build_map import make_map
from vloc_train.frame_choice.settings import OwnDriveSettings
from vloc_train.training.registry import BUILDERS, find
from vloc_train.training.run import RunOptions


def main(drive: Path, out: Path) -> MapBundle:
    builder = find(BUILDERS, "features", "map build")
    settings = builder.settings(builder.presets[0], {}, "example")
    bundle = make_map(
        builder, {"map": [open_sequence(drive)]}, out, settings, RunOptions(device="cpu"), OwnDriveSettings()
    )
    print(f"map: {bundle.path}, {bundle.size_bytes / 1e6:.2f} MB")
    for scene, found in bundle.manifest.validation.items():
        print(f"{scene}: {found['frames']} held-out frames, median {found['median_translation_m']:.3f} m")
    return bundle


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
