"""Where the package's data folders (launch, config, models) are: in a checkout, a pip or a colcon installation."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from vloc_ros.errors import ConfigError

__all__ = ["share_directory", "share_path"]


def _candidates() -> Iterator[Path]:
    here = Path(__file__).resolve().parent
    # A checkout, an editable installation, or colcon's --symlink-install: the sources themselves.
    yield here.parent
    # A prefix that holds this very file: <prefix>/lib/python3.x/site-packages/vloc_ros and the like.
    for parent in here.parents:
        yield parent / "share" / "vloc_ros"
    yield Path(sysconfig.get_path("data")) / "share" / "vloc_ros"
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / "share" / "vloc_ros"


def share_directory() -> Path:
    """The folder that holds ``package.xml``, ``launch/``, ``config/`` and ``models/``.

    :raises ConfigError: the package was copied without its data folders.
    """
    tried = []
    for folder in _candidates():
        if (folder / "package.xml").is_file() and (folder / "launch").is_dir():
            return folder
        tried.append(str(folder))
    raise ConfigError(
        "expected share/vloc_ros with package.xml and launch/ beside the installed package, found none in "
        f"{', '.join(dict.fromkeys(tried))}; install with pip or colcon, or run from a checkout"
    )


def share_path(*parts: str) -> Path:
    """A file or folder below :func:`share_directory`, for example ``share_path("models", "demo")``.

    :raises ConfigError: it does not exist.
    """
    path = share_directory().joinpath(*parts)
    if not path.exists():
        raise ConfigError(f"expected {path}, found nothing there; reinstall vloc_ros, or check out its models/ folder")
    return path
