"""What queries would take on GPUs that nobody has measured, from what was counted: a projection, and no measurement.

python -m bench.projection

A query takes at least its launches times what a launch costs, its recorded operations times what one costs inside of a
recording, its waits, and its bytes and operations at the device's rates; the longer of the two last is taken, and
nothing overlaps anything else. The assumptions stand in :data:`DEVICES`; they are round figures of such devices, and
the first thing to replace by measured ones (``make bench-gpu``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.pixloc import _Setup, town_scene
from bench.queries import default_map, query_counts
from bench.setup import BenchSetup
from bench.simulated_device import simulated_device
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.imposing.search import Draws, draw, search
from vloc_ros.localizers.pixloc.levels import OptimizerSettings
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.transfer import read_back


@dataclass(frozen=True)
class Device:
    """Microseconds of a launch, of a recorded operation, of a wait; bytes and operations (half precision) a second."""

    launch_us: float
    recorded_us: float
    wait_us: float
    bytes_s: float
    operations_s: float


DEVICES = {
    "large GPU": Device(7.0, 1.5, 15.0, 1.5e12, 1.0e14),
    "embedded GPU": Device(23.0, 5.0, 40.0, 1.0e11, 1.0e13),
}


def projected_ms(counts: dict[str, Any], device: Device) -> float:
    """Milliseconds of a query that asks for this."""
    launched = counts["launches"] * device.launch_us + counts["recorded"] * device.recorded_us
    work = 1e6 * max(counts["moved_bytes"] / device.bytes_s, counts["operations"] / device.operations_s)
    return 1e-3 * (launched + counts["host_waits"] * device.wait_us + work)


def of_papers() -> dict[str, dict[str, Any]]:
    """Counts of both papers' networks, a query as a localizer asks it: bytes of the image in, its pose's parts out."""
    out: dict[str, dict[str, Any]] = {}
    with simulated_device() as (device, counted):
        # As a GPU of compute capability 8 computes; the numbers are this processor's.
        setup = BenchSetup.of_paper(device, 0, torch.bfloat16)
        image = torch.zeros(1, *setup.image_size, 3, dtype=torch.uint8)
        preprocess = Preprocess(setup.image_size[1], setup.image_size[0])

        def read(x: Tensor) -> tuple[Tensor, ...]:
            return (setup.encode_default(preprocess.normalize(x.permute(0, 3, 1, 2))),)

        def searched(vector: Tensor, normal: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
            draws = Draws(normal, uniform)
            return search(setup.encoder_default, vector, setup.initial, setup.columns, draws, setup.settings).tensors

        recorder = Recorder(device)
        for name, asks in (("not recorded", None), ("recorded", recorder)):
            for _ in range(3):
                counted()
                drawn = draw(setup.settings, 0, device, torch.float32)
                if asks is None:
                    (vector,) = read(image.to(device))
                    found = searched(vector, drawn.normal, drawn.uniform)
                else:
                    (vector,) = asks.run("image", read, [image])
                    found = asks.run("search", searched, [vector, drawn.normal, drawn.uniform])
                read_back(*found)
                out[f"ImPosing, paper's settings, {name}"] = counted().figures()
    torch.manual_seed(0)
    model = PixLocModel(FeatureNet(NetworkSettings()))
    scene = town_scene(640, 384, 1000)
    with simulated_device() as (device, counted):
        align = _Setup(model, OptimizerSettings(damping="constant", damping_constant=1e-2), (1.0,), scene, device, 1000)
        aligner, store = align.aligner(torch.float32), align.store("float16")
        for _ in range(3):
            counted()
            align.query(aligner, store)
            found = counted().figures()
        out["PixLoc, paper's network, one scale, 640x384, 1,000 points"] = found
    return out


def main() -> None:
    rows = of_papers()
    for backend in ("retrieval", "copr", "irpnet", "camnet", "features", "pixloc", "imposing"):
        rows[f"{backend}, tiny map"] = query_counts(default_map(backend))
    print("| query | launches | recorded | waits | MB | GFLOP | " + " | ".join(f"{n}, ms" for n in DEVICES) + " |")
    print("|---" * (6 + len(DEVICES)) + "|")
    for name, counts in rows.items():
        ms = " | ".join(f"{projected_ms(counts, device):.2f}" for device in DEVICES.values())
        print(
            f"| {name} | {counts['launches']:,} | {counts['recorded']:,} | {counts['host_waits']} | "
            f"{counts['moved_bytes'] / 1e6:.1f} | {counts['operations'] / 1e9:.2f} | {ms} |"
        )


if __name__ == "__main__":
    main()
