"""timm networks as sources of local features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.retrieval.weight_files import read_weight_file

__all__ = ["LocalFeatures"]

#: Options of ``timm.create_model`` that read files or addresses, and those that are ours to set.
_RESERVED = {
    "cache_dir", "checkpoint_path", "features_only", "global_pool", "num_classes", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay",
}  # fmt: skip


class LocalFeatures(nn.Module):
    """Any timm encoder without its pooling and classifier: ``(B, 3, H, W)`` to ``(B, channels, h, w)``.

    VGG ends after its last convolution, before the ReLU (NetVLAD, Section 3: "cropped at the last convolutional layer,
    before ReLU"). Tokens of a transformer come as one row of places; tokens that stand for no place are left out.

    :param pretrained: a local weight file, ``True`` for timm's hub, ``False`` for random weights.
    :raises ConfigError: timm has no such network, or cannot load the weights.
    """

    def __init__(self, name: str, options: dict[str, Any], pretrained: bool | str | Path = False) -> None:
        super().__init__()
        # A map is untrusted input: it names a network that timm defines, never a file or an address to load from.
        reserved = sorted(set(options) & _RESERVED)
        if reserved or not name.replace(".", "").replace("_", "").isalnum():
            found = f"option {reserved[0]!r}" if reserved else repr(name)
            raise ConfigError(f"extractor.backbone: expected the name and shape of a timm network, found {found}")
        self.network: nn.Module
        try:
            if name.startswith("vgg"):
                self.network, self.channels = _vgg(name, options, pretrained)
            else:
                self.network = timm.create_model(
                    name, pretrained=pretrained is True, num_classes=0, global_pool="", **options
                )
                self.channels = int(cast(Any, self.network).num_features)
                if not isinstance(pretrained, bool):
                    _load_file(self.network, pretrained)
        except ConfigError:
            raise
        except Exception as problem:  # options of a map can be anything, and every network fails in its own way
            first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise ConfigError(
                f"extractor.backbone: timm cannot create {name!r} with options {options}"
                + (f" and the weights {str(pretrained)!r}" if pretrained else "")
                + f": {first}"
            ) from problem

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if isinstance(self.network, nn.Sequential):
            return cast(Tensor, self.network(images))
        x = cast(Tensor, cast(Any, self.network).forward_features(images))
        if x.ndim == 3:  # tokens (B, N, C)
            x = x[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
            return x.transpose(1, 2).unsqueeze(2)
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return x.permute(0, 3, 1, 2)
        return x


def _load_file(network: nn.Module, path: str | Path, prefix: str = "") -> None:
    """Every weight of ``network`` from a file, under names that begin with ``prefix``. The file's classifier is left.

    timm's own loading takes a file of another network with no more than a warning.
    """
    stored = read_weight_file(path)
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, value in wanted.items():
        found = stored.get(prefix + name)
        if found is None or found.shape != value.shape:
            some = ", ".join(f"{k} {tuple(v.shape)}" for k, v in sorted(stored.items())[:6])
            raise ConfigError(
                f"{path}: expected tensor {prefix + name!r} of shape {tuple(value.shape)} for this backbone, found "
                + (f"shape {tuple(found.shape)}" if found is not None else f"only {some}, ... ({len(stored)} tensors)")
            )
    classifiers = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    allowed = ("fc.", "head.", "classifier.", *((classifiers,) if isinstance(classifiers, str) else classifiers))
    unknown = [k for k in stored if k.removeprefix(prefix) not in network.state_dict() and not k.startswith(allowed)]
    if unknown and not prefix:
        raise ConfigError(f"{path}: expected weights of this backbone alone, found {unknown[0]!r}, too")
    network.load_state_dict({k: stored[prefix + k] for k in wanted}, strict=False)


def _vgg(name: str, options: dict[str, Any], pretrained: bool | str | Path) -> tuple[nn.Sequential, int]:
    """The convolutions alone. Its classifier, nine tenths of a VGG, never takes memory unless timm's hub brings it."""
    device = torch.empty(0).device
    from_hub = pretrained is True
    with torch.device(device if from_hub else "meta"):
        whole: Any = timm.create_model(name, pretrained=from_hub, num_classes=0, **options)
    layers = list(whole.features)
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    features = nn.Sequential(*layers[: last + 1])
    if not from_hub:
        features.to_empty(device=device)
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, layer.bias))
            elif hasattr(layer, "reset_parameters"):
                cast(Any, layer).reset_parameters()
    if not isinstance(pretrained, bool):
        _load_file(features, pretrained, "features.")
    return features, int(cast(nn.Conv2d, layers[last]).out_channels)
