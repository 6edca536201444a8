"""Packaging that pip and colcon share.

Metadata that only pip needs (dependencies, extras) is in pyproject.toml. What ament needs stands here:
the index marker, package.xml and the data folders under share/vloc_ros. Name and extras are repeated for
setuptools older than 61 (Humble's), which does not read pyproject.toml.
"""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vloc_ros"
ROOT = Path(__file__).resolve().parent


def version() -> str:
    """The one version number of the package, from vloc_ros/__init__.py, without importing it."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def tree(folder: str) -> list:
    """(destination, files) pairs for every file below ``folder``, kept in its subfolders."""
    pairs = []
    top = ROOT / folder
    for directory in [top, *sorted(p for p in top.rglob("*") if p.is_dir())]:
        if "__pycache__" in directory.parts:
            continue
        files = sorted(p for p in directory.iterdir() if p.is_file() and p.suffix != ".pyc")
        if files:
            relative = directory.relative_to(ROOT).as_posix()
            pairs.append((f"share/{PACKAGE}/{relative}", [f.relative_to(ROOT).as_posix() for f in files]))
    return pairs


data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
    (f"share/{PACKAGE}", ["package.xml"]),
    *tree("launch"),
    *tree("config"),
    *tree("models"),
]
# colcon puts the console scripts into lib/vloc_ros (setup.cfg). pip puts them into bin, so a wheel carries
# one more script for `ros2 run` and `ros2 launch`, which look into lib/vloc_ros of every prefix.
if {"bdist_wheel", "editable_wheel", "dist_info"} & set(sys.argv):
    data_files.append((f"lib/{PACKAGE}", ["resource/evaluator", "resource/localizer"]))

setup(
    name=PACKAGE,
    version=version(),
    description="Visual localization for ROS 2: a vehicle's camera in, a trustworthy pose out",
    license="Apache-2.0",
    packages=find_packages(include=["vloc_ros", "vloc_ros.*", "vloc_train", "vloc_train.*"]),
    package_data={"": ["*.yaml", "*.yml", "*.json", "*.md", "*.jinja", "py.typed"]},
    include_package_data=True,
    data_files=data_files,
    python_requires=">=3.10",
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "vloc = vloc_ros.cli.main:main",
            "localizer = vloc_ros.nodes.localizer:main",
            "evaluator = vloc_ros.nodes.evaluator:main",
        ],
    },
)
