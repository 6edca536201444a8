"""One image and its intrinsics in, one pose with covariance out: no files, no ROS.

python examples/library_call.py [MAP]
"""

import sys
from pathlib import Path

import numpy as np

import vloc_ros
from vloc_ros.town import Renderer, Town, Traversal, default_camera

MAP = Path(__file__).resolve().parents[1] / "models" / "town_demo"


def main(map_path: Path = MAP) -> vloc_ros.Estimate:
    # A picture of the synthetic town, with its true pose. With a camera of your own: an RGB image (height, width, 3)
    # uint8 and its CameraModel. The image must be free of distortion (vloc_ros.images.rectify.Rectifier makes it so).
    town = Town(seed=1, loop_m=200.0)
    camera = default_camera()
    frame = Renderer(town, camera).render(Traversal(town, index=5), 100)

    with vloc_ros.load_localizer(map_path, device="auto") as localizer:
        estimate = localizer.localize(vloc_ros.Query(frame.rgb, camera, stamp_ns=1_000_000_000))

    error = np.linalg.norm(estimate.T_map_cam[:3, 3] - frame.T_map_cam[:3, 3])
    sigma = np.sqrt(np.trace(estimate.covariance[:3, :3]))
    print(f"{estimate.state.value}: {error:.2f} m from the truth; the covariance says {sigma:.2f} m")
    return estimate


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
