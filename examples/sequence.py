"""A drive through the pipeline that the live node runs: decode, check, rectify, localize, track.

    python examples/sequence.py DRIVE [MAP]

DRIVE is whatever `vloc convert formats` lists: a bag, a folder of a data set.
"""

import sys
from pathlib import Path

import numpy as np

import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.frames import Frame, FrameResult
from vloc_ros.pipeline import Pipeline

MAP = Path(__file__).resolve().parents[1] / "models" / "town_demo"


def main(drive: Path, map_path: Path = MAP) -> list[FrameResult]:
    sequence = open_sequence(drive)
    results = []
    with vloc_ros.load_localizer(map_path) as localizer:
        pipeline = Pipeline(localizer)
        for index, image in sequence.frames():
            odometry = None if sequence.T_odom_base is None else sequence.T_odom_base[index]
            result = pipeline.process(
                Frame(
                    stamp_ns=int(sequence.stamps_ns[index]),
                    image=image,
                    camera=sequence.camera,
                    T_base_cam=sequence.T_base_cam,
                    T_odom_base=odometry,
                )
            )
            results.append(result)
            if result.publish:
                error = np.linalg.norm(result.T_map_base[:3, 3] - sequence.T_map_base[index, :3, 3])
                print(f"{index:4d} {result.state.value:12s} {error:6.2f} m off")
            else:  # silence: no pose is better than a wrong one
                print(f"{index:4d} {result.state.value:12s} {result.message or result.reason}")
    return results


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
