from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from vloc_ros.maps import pack_map, read_map, verify_map
from vloc_ros.maps.describe import describe_checks, describe_map


@pytest.mark.parametrize("packed", [False, True])
def test_good_map(map_dir: Path, packed: bool) -> None:
    checks = verify_map(pack_map(map_dir) if packed else map_dir)
    assert all(check.passed for check in checks)
    assert {"manifest", "weights.safetensors", "scenes/town.safetensors"} <= {check.name for check in checks}
    assert describe_checks(checks).title == "All checks passed"


def test_every_failure_is_reported(map_dir: Path) -> None:
    (map_dir / "weights.safetensors").write_bytes(b"x")
    (map_dir / "scenes" / "town.safetensors").unlink()
    (map_dir / "stranger").write_text("")
    failed = {check.name: check.reason for check in verify_map(map_dir) if not check.passed}
    assert failed.keys() == {"weights.safetensors", "scenes/town.safetensors", "unlisted files"}
    assert "stranger" in failed["unlisted files"]
    section = describe_checks(verify_map(map_dir))
    assert section.title == "3 of 4 checks failed"
    assert section.rows[0][0] == "FAILED"


def test_bad_manifest_is_one_failed_check(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        (check,) = verify_map(path)
        assert not check.passed and check.name == "manifest"


def test_description(map_dir: Path) -> None:
    sections = describe_map(read_map(map_dir))
    text = "\n".join(map(str, sections))
    for part in (
        "imposing",
        "town",
        "48.1",
        "plumb_bob",
        "network.embed_dim",
        "median_translation_m",
        "weights.safetensors",
    ):
        assert part in text
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    for section in sections:
        console.print(section)
    assert "town" in console.export_text()


def test_texts_of_a_map_move_no_cursor(tmp_path: Path, manifest, tensors) -> None:
    from dataclasses import replace

    from vloc_ros.maps import write_map

    hostile = replace(manifest, provenance={"note\x1b[2J": "before\x1b[31mred\x07\u202e", "tag": "[bold]x[/bold]"})
    write_map(tmp_path / "hostile", hostile, tensors)
    sections = describe_map(read_map(tmp_path / "hostile"))
    console = Console(width=200, record=True)
    for section in sections:
        console.print(section)
        assert "\x1b" not in str(section) and "\x07" not in str(section)
    text = console.export_text()
    assert "\x1b" not in text and "\\x1b[31mred\\x07" in text and "[bold]x[/bold]" in text
