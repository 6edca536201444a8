"""Place-recognition models of torch.hub. Loading one runs the code of its repository: only where that is trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.retrieval.settings import ExtractorSettings

__all__ = ["TRUST_VARIABLE", "load_hub_model"]

#: Repositories whose code may run, separated by commas: ``gmberton/eigenplaces,gmberton/cosplace``.
TRUST_VARIABLE = "VLOC_TRUST_HUB"


def load_hub_model(settings: ExtractorSettings, trust: bool = False) -> nn.Module:
    """The model that ``settings`` names, on the CPU.

    :param trust: run the repository's code although :data:`TRUST_VARIABLE` does not name it.
    :raises ConfigError: not trusted, not reachable, or no model.
    """
    repo, what = settings.hub_repo, f"torch.hub {settings.hub_repo} {settings.hub_model}"
    trusted = {name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(",")}
    if not (trust or repo in trusted):
        raise ConfigError(
            f"extractor: {what} runs the code of that repository, which is not trusted here; if you trust it, set the "
            f"environment variable {TRUST_VARIABLE}={repo}"
        )
    if settings.hub_source == "local" and not (Path(repo) / "hubconf.py").is_file():
        raise ConfigError(f"extractor: expected a folder with hubconf.py, found none at {repo}")
    kwargs: dict[str, Any] = dict(settings.hub_options)
    try:
        # Whether the repository is trusted was decided above; torch would ask on the terminal.
        load: Callable[..., Any] = torch.hub.load
        model = load(repo, settings.hub_model, source=settings.hub_source, trust_repo=True, **kwargs)
    except (URLError, ConnectionError, TimeoutError) as problem:
        raise ConfigError(
            f"extractor: {what} cannot be fetched: {problem}; where there is no network, copy the repository and the "
            f"weights to {torch.hub.get_dir()} from a computer that has one, or set hub_source to local and hub_repo "
            "to a folder, or use kind gap, gem or netvlad"
        ) from problem
    except Exception as problem:  # what foreign code raises is anybody's guess
        raise ConfigError(f"extractor: {what} cannot be loaded: {type(problem).__name__}: {problem}") from problem
    if not isinstance(model, nn.Module):
        raise ConfigError(f"extractor: expected {what} to be a torch module, found {type(model).__name__}")
    return model
