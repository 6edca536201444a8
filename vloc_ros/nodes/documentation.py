"""The generated pages of docs/: ``python -m vloc_ros.nodes.documentation docs``. Imports no ROS."""

from __future__ import annotations

import sys
from pathlib import Path

from vloc_ros import diagnostics, pipeline
from vloc_ros.nodes.evaluator_parameters import EVALUATOR_PARAMETERS
from vloc_ros.nodes.parameters import literal, markdown

__all__ = ["NODE_KEYS", "diagnostics_page", "pages"]

#: The keys that the node adds to :data:`vloc_ros.diagnostics.KEYS`.
NODE_KEYS: dict[str, str] = {
    "lifecycle": "unconfigured, inactive, active, ...; anything but active is WARN, after a failure ERROR",
    "problem": "the last failure of a configuration, service or callback",
    "images_received": "messages on the image topic",
    "frames_dropped": "frames that a newer one replaced while the localizer was busy",
    "odometry_missing": "frames without odometry in TF at their stamp",
    "internal_errors": "frames dropped by an unexpected exception (a bug); ERROR",
    "tf_sent": "transforms sent",
    "without_<package>": "a package of ROS (cv_bridge, tf_transformations) that fails beside this numpy or OpenCV, and "
    "how; the core does its work",
    "tf_conflict": "another node sends the same transform, or gives the base a parent; ERROR",
}


def diagnostics_page() -> str:
    """The text of docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "One `DiagnosticStatus` on `/diagnostics`, named `<node>: localization`, with the image topic as hardware id.",
        "Replay writes the same into its result bag. The level is that of the worst finding; the message names all.",
        "Limits are the parameters `diagnostics.*` ([parameters.md](parameters.md)). Made by `make docs`; do not edit.",
        "",
        "| key | meaning, and when it raises the level |",
        "|---|---|",
        *(f"| `{key}` | {text} |" for key, text in diagnostics.KEYS.items()),
        "",
        "The live node adds:",
        "",
        "| key | meaning, and when it raises the level |",
        "|---|---|",
        *(f"| `{key}` | {text} |" for key, text in NODE_KEYS.items()),
        "",
        "## Why a frame is refused",
        "",
        "A refused frame is counted under `refused_<reason>`; nothing is published for it.",
        "",
        "| reason | meaning |",
        "|---|---|",
        *(f"| `{key}` | {text} |" for key, text in pipeline.REFUSALS.items()),
        "",
    ]
    return "\n".join(lines)


def evaluator_table() -> str:
    """The parameters of the evaluator."""
    rows = [
        f"| `{s.name}` | {s.type_name} | `{literal(s.default)}` | {s.constraint} | {s.doc} |"
        for s in EVALUATOR_PARAMETERS
    ]
    head = ["## Parameters of `vloc_evaluator`", "", "| parameter | type | default | allowed | meaning |",
            "|---|---|---|---|---|"]  # fmt: skip
    return "\n".join([*head, *rows, ""])


def pages() -> dict[str, str]:
    """File names in docs/ and their text."""
    return {"parameters.md": f"{markdown()}\n{evaluator_table()}", "diagnostics.md": diagnostics_page()}


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
