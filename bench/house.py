"""How large is the house, and how well are its rooms kept apart?

Counts lines and files, circles of imports, imports against the order of the layers, arrows between the rooms of
vloc_train and between the modules of vloc_ros/datasets, the longest function, and what every backend costs. Nothing is
imported: all of it is read from the source.

    python bench/house.py                              # this checkout
    python bench/house.py --git v0.1.0 --out before.json
    python bench/house.py --guess 7                    # 30 functions: in which file is each?
    python bench/house.py --guess 7 --answers mine.txt # ... and how many were right

An answer is a line ``NUMBER PATH``; a dotted module name will do for the path.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vloc_ros", "vloc_train")
DRAWN = 30

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Arrow:
    """An import of a module of the house. ``soft``: in a function, or for type checkers alone."""

    source: str
    target: str
    path: str
    line: int
    soft: bool


@dataclass(frozen=True)
class Drawn:
    """A public function, and where it is."""

    name: str
    about: str
    path: str


def lines_of(path: Path) -> int:
    """As ``wc -l`` counts them."""
    return path.read_bytes().count(b"\n")


def module_of(path: Path, root: Path) -> str:
    """``vloc_ros/maps/__init__.py`` is ``vloc_ros.maps``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class House:
    """A tree, parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = [path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]
        self.sources = {path: ast.parse(path.read_text(encoding="utf-8")) for path in found}
        self.modules = {module_of(path, root): path for path in found}

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def files(self, folder: str, suffix: str) -> list[Path]:
        return sorted((self.root / folder).rglob(f"*{suffix}"))

    def module(self, name: str) -> str | None:
        """The module that a dotted name is in: ``vloc_ros.maps.read_map`` is of ``vloc_ros.maps``."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name or None

    def arrows(self) -> list[Arrow]:
        """All imports among the packages' modules; ``from a import b`` leads to ``a.b`` where that is a module."""
        out = []
        for path, tree in self.sources.items():
            source = module_of(path, self.root)
            package = source if path.name == "__init__.py" else source.rpartition(".")[0]
            for name, line, soft in _imports(tree, package):
                target = self.module(name)
                if target is not None and target != source:
                    out.append(Arrow(source, target, self.relative(path), line, soft))
        return out

    def functions(self) -> Iterator[tuple[Path, Function]]:
        """Every function and method, nested ones too."""
        for path, tree in self.sources.items():
            for node in ast.walk(tree):
                if isinstance(node, Function):
                    yield path, node


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, int, bool]]:
    """(absolute dotted name, line, soft) of every import, those by ``import_module("...")`` too."""
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, soft = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, soft) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno, soft) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno, soft
        inside = isinstance(node, (*Function.__args__, ast.Lambda))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += [(child, True) for child in node.body]
            todo += [(child, soft) for child in node.orelse]
        else:
            todo += [(child, soft or inside) for child in ast.iter_child_nodes(node)]


def circles(arrows: Iterable[Arrow]) -> list[list[str]]:
    """Groups of modules that import each other in a circle: strongly connected components (Tarjan 1972)."""
    targets: dict[str, set[str]] = {}
    for arrow in arrows:
        targets.setdefault(arrow.source, set()).add(arrow.target)
        targets.setdefault(arrow.target, set())
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(targets[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                out.append(sorted(group))

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 10 * len(targets) + 1000))
    for node in sorted(targets):
        if node not in index:
            visit(node)
    sys.setrecursionlimit(before)
    return sorted(out)


# -- the order of the layers ----------------------------------------------------------------------------


def layers(root: Path) -> dict[str, list[set[str]]]:
    """The order that the tree states, lowest first, by package: of the architecture's test, else of its page."""
    test, page = root / "test" / "test_architecture.py", root / "docs" / "architecture.md"
    found = _layers_of_test(test.read_text(encoding="utf-8")) if test.is_file() else {}
    if page.is_file():
        found = {**_layers_of_page(page.read_text(encoding="utf-8")), **found}
    return found


def _layers_of_test(text: str) -> dict[str, list[set[str]]]:
    """``LAYERS`` (of vloc_ros, or of several packages by name), and the same name with ``TRAIN`` in it."""
    out: dict[str, list[set[str]]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.AnnAssign):
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        names = [target.id for target in targets if isinstance(target, ast.Name) and "LAYERS" in target.id]
        if not names or node.value is None:
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue
        package = "vloc_train" if "TRAIN" in names[0] else "vloc_ros"
        for name, rows in (value if isinstance(value, dict) else {package: value}).items():
            out[str(name)] = [{row} if isinstance(row, str) else set(row) for row in rows]
    return out


def _layers_of_page(text: str) -> dict[str, list[set[str]]]:
    """Tables whose first column is called layer: one row a layer, its units in code marks."""
    out: dict[str, list[set[str]]] = {}
    rows: list[set[str]] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            rows = None
        elif cells[0].lower() == "layer":
            rows = out.setdefault("vloc_train" if "vloc_train" in line else "vloc_ros", [])
        elif rows is not None and len(cells) > 1 and not set(cells[0]) <= set("-: "):
            rows.append(set(re.findall(r"`(\w+)`", cells[1])))
    return out


def unit_of(module: str) -> str:
    """What a module is of, directly below its package; the package's own ``__init__`` is of none."""
    return module.split(".")[1] if "." in module else ""


def upward(arrows: Iterable[Arrow], order: dict[str, list[set[str]]]) -> dict[str, list[str] | None]:
    """Imports of a unit from its own layer or from one above, by package; None where no order is stated."""
    out: dict[str, list[str] | None] = {name: [] if name in order else None for name in PACKAGES}
    rank = {(name, unit): row for name, rows in order.items() for row, units in enumerate(rows) for unit in units}
    for arrow in arrows:
        package = arrow.source.split(".")[0]
        found = out[package]
        if arrow.target.split(".")[0] != package:
            if package == "vloc_ros":
                out[package] = [*(found or []), f"{arrow.path}:{arrow.line} imports {arrow.target}"]
            continue
        mine, other = unit_of(arrow.source), unit_of(arrow.target)
        if found is None or not mine or not other or mine == other:
            continue
        top = len(order[package])
        if rank.get((package, other), top) >= rank.get((package, mine), top):
            found.append(f"{arrow.path}:{arrow.line} imports {arrow.target}")
    return out


# -- figures --------------------------------------------------------------------------------------------


def _sizes(paths: list[Path]) -> dict[str, float]:
    counts = [lines_of(path) for path in paths]
    median = statistics.median(counts) if counts else 0
    return {"files": len(counts), "lines": sum(counts), "median_lines": median, "longest_lines": max(counts, default=0)}


def backends(house: House) -> dict[str, dict[str, int]]:
    """Lines and files of each folder of vloc_ros/localizers with its namesakes elsewhere: run time, train, tests, docs.

    A file is a backend's when it lies in a folder of that name, or its own name has that word (and no other backend's).
    Pages count as docs wherever they lie. A room directly below vloc_ros belongs to no backend, whatever its name.
    """
    folders = (path for path in (house.root / "vloc_ros" / "localizers").glob("*/") if list(path.glob("*.py")))
    names = sorted(path.name for path in folders)
    kinds = {"vloc_ros": "run_time", "vloc_train": "train", "test": "tests", "docs": "docs", "bench": "bench"}
    out: dict[str, dict[str, int]] = {
        name: {"files": 0, "run_time": 0, "train": 0, "tests": 0, "bench": 0, "docs": 0} for name in names
    }
    for top, kind in kinds.items():
        for path in sorted(p for p in (house.root / top).rglob("*") if p.suffix in (".py", ".md")):
            parts = path.relative_to(house.root).parts
            name = _backend_of(parts, names)
            if name is not None:
                out[name]["files"] += 1
                out[name]["docs" if path.suffix == ".md" else kind] += lines_of(path)
    return out


def _backend_of(parts: tuple[str, ...], names: list[str]) -> str | None:
    for above, folder in itertools.pairwise(parts):
        if folder in names and above in ("localizers", "vloc_train"):
            return folder
    if parts[0] == "vloc_ros" and parts[1] in names:
        return None
    words = re.split(r"[_.]", parts[-1])
    found = [name for name in names if name in words or name in parts[1:-1]]
    return found[0] if len(found) == 1 else None


def _datasets(arrows: Iterable[Arrow]) -> set[tuple[str, str]]:
    inside = "vloc_ros.datasets."
    return {(a.source, a.target) for a in arrows if a.source.startswith(inside) and a.target.startswith(inside)}


def measure(root: Path) -> dict[str, Any]:
    """All figures of a tree."""
    house = House(root)
    arrows = house.arrows()
    train = {
        (unit_of(a.source), unit_of(a.target))
        for a in arrows
        if a.source.startswith("vloc_train.") and a.target.startswith("vloc_train.")
    }
    path, longest = max(house.functions(), key=lambda found: _length(found[1]), default=(None, None))
    against = upward(arrows, layers(root))
    return {
        "sizes": {
            **{name: _sizes(house.files(name, ".py")) for name in (*PACKAGES, "test", "bench")},
            "packages": _sizes([p for name in PACKAGES for p in house.files(name, ".py")]),
            "docs": _sizes(house.files("docs", ".md")),
        },
        "imports": {
            "circles": circles(a for a in arrows if not a.soft),
            "circles_with_soft": circles(arrows),
            "soft": len({(a.source, a.target) for a in arrows if a.soft}),
            "upward": against,
            "arrows_between_rooms_of_vloc_train": len({pair for pair in train if pair[0] != pair[1]}),
            "arrows_between_modules_of_datasets": len(_datasets(arrows)),
        },
        "longest_function": {
            "name": longest.name if longest else "",
            "path": house.relative(path) if path else "",
            "lines": _length(longest) if longest else 0,
        },
        "functions_over_60_lines": sum(_length(node) > 60 for _, node in house.functions()),
        "backends": backends(house),
    }


def _length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def table(figures: dict[str, Any]) -> str:
    """For people."""
    rows = [f"{'':<12}{'files':>8}{'lines':>9}{'median':>9}{'longest':>9}"]
    for name, size in figures["sizes"].items():
        cells = f"{size['files']:>8}{size['lines']:>9}{size['median_lines']:>9g}{size['longest_lines']:>9}"
        rows.append(f"{name:<12}{cells}")
    imports = figures["imports"]
    rows += ["", "imports"]
    for key in ("circles", "circles_with_soft"):
        rows.append(f"  {key.replace('_', ' ')}: {len(imports[key])}")
        rows += [f"    {', '.join(group)}" for group in imports[key]]
    for package, found in imports["upward"].items():
        rows.append(f"  upward in {package}: {'no order is stated' if found is None else len(found)}")
        rows += [f"    {text}" for text in found or []]
    rows.append(f"  arrows between the rooms of vloc_train: {imports['arrows_between_rooms_of_vloc_train']}")
    rows.append(f"  arrows between the modules of datasets: {imports['arrows_between_modules_of_datasets']}")
    longest = figures["longest_function"]
    rows.append(f"longest function: {longest['name']}, {longest['lines']} lines, {longest['path']}")
    rows.append(f"functions of more than 60 lines: {figures['functions_over_60_lines']}")
    kinds = ("run_time", "train", "tests", "bench", "docs")
    rows += ["", f"{'backend':<12}{'files':>8}" + "".join(f"{kind.replace('_', ' '):>10}" for kind in kinds)]
    for name, cost in figures["backends"].items():
        rows.append(f"{name:<12}{cost['files']:>8}" + "".join(f"{cost[kind]:>10}" for kind in kinds))
    return "\n".join(rows)


# -- guess the file -------------------------------------------------------------------------------------


def draw(root: Path, seed: int, count: int = DRAWN) -> list[Drawn]:
    """Public functions of modules, drawn without replacement: those with a docstring, whatever ``__all__`` says."""
    house = House(root)
    every = []
    for path, tree in house.sources.items():
        for node in tree.body:
            if isinstance(node, Function) and not node.name.startswith("_"):
                about = (ast.get_docstring(node) or "").partition("\n")[0]
                if about:
                    # Names of modules would give the answer away.
                    about = re.sub(r"vloc_(ros|train)[\w./]*", "...", about)
                    every.append(Drawn(node.name, about, house.relative(path)))
    every.sort(key=lambda drawn: (drawn.name, drawn.path))
    return random.Random(seed).sample(every, min(count, len(every)))


def read_answers(text: str) -> dict[int, str]:
    """Number to path; dotted names become paths, and what follows a path is ignored."""
    out = {}
    for line in text.splitlines():
        found = re.match(r"\s*(\d+)[.:)]?\s+([\w./]+)", line)
        if found:
            path = found[2].strip("./")
            out[int(found[1])] = path if path.endswith(".py") else path.replace(".", "/") + ".py"
    return out


def score(drawn: list[Drawn], answers: dict[int, str]) -> tuple[int, int, list[str]]:
    """Files that were right, folders that were right, and a line for each wrong answer."""
    files, folders, wrong = 0, 0, []
    for number, one in enumerate(drawn, start=1):
        answer = answers.get(number, "")
        module = one.path.removesuffix("/__init__.py") + ".py" if one.path.endswith("/__init__.py") else one.path
        right = answer in (one.path, module)
        files += right
        folders += right or Path(answer).parent == Path(one.path).parent
        if not right:
            wrong.append(f"{number:>3} {one.name}: {one.path}, guessed {answer or 'nothing'}")
    return files, folders, wrong


def checkout(repository: Path, revision: str, folder: Path) -> Path:
    """The files of a revision, in ``folder``."""
    command = ["git", "-C", str(repository), "archive", "--format=tar", revision]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"house: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT, help="a checkout; default: this one")
    parser.add_argument("--git", metavar="REV", help="another revision of it")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--guess", type=int, metavar="SEED", help=f"draw {DRAWN} public functions")
    parser.add_argument("--answers", type=Path, help="with --guess: print the score of these answers")
    options = parser.parse_args()
    if options.answers is not None and options.guess is None:
        parser.error("--answers: needs --guess with the seed that the functions were drawn with")
    with ExitStack() as stack:
        tree = options.tree
        if options.git:
            tree = checkout(tree, options.git, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if not (tree / PACKAGES[0]).is_dir():
            parser.error(f"{tree}: expected a checkout with a folder {PACKAGES[0]}, found none")
        if options.guess is not None:
            guess(draw(tree, options.guess), options.answers)
            return
        figures = measure(tree)
    print(table(figures))
    text = json.dumps({"revision": options.git or "", **figures}, indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


def guess(drawn: list[Drawn], answers: Path | None) -> None:
    """Print the questions, or the score of the answers."""
    if answers is None:
        for number, one in enumerate(drawn, start=1):
            print(f"{number:>3} {one.name}: {one.about}")
        return
    files, folders, wrong = score(drawn, read_answers(answers.read_text(encoding="utf-8")))
    print("\n".join(wrong))
    print(f"{files} of {len(drawn)} files right, {folders} of {len(drawn)} folders")


if __name__ == "__main__":
    main()
