"""The documentation against the code: commands and options exist, links resolve, examples run, tables are current.

``python test/test_docs.py`` writes the generated tables of docs/settings.md and docs/datasets.md anew.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("vloc_ros/**/*.md")])
BEGIN, END = "<!-- settings: begin", "<!-- settings: end -->"
FORMATS_BEGIN, FORMATS_END = "<!-- formats: begin -->", "<!-- formats: end -->"


# -- commands -------------------------------------------------------------------------------------


def command_lines() -> list[tuple[str, str]]:
    """(page, line) of every ``vloc`` command: in fenced and indented blocks, and in backquotes."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        lines += re.findall(r"^    (vloc .*)$", text, re.MULTILINE)
        lines += re.findall(r"`(vloc [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        found += [(page.name, line) for line in lines if line.startswith("vloc ")]
    return sorted(set(found))


def parser_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``vloc WORDS`` ends in, and what is left for it to parse."""
    from vloc_ros.cli import plugins
    from vloc_ros.cli.main import app

    outer = words[1:] if words[:1] == ["map"] else words
    if outer and outer[0] in plugins.COMMANDS.builtin:
        pytest.importorskip("lightning", reason="vloc train needs the extra [train]")
        return plugins.command_of(outer[0]), outer[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def problem_of(line: str) -> str:
    """Why a documented command is wrong usage; empty when it is right. Inline mentions may leave arguments out."""
    words = shlex.split(line.partition(" #")[0])[1:]
    command, rest = parser_of(words)
    if hasattr(command, "commands"):
        return f"no command {' '.join(words)!r}" if rest else ""  # a group by itself, in prose
    params = command.get_params(typer.Context(command))  # some commands make their options when they are asked
    known = {name for p in params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}
    unknown = [w for w in rest if w.startswith("--") and w.partition("=")[0] not in known | {"--help"}]
    return f"unknown option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_documented_commands_exist(page, line):
    assert not problem_of(line), f"{page}: {line}"


@pytest.mark.parametrize("line", ["vloc replay BAG --mapp MAP", "vloc fly", "vloc convert moon SRC OUT"])
def test_wrong_commands_are_noticed(line):
    assert problem_of(line)


def test_every_command_is_documented():
    from vloc_ros.cli.main import app

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, command in typer.main.get_command(app).commands.items():
        assert f"vloc {name}" in text, name
        for inner in getattr(command, "commands", {}):
            assert f"vloc {name} {inner}" in text, f"{name} {inner}"


def full_lines() -> list[str]:
    """The commands of code blocks with real values, which must parse completely."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    lines = {line.strip() for block in blocks for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith("vloc "))


@pytest.mark.parametrize("line", full_lines())
def test_code_blocks_parse(line):
    command, rest = parser_of(shlex.split(line.partition(" #")[0])[1:])
    command.make_context(command.name or "vloc", list(rest))  # raises a usage error


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert name in targets, f"{page.name}: make {name}"


def test_launch_arguments_exist():
    launch = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "launch").glob("*.py"))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"(\w+\.launch\.py)", text):
            assert any((ROOT / folder / file).is_file() for folder in ("launch", "examples")), f"{page.name}: {file}"
        for line in re.findall(r"ros2 launch .*", text):
            for name in re.findall(r"(\w+):=", line):
                assert f'("{name}"' in launch, f"{page.name}: {name}:="


# -- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{target}: nothing there"
        if anchor:
            assert anchor in anchors(goal), f"{target}: no such heading"


# -- examples -------------------------------------------------------------------------------------


def example(page: str, marker: str) -> str:
    """The block behind ``<!-- marker -->``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page}: no example {marker!r}"
    return found[1]


def test_library_snippet_runs(monkeypatch, capsys):
    code = example("docs/using.md", "snippet: library")
    path = re.search(r'load_localizer\("([^"]+)"', code)[1]
    if not (ROOT / path).exists():
        pytest.skip(f"the demo map {path} is not in this checkout")
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/using.md", "exec"), {})
    assert capsys.readouterr().out.startswith(("LOCALIZED", "DEGRADED", "LOST"))


# -- tables ---------------------------------------------------------------------------------------


def settings_of(key: str) -> dict[str, Any]:
    """The settings that a table of docs/settings.md is about, by the name of their preset: ``train imposing``, ..."""
    what, _, backend = key.partition(" ")
    if what == "densify":
        from vloc_train.copr.densify import densify_settings

        return {"default": densify_settings({"method": "nonlinear"})}
    from vloc_train.training.registry import BUILDERS, TRAINERS, find

    trainer = find(TRAINERS if what == "train" else BUILDERS, backend, what)
    return {name: trainer.settings(name, None, key) for name in trainer.presets}


def table_keys() -> list[str]:
    """Every table that docs/settings.md has to have."""
    from vloc_train.training.registry import BUILDERS, TRAINERS

    return [f"train {b}" for b in TRAINERS] + [f"build {b}" for b in BUILDERS] + ["densify"]


def settings_table(key: str) -> str:
    """Every setting: the presets' values, its range, and what its class says about it."""
    from vloc_ros.settings import describe_settings, settings_to_mapping

    presets = settings_of(key)
    values = {name: settings_to_mapping(made) for name, made in presets.items()}

    def value(mapping, name):
        for part in name.split("."):
            mapping = mapping[part]
        return written(mapping)

    rows = [f"| setting | {' | '.join(f'`{name}`' for name in presets)} | kind | meaning |"]
    rows.append("|---|" + "---|" * len(presets) + "---|---|")
    first = next(iter(presets))
    for row in describe_settings(type(presets[first])):
        if key == "build auto" and row.name.startswith(("features.", "pixloc.")):
            continue  # those of the members have tables of their own
        cells = [value(mapping, row.name) for mapping in values.values()]
        cells[1:] = ["same" if cell == cells[0] else cell for cell in cells[1:]]
        kind = f"{row.kind}, {row.range}" if row.range else row.kind
        rows.append(f"| `{row.name}` | {' | '.join(cells)} | {kind} | {row.doc} |")
    return "\n".join(rows)


def written(value: Any) -> str:
    """A plain value as YAML has it, short, in backquotes."""
    if value is None or value == "" or value == {} or value == []:
        return "none"
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=10**6).partition(chr(10))[0]}`"


def written_tables() -> dict[str, str]:
    """The tables of docs/settings.md as they stand there."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    return {key.strip(): table.strip() for key, table in re.findall(rf"{BEGIN}(.*?)-->(.*?){END}", text, re.DOTALL)}


def format_tables() -> str:
    """Every layout of data sets with its options, for docs/datasets.md."""
    from vloc_ros.datasets.formats import FORMATS
    from vloc_ros.settings import describe_settings

    out = []
    for item in FORMATS.values():
        out += [
            f"### `vloc convert {item.name} SRC OUT`: {item.about}",
            "",
            "| option | default | kind | meaning |",
            "|---|---|---|---|",
        ]
        for row in describe_settings(item.reader().Options):
            kind = f"{row.kind}, {row.range}" if row.range else row.kind
            out.append(f"| `{row.name}` | {written(row.default)} | {kind} | {row.doc} |")
        out.append("")
    return "\n".join(out).strip()


def test_every_layout_is_documented():
    from vloc_ros.datasets.formats import FORMATS

    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"| `{name}` |" in text, f"docs/datasets.md: no row for {name}"
    written = text[text.index(FORMATS_BEGIN) + len(FORMATS_BEGIN) : text.index(FORMATS_END)].strip()
    assert written == format_tables(), "docs/datasets.md: out of date: python test/test_docs.py"


def test_tables_of_settings_are_current():
    pytest.importorskip("lightning", reason="the trainers need the extra [train]")
    tables = written_tables()
    assert sorted(tables) == sorted(table_keys())
    for key, table in tables.items():
        assert table == settings_table(key), f"docs/settings.md, {key}: out of date: python test/test_docs.py"


def test_every_setting_is_explained():
    pytest.importorskip("lightning", reason="the trainers need the extra [train]")
    from vloc_ros.settings import describe_settings

    for key in table_keys():
        for row in describe_settings(type(next(iter(settings_of(key).values())))):
            assert row.doc, f"{key}: {row.name}"


def test_every_figure_of_a_report_is_explained():
    import numpy as np

    from vloc_ros.evaluation.metrics import FrameRecord, evaluate
    from vloc_ros.evaluation.report import build_report
    from vloc_ros.types import LocalizationState

    text = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")
    section = text[text.index("## report.json") : text.index("## Plots")]
    records = [FrameRecord(1, LocalizationState.LOCALIZED, np.eye(4), np.eye(6), np.eye(4))]
    report = build_report(evaluate(records), records, {})
    explained = set(re.findall(r"`([a-z_0-9]+)`", section))
    nested = {key for name in ("nees", "latency_ms") for key in report[name]} | set(report["recall"][0])
    missing = {name for name in {*report, *nested} if name not in explained}
    assert not missing, missing


def test_configuration_example_is_accepted():
    pytest.importorskip("lightning", reason="the trainer needs the extra [train]")
    from vloc_train.imposing.settings import TrainSettings

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        changes = yaml.safe_load(block)
        assert TrainSettings.preset("small", changes).epochs == changes["epochs"]


def test_backend_readme_names_settings_that_exist():
    """Every dotted or starred setting of the comparison tables is one of the trainer's; none is left out."""
    pytest.importorskip("lightning", reason="the trainer needs the extra [train]")
    from vloc_ros.settings import describe_settings
    from vloc_train.imposing.settings import TrainSettings

    text = (ROOT / "vloc_ros/localizers/imposing/README.md").read_text(encoding="utf-8")
    tables = "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `"))
    named = {name for line in tables.splitlines() for name in re.findall(r"`([a-z_.*]+)`", line.split("|")[1])}
    known = {row.name for row in describe_settings(TrainSettings)}
    assert named <= known | {"augment.*"}, named - known
    # Not about the method: how long, how often, on what.
    practical = {"max_minutes", "precision", "validation_frames", "seed", "network.backbone_options"}
    practical |= {"network.pool_grid", "search.prior_sigmas"}  # stand beside the setting they belong to
    missing = {n for n in known - named - practical if not n.startswith("augment.")}
    assert not missing, missing


@pytest.mark.parametrize("backend", ["retrieval", "irpnet", "camnet", "copr", "cascade"])
def test_tables_of_a_backend_name_settings_that_exist(backend):
    """Every dotted name in a table of a backend's pages is a setting of its trainer or builder, or of the run time."""
    pytest.importorskip("lightning", reason="the trainers need the extra [train]")
    from vloc_ros.nodes.parameters import backend_parameters
    from vloc_ros.settings import describe_settings

    known = {spec.name for spec in backend_parameters(backend)}
    for key in table_keys():
        if key.endswith(f" {backend}") or (key, backend) == ("densify", "copr"):
            known |= {row.name for row in describe_settings(type(next(iter(settings_of(key).values()))))}
    for page in (ROOT / "vloc_ros" / "localizers" / backend).glob("*.md"):
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        named = {name for row in rows for name in re.findall(r"`([a-z_]+\.(?!safetensors)[a-z_]+)`", row)}
        assert named <= known, f"{page.name}: {named - known}"


def write_anew(name: str, pattern: str, text: Callable[[re.Match[str]], str]) -> None:
    """Replace what stands between the marks of a page."""
    target = ROOT / "docs" / name
    page = target.read_text(encoding="utf-8")
    target.write_text(re.sub(pattern, text, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write_anew(
        "datasets.md",
        f"({FORMATS_BEGIN}).*?({FORMATS_END})",
        lambda found: f"{found[1]}\n{format_tables()}\n{found[2]}",
    )
    write_anew(
        "settings.md",
        rf"({BEGIN}(.*?)-->).*?({END})",
        lambda found: f"{found[1]}\n{settings_table(found[2].strip())}\n{found[3]}",
    )
