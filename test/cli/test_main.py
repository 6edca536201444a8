"""The command line: exit codes, one line on stderr, and commands found by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import typer
from rich.text import Text

import vloc_ros
from vloc_ros.cli import main as cli
from vloc_ros.cli import plugins
from vloc_ros.cli.main import main
from vloc_ros.datasets import open_sequence
from vloc_ros.errors import ConfigError
from vloc_ros.maps import MapManifest, Scene, write_map
from vloc_ros.plugins import API_VERSION
from vloc_ros.resources import share_path
from vloc_ros.types import CameraModel


def run(*arguments: str, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def flat(tmp_path):
    (tmp_path / "flat" / "rgb").mkdir(parents=True)
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 255, (18, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "flat" / "rgb" / f"{i}.png"), image)
    row = "1 0 0 0 0 1 0 0 0 0 1 {}"
    (tmp_path / "flat" / "poses.txt").write_text("\n".join(row.format(i) for i in range(4)))
    return tmp_path / "flat"


def test_version_and_help(capsys):
    assert run("--version", capsys=capsys)[:2] == (0, vloc_ros.__version__ + "\n")
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for name in ("convert", "replay", "map", "demo", "train", "bench"):
        assert name in out


def started(*arguments, **environment) -> subprocess.Popen:
    """``vloc`` in a process of its own."""
    command = [sys.executable, "-m", "vloc_ros.cli.main", *(str(a) for a in arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def test_a_terminal_without_the_letters_of_a_name(flat, tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    process = started("convert", "kitti", flat, tmp_path / "naïve", "--intrinsics", "30,30,15.5,8.5", **ascii_only)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err
    assert out.strip() and out.isascii() and (tmp_path / "naïve").is_dir()


def test_sigterm_ends_like_an_interrupt(tmp_path):
    process = started("convert", "town", tmp_path / "town", "--traversals", "1", "--loop-m", "400", "--no-resume")
    hidden = tmp_path / "town" / ".traversal_0.convert"
    deadline = time.monotonic() + 300
    while not hidden.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.splitlines()[-1]) == (1, "vloc: interrupted")
    assert not list((tmp_path / "town").iterdir())


def test_a_package_that_cannot_be_imported_is_one_line(monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise ImportError("libGL.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr("vloc_ros.maps.read_map", broken)
    code, _, err = run("map", "info", "x", capsys=capsys)
    assert code == 1 and err == "vloc: libGL.so.1: cannot open shared object file and more\n"


def test_names_with_escapes_move_no_cursor(tmp_path, capsys):
    code, _, err = run("map", "info", tmp_path / "a\x1b[2Jb", capsys=capsys)
    assert code == 1 and "\x1b" not in err and "a\\x1b[2Jb" in err


def test_convert_kitti(flat, tmp_path, capsys):
    arguments = ["convert", "kitti", flat, tmp_path / "bag", "--intrinsics", "30,30,15.5,8.5", "--frames", "1:"]
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out.strip()) == (0, str(tmp_path / "bag")), err
    assert len(open_sequence(tmp_path / "bag")) == 3
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1 and err.startswith("vloc: ") and "already exists" in err and err.count("\n") == 1
    assert run(*arguments, "--overwrite", "--storage", "sqlite3", capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "kitti"],
        ["convert", "mars", "a", "b"],
        ["convert", "kitti", "a", "b", "--intrinsics", "1,2,3"],
        ["convert", "kitti", "a", "b", "--intrinsics", "1,2,3,x"],
        ["convert", "kitti", "a", "b", "--storage", "hdf5"],
        ["replay"],
        ["replay", "a", "--map", "m", "--out", "o", "--set", "novalue"],
        ["replay", "a", "--map", "m", "--out", "o", "--set", "candidates=[1,"],
        ["train", "imposing", "--data", "a", "--out", "o", "--set", "network.embed_dim={"],
        ["train", "imposing", "--data", "a", "--out", "o", "--set", "seed=1", "--set", "seed.deeper=1"],
        ["train", "imposing"],
        ["train", "imposing", "--data", "a", "--out", "o", "--max-minutes", "0"],
        ["train", "imposing", "--data", "a", "--out", "o", "--seed", "-1"],
        ["train", "imposing", "--data", "a", "--out", "o", "--devices", "0"],
        ["map", "explode"],
        ["--nonsense"],
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    assert run(*arguments, capsys=capsys)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["convert", "kitti", "/no/such/folder", "out"], "expected a folder, found nothing"),
        (["replay", "/no/bag", "--map", "/no/map", "--out", "out"], "/no/"),
        (["map", "info", "/no/map"], "/no/map"),
        (["map", "verify", "/no/map"], "/no/map"),
        (["convert", "town", "out", "--loop-m", "5"], "town"),
    ],
)
def test_failure_is_1_with_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1 and text in err and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("where", ["inside a command", "before one", "in a plugin"])
def test_an_interrupt_is_1_with_one_line(monkeypatch, capsys, where):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    if where == "before one":
        monkeypatch.setattr(cli, "app", interrupted)
        monkeypatch.setattr(cli, "_add_foreign_commands", lambda: None)
    elif where == "in a plugin":
        provide(monkeypatch, ("somebody", "greet", "somebodys_command:greet"), greet=lambda: interrupted())
    else:
        monkeypatch.setattr("vloc_ros.maps.read_map", interrupted)
    arguments = ["greet"] if where == "in a plugin" else ["map", "info", "campus"]
    code, _, err = run(*arguments, capsys=capsys)
    assert (code, err.strip()) == (1, "vloc: interrupted")


def test_maps_are_explained_without_interpreting_what_they_say(tmp_path, capsys):
    """Texts of a map are untrusted: no markup, and no crash from what looks like some."""
    manifest = MapManifest(
        backend="fake",
        scenes=(Scene("[/yard]", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),),
        camera=CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5),
        provenance={"note": "[/] [bold]quoted[/bold]"},
    )
    write_map(tmp_path / "map", manifest, {"w.safetensors": {"w": torch.zeros(2)}})
    code, out, err = run("map", "info", tmp_path / "map", capsys=capsys)
    assert (code, err) == (0, "") and "[/yard]" in out and "[/] [bold]quoted[/bold]" in out
    assert run("map", "verify", tmp_path / "map", capsys=capsys)[0] == 0
    (tmp_path / "map" / "[bold]stranger.txt").write_text("x")
    code, out, err = run("map", "verify", tmp_path / "map", capsys=capsys)
    assert code == 1 and "[bold]stranger.txt" in out and "1 of 3 checks failed" in err and err.count("\n") == 1


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "vloc_ros", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, vloc_ros.__version__), done.stderr


def hello(name: str, times: int = 1) -> None:
    """A command of somebody else's package."""
    typer.echo(" ".join([f"hello {name}"] * times))


def provide(monkeypatch, *points: tuple[str, str, str], **content) -> None:
    """Entry points (package, name, target) of the group of commands, and a module ``somebodys_command``."""
    module = type(sys)("somebodys_command")
    vars(module).update({"VLOC_ROS_API": API_VERSION, **content})
    monkeypatch.setitem(sys.modules, "somebodys_command", module)
    # What the program takes up it keeps: other tests see what it had before.
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    monkeypatch.setattr(cli, "_foreign", set(cli._foreign))
    made = [SimpleNamespace(name=n, value=v, dist=SimpleNamespace(name=p)) for p, n, v in points]
    monkeypatch.setattr(metadata, "entry_points", lambda group: made if group == plugins.COMMANDS.group else [])


def test_a_command_of_another_package(monkeypatch, capsys):
    provide(monkeypatch, ("somebody", "greet", "somebodys_command:greet"), greet=hello)
    assert run("greet", "you", "--times", "2", capsys=capsys)[:2] == (0, "hello you hello you\n")
    assert run("greet", "you", "--times", "x", capsys=capsys)[0] == 2
    assert "--times" in run("greet", "--help", capsys=capsys)[1]
    assert "greet" in run("--help", capsys=capsys)[1]


@pytest.mark.parametrize("name", ["train", "replay"])
def test_no_package_takes_a_command_over(monkeypatch, capsys, caplog, name):
    provide(monkeypatch, ("thief", name, "somebodys_command:greet"), greet=hello)
    assert run(name, "--help", capsys=capsys)[0] == 0
    assert f"command '{name}' of package thief is ignored: the name is built in" in caplog.text


def test_a_faulty_package_is_one_line(monkeypatch, capsys):
    provide(monkeypatch, ("faulty", "broken", "no_such_package.cli:train"))
    code, _, err = run("broken", capsys=capsys)
    assert code == 1 and "no_such_package" in err and "package faulty" in err and err.count("\n") == 1
    assert run("map", "--help", capsys=capsys)[0] == 0


def commands(group, words=()):
    """Every command of the command line, groups included."""
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    code, out, err = run(*words, "--help", capsys=capsys)
    assert (code, err) == (0, "") and "Usage" in out
    if words and words[-1] in plugins.COMMANDS.builtin:
        pytest.importorskip("lightning", reason="needs the extra [train]")
        texts = [parameter.help for parameter in plugins.command_of(words[-1]).params if parameter.help]
        assert texts and all(Text.from_markup(text).plain == text for text in texts)  # no square brackets


@pytest.mark.parametrize(
    "arguments",
    [["train", "imposing", "--data", "{bag}", "--out", "{bag}.map"]],
)
def test_training_without_its_extra_names_it(arguments, flat, tmp_path, repo_root, capsys):
    """As in an installation with the run-time dependencies and rosbags only."""
    bag = tmp_path / "bag"
    assert run("convert", "kitti", flat, bag, "--intrinsics", "30,30,15.5,8.5", capsys=capsys)[0] == 0
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('lightning', 'pytorch_lightning', 'matplotlib'):
            raise ModuleNotFoundError('hidden: ' + name, name=name)
sys.meta_path.insert(0, Hide())
from vloc_ros.cli.main import main
main({[a.format(bag=bag) for a in arguments]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "needs lightning: pip install 'vloc_ros[train]'" in done.stderr


def test_a_command_nobody_provides(monkeypatch):
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match=plugins.COMMANDS.group):
        plugins.run_plugin("teleport", [], "vloc teleport")


def test_help_and_maps_are_quick_because_nothing_heavy_is_imported():
    """Imports are looked at, not the clock: each of these takes longer to import than the command to run."""
    text = """
import sys
from vloc_ros.cli.main import main
heavy = {heavy!r}
try:
    main({arguments!r})
except SystemExit as stop:
    assert not stop.code, stop.code
found = sorted(heavy & {{name.split('.')[0] for name in sys.modules}})
assert not found, found
"""
    arguments = (["--help"], {"numpy", "torch", "cv2", "timm", "scipy", "matplotlib", "rosbags", "pycolmap"})
    info = (["map", "info", str(share_path("models", "town_demo"))], {"torch", "timm", "cv2", "scipy", "matplotlib"})
    for words, heavy in (arguments, info):
        program = text.format(heavy=heavy, arguments=words)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
