"""What pip and colcon install: one version, entry points that resolve, data folders, generated pages."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import vloc_ros
from vloc_ros.localizers.base import BUILT_IN
from vloc_ros.nodes import documentation
from vloc_ros.resources import share_directory, share_path

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_arguments():
    """The keyword arguments of setup() as setup.py computes them, without running a command."""
    code = (
        "import json, sys, setuptools\n"
        "def setup(**kwargs): print(json.dumps(kwargs))\n"
        "setuptools.setup = setup\n"
        "sys.argv = ['setup.py', *sys.argv[1:]]\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': '__main__'})\n"
    )

    def run(*argv):
        import json

        done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_versions_agree(setup_arguments):
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("version") == vloc_ros.__version__ == setup_arguments()["version"]
    assert re.search(rf"^{re.escape(vloc_ros.__version__)} ", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert package.findtext("export/build_type") == "ament_python"
    assert package.findtext("license") == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_data_files_hold_what_ros_looks_for(setup_arguments):
    files = {f"{folder}/{Path(name).name}" for folder, names in setup_arguments()["data_files"] for name in names}
    assert "share/ament_index/resource_index/packages/vloc_ros" in files
    assert "share/vloc_ros/package.xml" in files
    for name in ("localizer.launch.py", "replay_bag.launch.py", *(f"{backend}.launch.py" for backend in BUILT_IN)):
        assert f"share/vloc_ros/launch/{name}" in files
    for name in ("vloc.rviz", "robot_localization_ekf.yaml", "nav2.yaml", *(f"{backend}.yaml" for backend in BUILT_IN)):
        assert f"share/vloc_ros/config/{name}" in files
    for path in (ROOT / "models").rglob("*"):
        if path.is_file():
            assert f"share/vloc_ros/{path.relative_to(ROOT).as_posix()}" in files
    for _, names in setup_arguments()["data_files"]:
        assert all((ROOT / name).is_file() for name in names)


def test_only_a_wheel_carries_a_script_of_its_own(setup_arguments):
    def folders(*argv):
        return {folder for folder, _ in setup_arguments(*argv)["data_files"]}

    # colcon calls install and develop, which put the console script there themselves.
    assert "lib/vloc_ros" in folders("bdist_wheel")
    assert "lib/vloc_ros" not in folders("install")
    assert "lib/vloc_ros" not in folders("develop")


def test_entry_points_resolve(setup_arguments):
    points = setup_arguments()["entry_points"]
    assert {p.split(" = ")[0] for p in points["console_scripts"]} == {"vloc", "localizer", "evaluator"}
    for group in points.values():
        for point in group:
            module, _, name = point.split(" = ")[1].partition(":")
            if module.startswith("vloc_ros.nodes."):  # imports rclpy: look at its source instead
                tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
                assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            else:
                assert callable(getattr(importlib.import_module(module), name)), point


def test_every_package_is_listed(setup_arguments):
    listed = set(setup_arguments()["packages"])
    for top in ("vloc_ros", "vloc_train"):
        for module in (ROOT / top).rglob("*.py"):
            assert ".".join(module.parent.relative_to(ROOT).parts) in listed, f"{module.parent} lacks __init__.py"


@pytest.mark.parametrize("backend", BUILT_IN)
def test_parameter_file_names_known_parameters(backend):
    from vloc_ros.nodes.parameters import backend_parameters, coerce, spec_named

    text = (ROOT / f"config/{backend}.yaml").read_text()
    content = yaml.safe_load(text)
    assert list(content) == ["/**"], "any other key drops the file in a namespace"
    given = content["/**"]["ros__parameters"]
    assert given["backend"] == backend
    flat = {
        f"{group}.{name}" if name else group: value
        for group, values in given.items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    for name, value in flat.items():
        spec = spec_named(name)
        assert spec is not None, name
        assert coerce(spec, value) == value != spec.default, f"{name}: the default needs no line"
    # The settings of the backend stand there as examples, commented out.
    examples = yaml.safe_load(re.sub(r"^    # (?=( {2})?\w+:)", "    ", text, flags=re.MULTILINE))
    known = {spec.name: spec for spec in backend_parameters(backend)}
    offered = examples["/**"]["ros__parameters"][backend]
    assert offered
    for name, value in offered.items():
        assert coerce(known[f"{backend}.{name}"], value) == value


@pytest.mark.parametrize("backend", BUILT_IN)
def test_launch_file_is_the_backends_own(backend):
    text = (ROOT / f"launch/{backend}.launch.py").read_text()
    assert f'"launch_file_of"]("{backend}")' in text and f"ros2 launch vloc_ros {backend}.launch.py" in text
    # They differ in this and in what they are for; what they do stands in localizer.launch.py.
    other = (ROOT / "launch/imposing.launch.py").read_text()
    assert text.partition("from pathlib")[2].replace(backend, "imposing") == other.partition("from pathlib")[2]


@pytest.mark.parametrize("name", sorted(documentation.pages()))
def test_generated_pages_are_up_to_date(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == documentation.pages()[name], "run `make docs`"


def test_share_directory_in_a_checkout():
    assert share_directory() == ROOT
    assert share_path("launch", "imposing.launch.py").is_file()
    with pytest.raises(vloc_ros.errors.ConfigError, match="reinstall"):
        share_path("models", "no_such_map")


def test_only_nodes_import_ros():
    ros = {"rclpy", "tf2_ros", "launch", "launch_ros", "cv_bridge", "sensor_msgs", "geometry_msgs", "std_msgs"}
    for module in (ROOT / "vloc_ros").rglob("*.py"):
        if "nodes" in module.parts:
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            tops = {name.split(".")[0] for name in names}
            assert not tops & ros, f"{module} imports {tops & ros}"
            assert "vloc_train" not in tops, f"{module} imports vloc_train"


def test_wheel_holds_scripts_and_data(tmp_path):
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, "."],
        cwd=_copy(tmp_path / "source"), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("vloc_ros-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        data = f"vloc_ros-{vloc_ros.__version__}.data/data"
        assert f"{data}/share/vloc_ros/launch/imposing.launch.py" in names
        assert f"{data}/share/ament_index/resource_index/packages/vloc_ros" in names
        script = archive.getinfo(f"{data}/lib/vloc_ros/localizer")
        assert script.external_attr >> 16 & 0o111, "the script of ros2 run is not executable"
        points = archive.read(f"vloc_ros-{vloc_ros.__version__}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"vloc_ros-{vloc_ros.__version__}.dist-info/METADATA").decode()
    assert "localizer = vloc_ros.nodes.localizer:main" in points and "vloc = vloc_ros.cli.main:main" in points
    assert "Requires-Dist: torch" in metadata


def _copy(target: Path) -> Path:
    """What a build needs, so that it leaves nothing behind in the checkout."""
    import shutil

    target.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    for name in ("vloc_ros", "vloc_train", "launch", "config", "models", "resource"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target
