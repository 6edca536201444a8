"""The table of settings in docs/own_drive.md is that of the code. Run as a script, this writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own_drive.md"
BLOCK = re.compile(r"(<!-- own drive settings: begin -->\n)(.*?)(<!-- own drive settings: end -->)", re.DOTALL)


def table() -> str:
    from vloc_ros.settings import describe_settings
    from vloc_train.frame_choice.settings import OwnDriveSettings

    rows = ["| setting | default | kind | meaning |", "|---|---|---|---|"]
    for row in describe_settings(OwnDriveSettings):
        assert row.doc, row.name
        value = str(row.default).lower() if isinstance(row.default, bool) else row.default
        rows.append(f"| `{row.name}` | `{value}` | {row.kind} | {row.doc} |")
    return "\n".join(rows) + "\n"


def test_the_table_is_current():
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found and found[2] == table(), "docs/own_drive.md: out of date: run this file as a script"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda m: m[1] + table() + m[3], text), encoding="utf-8")
