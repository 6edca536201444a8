"""Does a killed and resumed training run end like uninterrupted ones?

Trains the same drives with three seeds, then once more with the first seed, killed with SIGKILL half way and started
again with the same command. Prints the held-out errors and writes them as JSON.

    python bench/resume.py --data OUT/traversal_0 OUT/traversal_1 --calibration-data OUT/traversal_4 --epochs 12
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vloc_ros.maps import MapBundle, read_map


def command(options: argparse.Namespace, seed: int, out: Path) -> list[str]:
    data = [word for source in options.data for word in ("--data", source)]
    return [
        sys.executable, "-m", "vloc_ros", "train", "imposing", *data, "--calibration-data", options.calibration_data,
        "--out", str(out), "--preset", "small", "--set", f"epochs={options.epochs}", "--seed", str(seed),
        "--no-progress", "--checkpoint-minutes", "0.1",
    ]  # fmt: skip


def figures(bundle: MapBundle) -> dict[str, float]:
    found = bundle.manifest.validation["map"]
    return {name: round(found[name], 4) for name in ("median_translation_m", "median_rotation_deg", "recall_2m_5deg")}


def killed_and_resumed(options: argparse.Namespace, out: Path, seconds: float) -> MapBundle:
    """Kill the run half way through the time that an uninterrupted one took, then run the same command again."""
    words = command(options, 0, out)
    process = subprocess.Popen(words)
    time.sleep(seconds / 2)
    if process.poll() is not None:
        raise SystemExit("the run ended before it could be killed: use more --epochs")
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (out.with_name(out.name + ".work") / "last.ckpt").exists():
        raise SystemExit("killed before the first checkpoint: use more --epochs")
    subprocess.run(words, check=True)
    return read_map(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--calibration-data", required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("bench/results/resume.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        maps, seconds = [], []
        for seed in range(3):
            out = Path(folder) / f"seed_{seed}"
            start = time.monotonic()
            subprocess.run(command(options, seed, out), check=True)
            seconds.append(time.monotonic() - start)
            maps.append(read_map(out))
        resumed = killed_and_resumed(options, Path(folder) / "resumed", seconds[0])
        errors = [figures(bundle)["median_translation_m"] for bundle in maps]
        found = figures(resumed)["median_translation_m"]
        ours, theirs = resumed.manifest, maps[0].manifest
        same = {name: getattr(ours, name) == getattr(theirs, name) for name in ("settings", "preprocessing")}
        for name in ("data", "frames", "settings", "calibration_data"):
            same[f"provenance.{name}"] = ours.provenance[name] == theirs.provenance[name]
        result = {
            "epochs": options.epochs,
            "seeds": [figures(bundle) for bundle in maps],
            "resumed": figures(resumed),
            "same_fields": same,
            "within_range_of_seeds": min(errors) <= found <= max(errors),
            "equal_to_its_uninterrupted_twin": abs(found - errors[0]) < 1e-9,
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
