"""The rules of the architecture, read from the source: who imports whom, and what is never used.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lower layers first. A unit (a module or package directly under vloc_ros) imports from layers above its own
# line only. A new unit must be given its place here.
LAYERS: list[set[str]] = [
    {"errors", "yaml_text"},
    {"types"},
    {"settings", "resources", "staging", "plugins", "transfer"},
    {"geometry"},
    {"images"},
    {"features", "maps", "messages", "town"},
    {"tracking"},
    {"localizers"},
    {"frames", "diagnostics"},
    {"pipeline"},
    {"datasets"},
    {"evaluation"},
    {"convert"},
    {"replay", "nodes"},
    {"cli"},
    {"__main__"},
]
# The same of vloc_train.
TRAIN_LAYERS: list[set[str]] = [
    {"frame_choice"},
    {"training"},
    {"mapping"},
    {"retrieval"},
    {"camnet", "copr", "features", "imposing", "irpnet", "pixloc"},
    {"auto", "map_report"},
    {"build_map", "trial_page"},
    {"trial"},
    {"benchmark", "cli_options"},
    {"cli"},
]


def ranks(layers: list[set[str]]) -> dict[str, int]:
    return {unit: rank for rank, units in enumerate(layers) for unit in units}


RANKS = {"vloc_ros": ranks(LAYERS), "vloc_train": ranks(TRAIN_LAYERS)}

ROS = {
    "action_msgs", "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "diagnostic_updater",
    "geometry_msgs", "image_geometry", "launch", "launch_ros", "lifecycle_msgs", "message_filters", "nav_msgs",
    "rcl_interfaces", "rclpy", "rosbag2_py", "rosgraph_msgs", "rosidl_runtime_py", "sensor_msgs", "sensor_msgs_py",
    "std_msgs", "std_srvs", "tf2_geometry_msgs", "tf2_msgs", "tf2_ros", "tf_transformations", "visualization_msgs",
}  # fmt: skip
# Code execution on reading (pickle and its relatives), and evo, whose licence is GPL.
NEVER = {"cPickle", "cloudpickle", "dill", "evo", "joblib", "marshal", "pickle", "shelve"}
EXTRAS = {"faiss", "jinja2", "lightning", "matplotlib", "pycolmap", "pytorch_lightning", "rosbags", "torchvision"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


@functools.cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """All nodes of a module: read by several tests, parsed once."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str, package: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import; ``from a import b`` gives ``a.b``."""
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func)
            if name in ("importlib.import_module", "import_module", "__import__") and isinstance(
                node.args[0].value, str
            ):
                yield node.lineno, node.args[0].value


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    return imports(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parts[:-1])


def layer_violations(unit: str, found: Iterator[tuple[int, str]], package: str = "vloc_ros") -> list[str]:
    out, rank = [], RANKS[package]
    for line, name in found:
        parts = name.split(".")
        if parts[0] != package or len(parts) < 2 or parts[1] not in rank or parts[1] == unit:
            continue
        if rank[parts[1]] >= rank[unit]:
            out.append(f"line {line}: {unit} imports {name}")
    return out


def graph(package: str) -> dict[str, set[str]]:
    """Which modules of a package import which; imports in functions and for types count."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in sources(package)}
    out: dict[str, set[str]] = {}
    for module, path in files.items():
        out[module] = set()
        for _, name in imports_of(path):
            while name and name not in files:
                name = name.rpartition(".")[0]
            # That a package's parts are loaded with it is no import of theirs.
            if name and name != module and name != package:
                out[module].add(name)
    return out


def circles(arrows: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Modules that import each other, directly or through others: every one that reaches itself."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in arrows.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {module: reached(module) for module in arrows}
    inside = [module for module in arrows if module in reach[module]]
    return sorted({tuple(sorted(b for b in inside if b in reach[a] and a in reach[b])) for a in inside})


def forbidden_imports(found: Iterator[tuple[int, str]], names: set[str]) -> list[str]:
    return [f"line {line}: imports {name}" for line, name in found if name.split(".")[0] in names]


_SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def unsafe_calls(source: str) -> list[str]:
    """Calls that execute what they read: torch.load without weights_only=True, yaml.load, allow_pickle, eval, exec."""
    nodes = nodes_of(source)
    # A loader of one's own is as safe as the SafeLoader it derives from.
    safe_loaders = {
        node.name
        for node in nodes
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b) in _SAFE_LOADERS for b in node.bases)
    } | _SAFE_LOADERS
    out = []
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: k.value for k in node.keywords}

        def true(key: str, keywords: dict[str | None, ast.expr] = keywords) -> bool:
            value = keywords.get(key)
            return isinstance(value, ast.Constant) and value.value is True

        bad = (
            (name == "torch.load" and not true("weights_only"))
            or name in ("yaml.unsafe_load", "yaml.full_load", "eval", "exec")
            or (name == "yaml.load" and ast.unparse(keywords.get("Loader", ast.Constant(None))) not in safe_loaders)
            or ("allow_pickle" in keywords and not _is_false(keywords["allow_pickle"]))
        )
        if bad:
            out.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return out


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def report(found: dict[Path, list[str]]) -> str:
    return "\n".join(f"{path.relative_to(ROOT)} {text}" for path, texts in found.items() for text in texts)


@pytest.mark.parametrize("package", RANKS)
def test_every_unit_has_its_layer(package):
    units = {unit_of(p) for p in sources(package)} - {"__init__"}
    assert units <= set(RANKS[package]), f"give {sorted(units - set(RANKS[package]))} a place among the layers"


@pytest.mark.parametrize("package", RANKS)
def test_imports_go_down_the_layers_only(package):
    paths = [p for p in sources(package) if unit_of(p) in RANKS[package]]
    found = {p: layer_violations(unit_of(p), imports_of(p), package) for p in paths}
    assert not any(found.values()), report(found)


@pytest.mark.parametrize("package", RANKS)
def test_no_modules_import_each_other(package):
    assert not circles(graph(package))


def test_the_run_time_never_imports_the_trainers():
    found = {p: forbidden_imports(imports_of(p), {"vloc_train"}) for p in sources("vloc_ros")}
    assert not any(found.values()), report(found)


def test_only_the_nodes_import_ros():
    paths = [p for p in sources("vloc_ros") if unit_of(p) != "nodes"] + sources("vloc_train")
    # One function finds installed data files, in a sourced ROS too.
    allowed = {"resources": {"ament_index_python"}}
    found = {p: forbidden_imports(imports_of(p), ROS - allowed.get(unit_of(p), set())) for p in paths}
    assert not any(found.values()), report(found)


def test_nothing_that_executes_what_it_reads():
    paths = sources("vloc_ros") + sources("vloc_train")
    found = {p: forbidden_imports(imports_of(p), NEVER) + unsafe_calls(p.read_text(encoding="utf-8")) for p in paths}
    assert not any(found.values()), report(found)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["vloc_ros", "vloc_ros.geometry.cameras", "vloc_ros.images.decode", "vloc_ros.images.preprocess"]
)
def test_light_modules_do_not_load_torch(module):
    heavy = ("torch", "timm", "lightning", "matplotlib", "scipy")
    loaded = run_python(f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


def test_builders_without_training_do_not_load_what_trains():
    pytest.importorskip("lightning", reason="the trainers need the extra [train]")
    heavy = ("lightning", "torchvision", "timm", "matplotlib")
    code = f"import sys, vloc_train.features.build; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_the_core_and_the_command_line_import_without_the_extras():
    # A finder that hides the optional packages, as if only the run-time dependencies were installed.
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {EXTRAS!r}:
            raise ModuleNotFoundError('hidden: ' + name, name=name)
sys.meta_path.insert(0, Hide())
import vloc_ros.cli.main, vloc_ros.pipeline, vloc_ros.messages, vloc_ros.localizers.base
print(vloc_ros.load_localizer.__name__)
import tempfile, torch
from vloc_ros.maps import MapManifest, Scene, write_map
scene, camera = Scene("yard", "map", (0., 0., 0.), (1., 1., 1.)), vloc_ros.CameraModel(64, 48, 50., 50., 31.5, 23.5)
folder = tempfile.mkdtemp()
write_map(folder + "/map", MapManifest("fake", (scene,), camera), {{"w.safetensors": {{"w": torch.zeros(1)}}}})
vloc_ros.cli.main.main(["map", "info", folder + "/map"])
"""
    out = run_python(code)
    assert out.startswith("load_localizer") and "yard" in out


# The checks themselves: each must find what it is there for.


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("geometry", "from vloc_ros.images.decode import decode"),
        ("images", "def f():\n    from vloc_ros import pipeline"),
        ("localizers", "import vloc_ros.pipeline as p"),
        ("tracking", "import importlib\nimportlib.import_module('vloc_ros.localizers.base')"),
        ("replay", "from vloc_ros.nodes import localizer"),
    ],
)
def test_upward_imports_are_found(unit, source):
    assert layer_violations(unit, imports(source))


def test_upward_imports_of_the_trainers_are_found():
    source = "def f():\n    from vloc_train.camnet.similarity import frustum_overlap"
    assert layer_violations("training", imports(source), "vloc_train")
    assert layer_violations("camnet", imports("import vloc_train.imposing.data"), "vloc_train")


def test_circles_are_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}, "f": {"f"}}
    assert circles(arrows) == [("a", "b", "c"), ("f",)]


def test_downward_and_own_imports_are_fine():
    source = "import numpy\nfrom vloc_ros.errors import VlocError\nfrom vloc_ros.images.content import check_content"
    assert not layer_violations("images", imports(source))


def test_relative_imports_are_resolved():
    assert list(imports("from ..images import decode", ("vloc_ros", "geometry"))) == [(1, "vloc_ros.images.decode")]
    assert list(imports("from .se3 import inverse", ("vloc_ros", "geometry"))) == [(1, "vloc_ros.geometry.se3.inverse")]


@pytest.mark.parametrize(
    "source", ["import rclpy.node", "from sensor_msgs.msg import Image", "def f():\n    import tf2_ros"]
)
def test_ros_imports_are_found(source):
    assert forbidden_imports(imports(source), ROS)


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("torch.load(p)", True),
        ("torch.load(p, weights_only=False)", True),
        ("torch.load(p, weights_only=flag)", True),
        ("torch.load(p, map_location='cpu', weights_only=True)", False),
        ("yaml.load(f)", True),
        ("yaml.load(f, Loader=yaml.Loader)", True),
        ("class L(yaml.Loader): pass\nyaml.load(f, Loader=L)", True),
        ("class L(yaml.SafeLoader): pass\nyaml.load(f, Loader=L)", False),
        ("yaml.safe_load(f)", False),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f, allow_pickle=False)", False),
        ("eval(text)", True),
        ("model.eval()", False),
    ],
)
def test_unsafe_calls_are_found(source, bad):
    assert bool(unsafe_calls(source)) == bad
