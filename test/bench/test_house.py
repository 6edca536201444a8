"""bench/house.py on a tree of a dozen small files, of which every figure is known."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "house.py"
ARCHITECTURE = """
LAYERS: list[set[str]] = [{"errors"}, {"maps"}, {"localizers", "datasets"}, {"replay"}]
TRAIN_LAYERS = [{"run"}, {"irpnet", "camnet"}]
"""
TREE = {
    "vloc_ros/__init__.py": "",
    "vloc_ros/errors.py": 'class VlocError(Exception):\n    """All of them."""\n',
    "vloc_ros/maps/__init__.py": "from vloc_ros.maps.reader import read_map\n",
    # A circle of modules, which hides in a function, and an import of a higher layer.
    "vloc_ros/maps/reader.py": (
        "from vloc_ros.errors import VlocError\n\n\n"
        'def read_map(path):\n    """Read a map, see vloc_ros.maps.reader.\n\n    More.\n    """\n'
        "    from vloc_ros.maps import writer\n\n    return writer, VlocError\n"
    ),
    "vloc_ros/maps/writer.py": (
        "from . import reader\nfrom vloc_ros.replay import replay\n\n\n"
        'def write_map(path):\n    """Write a map."""\n    return reader, replay\n\n\n'
        'def _hidden():\n    """Not public."""\n\n\n'
        "def silent():\n    return 1\n"
    ),
    "vloc_ros/replay.py": (
        'from __future__ import annotations\n\n\ndef replay(bag):\n    """Localize a drive."""\n'
        + "    bag += 1\n" * 70
        + "    return bag\n"
    ),
    "vloc_ros/localizers/__init__.py": "",
    "vloc_ros/localizers/irpnet/__init__.py": "",
    "vloc_ros/localizers/irpnet/localizer.py": "from vloc_ros.maps import read_map\n\nA = read_map\n",
    "vloc_ros/localizers/irpnet/README.md": "IRPNet\n",
    "vloc_ros/localizers/camnet/localizer.py": "B = 1\n",
    "vloc_ros/datasets/tables.py": "",
    "vloc_ros/datasets/tum.py": "import vloc_ros.datasets.tables\n",
    "vloc_ros/datasets/kitti.py": "from vloc_ros.datasets import tables, tum\n",
    "vloc_train/__init__.py": "",
    "vloc_train/run.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from vloc_train.irpnet import train\n"
    ),
    # A circle as soon as the modules load.
    "vloc_train/irpnet/train.py": "import vloc_train.irpnet.losses\nimport vloc_train.run\n",
    "vloc_train/irpnet/losses.py": "from vloc_train.irpnet.train import C\nfrom vloc_train.camnet.train import D\n",
    "vloc_train/camnet/train.py": "D = 1\n",
    "test/test_architecture.py": ARCHITECTURE,
    "test/support/tiny_irpnet.py": "E = 1\nF = 2\n",
    "test/localizers/irpnet/test_localizer.py": "def test(): ...\n",
    "test/vloc_train/camnet/test_irpnet.py": "def test(): ...\n",  # of the folder, not of the name
    "docs/irpnet_maps.md": "One\ntwo\n",
    "docs/both_camnet_irpnet.md": "Of neither.\n",
}


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["house"]


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_files_and_lines(house, tree):
    sizes = house.measure(tree)["sizes"]
    counts = [text.count("\n") for name, text in TREE.items() if name.startswith("vloc_train") and name.endswith(".py")]
    assert sizes["vloc_train"] == {"files": 5, "lines": sum(counts), "median_lines": 2, "longest_lines": max(counts)}
    assert (sizes["docs"]["files"], sizes["docs"]["lines"]) == (2, 3)
    assert sizes["packages"]["files"] == sizes["vloc_ros"]["files"] + sizes["vloc_train"]["files"] == 18
    assert sizes["test"]["files"] == 4


def test_circles_of_modules_and_those_that_hide(house, tree):
    imports = house.measure(tree)["imports"]
    assert imports["circles"] == [["vloc_train.irpnet.losses", "vloc_train.irpnet.train"]]
    assert imports["circles_with_soft"] == [
        ["vloc_ros.maps.reader", "vloc_ros.maps.writer"],
        ["vloc_train.irpnet.losses", "vloc_train.irpnet.train", "vloc_train.run"],
    ]
    assert imports["soft"] == 2


def test_a_long_circle_is_found_whole(house, tmp_path):
    package = tmp_path / "vloc_ros"
    package.mkdir()
    for k in range(300):
        (package / f"m{k:03d}.py").write_text(f"import vloc_ros.m{(k + 1) % 300:03d}\n")
    (group,) = house.measure(tmp_path)["imports"]["circles"]
    assert len(group) == 300


def test_imports_against_the_order(house, tree):
    upward = house.measure(tree)["imports"]["upward"]
    assert upward["vloc_ros"] == ["vloc_ros/maps/writer.py:2 imports vloc_ros.replay"]
    assert sorted(upward["vloc_train"]) == [
        "vloc_train/irpnet/losses.py:2 imports vloc_train.camnet.train",  # neighbours are not below each other
        "vloc_train/run.py:4 imports vloc_train.irpnet.train",
    ]


def test_the_run_time_below_the_trainers(house, tree):
    (tree / "vloc_ros" / "replay.py").write_text("def replay(bag):\n    import vloc_train.run\n")
    assert "vloc_ros/replay.py:2 imports vloc_train.run" in house.measure(tree)["imports"]["upward"]["vloc_ros"]


def test_the_order_of_a_page(house, tree):
    (tree / "test" / "test_architecture.py").unlink()
    assert house.measure(tree)["imports"]["upward"] == {"vloc_ros": None, "vloc_train": None}
    page = "| layer | module | holds |\n|---|---|---|\n| 1 | `errors` | x |\n| 2 | `maps`, `replay` | `no` |\n\ntext\n"
    (tree / "docs" / "architecture.md").write_text(page)
    assert house.layers(tree) == {"vloc_ros": [{"errors"}, {"maps", "replay"}]}


def test_an_order_of_several_packages(house):
    found = house._layers_of_test("LAYERS = {'vloc_ros': [['errors'], ['maps']], 'vloc_train': ['run', ['irpnet']]}\n")
    assert found == {"vloc_ros": [{"errors"}, {"maps"}], "vloc_train": [{"run"}, {"irpnet"}]}


def test_arrows(house, tree):
    imports = house.measure(tree)["imports"]
    assert imports["arrows_between_rooms_of_vloc_train"] == 3  # irpnet to run and to camnet, run to irpnet
    assert imports["arrows_between_modules_of_datasets"] == 3


def test_the_longest_function(house, tree):
    figures = house.measure(tree)
    assert figures["longest_function"] == {"name": "replay", "path": "vloc_ros/replay.py", "lines": 73}
    assert figures["functions_over_60_lines"] == 1


def test_what_a_backend_costs(house, tree):
    found = house.measure(tree)["backends"]
    assert found["irpnet"] == {"files": 8, "run_time": 3, "train": 4, "tests": 3, "bench": 0, "docs": 3}
    assert found["camnet"] == {"files": 3, "run_time": 1, "train": 1, "tests": 1, "bench": 0, "docs": 0}


def test_drawing_is_the_same_for_a_seed_and_gives_no_path_away(house, tree):
    drawn = house.draw(tree, 3)
    assert drawn == house.draw(tree, 3)
    assert sorted(one.name for one in drawn) == ["read_map", "replay", "write_map"]
    about = {one.name: one.about for one in drawn}
    assert about["read_map"] == "Read a map, see ..." and about["replay"] == "Localize a drive."
    assert len(house.draw(tree, 3, count=2)) == 2


def test_scores(house):
    drawn = [
        house.Drawn("a", "", "vloc_ros/maps/reader.py"),
        house.Drawn("b", "", "vloc_ros/maps/__init__.py"),
        house.Drawn("c", "", "vloc_ros/maps/writer.py"),
        house.Drawn("d", "", "vloc_ros/replay.py"),
    ]
    answers = house.read_answers(
        "1 vloc_ros/maps/reader.py\n2: vloc_ros.maps\nword\n 3. ./vloc_ros/maps/reader.py (?)\n"
    )
    files, folders, wrong = house.score(drawn, answers)
    assert (files, folders) == (2, 3)
    assert [line.split()[:2] for line in wrong] == [["3", "c:"], ["4", "d:"]] and "guessed nothing" in wrong[1]


def run(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_command_on_a_revision(tree, tmp_path_factory):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(tree), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "before")
    (tree / "vloc_ros" / "replay.py").unlink()
    out = tmp_path_factory.mktemp("out") / "deeper" / "before.json"
    shown = run(tree, "--git", "HEAD", "--out", out)
    assert "longest function: replay, 73 lines" in shown and "circles with soft: 2" in shown
    before = json.loads(out.read_text())
    assert before["revision"] == "HEAD" and before["sizes"]["vloc_ros"]["files"] == 13
    now = run(tree)
    assert json.loads(now[now.index("\n{") :])["sizes"]["vloc_ros"]["files"] == 12


def test_the_command_asks_and_scores(tree, tmp_path_factory):
    questions = run(tree, "--guess", 5)
    assert len(questions.splitlines()) == 3 and ".py" not in questions
    answers = tmp_path_factory.mktemp("answers") / "mine.txt"
    numbers = {line.split()[1]: line.split()[0] for line in questions.splitlines()}
    answers.write_text(f"{numbers['replay:']} vloc_ros.replay\n{numbers['write_map:']} vloc_ros/maps/reader.py\n")
    assert run(tree, "--guess", 5, "--answers", answers).splitlines()[-1] == "1 of 3 files right, 2 of 3 folders"


def test_wrong_use(tree, tmp_path_factory):
    assert "--guess" in run(tree, "--answers", "x", code=2)
    assert "vloc_ros" in run(tmp_path_factory.mktemp("empty"), code=2)
    assert "house: " in run(tree, "--git", "no-such-revision", code=1)
