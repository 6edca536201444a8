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

from bench.pixloc import _Setup, town_scene
from bench.queries import default_map, query_counts
from bench.setup import BenchSetup
from bench.simulated_device import simulated_device
from vloc_ros.localizers.imposing.search import draw
from vloc_ros.localizers.pixloc.levels import OptimizerSettings
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.settings import NetworkSettings


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
    """Counts of both papers' networks; ImPosing's search is recorded as a localizer does it."""
    out = {}
    with simulated_device() as (device, counted):
        setup = BenchSetup.of_paper(device, 0)
        image = torch.randn(1, 3, *setup.image_size, device=device)
        for _ in range(2):
            counted()
            vector = setup.encode_default(image)
            encoder = counted().figures()
            setup.search_default(vector, draw(setup.settings, 0, device, torch.float32)).cpu()
            searched = counted().figures()
        both = {key: encoder[key] + searched[key] for key in encoder}
        out["ImPosing, paper's settings, not recorded"] = both
        # Around a recording: its start, three inputs, and the parts of its result, two a step.
        around = 1 + 3 + 2 * setup.settings.refinements
        out["ImPosing, paper's settings"] = {
            **both, "launches": encoder["launches"] + around, "recorded": searched["launches"],
        }  # fmt: skip
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
