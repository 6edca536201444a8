"""Public NetVLAD weights from a local file into an extractor.

Two forms are known, each as safetensors, npz or (the second) a torch checkpoint:

**matlab**: VGG16-NetVLAD of Arandjelovic et al. with its own array shapes, ``<layer>.0`` and ``<layer>.1`` for the
first and second weight of a layer. Made once from the published ``.mat`` file, where scipy is at hand::

    net = scipy.io.loadmat(FILE, struct_as_record=False, squeeze_me=True)["net"]
    arrays = {f"{l.name}.{i}": w for l in net.layers for i, w in enumerate(getattr(l, "weights", ()))}
    numpy.savez("netvlad.npz", averageImage=net.meta.normalization.averageImage, **arrays)

==================  ===============================  ==========================================================
array               shape                            becomes
==================  ===============================  ==========================================================
``conv1_1.0`` ...   (3, 3, in, out)                  the kernel, axes turned round
``conv1_1.1`` ...   (out,)                           its bias
``vlad:core.0``     (C, K)                           the assignment, transposed
``vlad:core.1``     (C, K)                           *minus* the centres, transposed
``WPCA.0``          (C * K, D), place ``c * K + k``  the whitening, reordered to ``k * C + c``
``WPCA.1``          (D,)                             its bias
``averageImage``    (..., 3), grey levels of RGB     folded into the first convolution
==================  ===============================  ==========================================================

That network reads grey levels minus ``averageImage``; ours reads the usual normalised images, so scale and offset go
into the first convolution (exactly so except where its kernel hangs over the border: there the padding differs by half
a grey level).

**pytorch**: checkpoints with ``encoder.N.weight|bias`` (N counts VGG's layers), ``pool.conv.weight`` (K, C, 1, 1),
``pool.centroids`` (K, C) and optionally ``WPCA.0.weight`` (D, K * C, 1, 1), ``WPCA.0.bias``. Weights with
``pool.conv.bias`` assign by distance ("vladv2") and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vloc_ros.localizers.retrieval.extractors import PooledExtractor
from vloc_ros.localizers.retrieval.netvlad import NetVLAD

__all__ = ["apply_public_weights", "weights_form"]


def weights_form(tensors: Mapping[str, Tensor]) -> Literal["matlab", "pytorch"] | None:
    """Which form of NetVLAD weights this is; None where it is something else, such as a backbone's."""
    if any(name.startswith("vlad:core") for name in tensors):
        return "matlab"
    if any(name.startswith("pool.") for name in tensors):
        return "pytorch"
    return None


def apply_public_weights(extractor: PooledExtractor, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Put NetVLAD weights into an extractor of the same shape.

    A whitening in the file is cut to the first ``settings.whiten`` components, and left out where that is none. A
    whitening that the file lacks stays to be fitted (``needs_whitening``).

    :raises ConfigError: names or shapes differ from what the extractor expects, or it is no NetVLAD on VGG.
    """
    pooling, layers = extractor.pooling, extractor.backbone.network
    if not isinstance(pooling, NetVLAD) or not isinstance(layers, nn.Sequential):
        raise ConfigError(
            f"{where}: expected an extractor of kind netvlad with a VGG backbone for NetVLAD weights, found "
            f"{extractor.settings.kind} on {extractor.settings.backbone}"
        )
    if extractor.settings.dimension is not None:
        raise ConfigError(f"{where}: expected dimension to be none with NetVLAD weights; whiten shortens descriptors")
    form = weights_form(tensors)
    if form is None:
        raise ConfigError(f"{where}: expected NetVLAD weights (vlad:core.0 or pool.centroids), found {_some(tensors)}")
    plain = {name.replace(".module.", "."): value.to(torch.float32) for name, value in tensors.items()}
    reader = _Reader(plain, where)
    (_matlab if form == "matlab" else _pytorch)(extractor, layers, pooling, reader)
    reader.finish()
    pooling.initialised = True


class _Reader:
    """Takes tensors by name and shape, and at last refuses what nobody took."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str | Path) -> None:
        self.tensors, self.where, self.taken = tensors, where, set[str]()

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor without axes of length one in front or behind that ``shape`` does not have."""
        found = self.tensors.get(name)
        if found is None:
            wanted = tuple("any" if s is None else s for s in shape)
            raise ConfigError(
                f"{self.where}: expected tensor {name!r} of shape {wanted}, found only {_some(self.tensors)}"
            )
        value = found
        while value.ndim > len(shape) and 1 in (value.shape[0], value.shape[-1]):
            value = value.squeeze(0) if value.shape[0] == 1 else value.squeeze(-1)
        if value.ndim != len(shape) or any(s is not None and s != f for s, f in zip(shape, value.shape, strict=True)):
            wanted = tuple("any" if s is None else s for s in shape)
            raise ConfigError(
                f"{self.where}: tensor {name!r}: expected shape {wanted}, found {tuple(found.shape)}; do the backbone "
                "and the number of clusters in the settings belong to these weights?"
            )
        if not bool(torch.isfinite(value).all()):
            raise ConfigError(f"{self.where}: tensor {name!r}: expected finite values, found NaN or infinity")
        self.taken.add(name)
        return value

    def has(self, name: str) -> bool:
        return name in self.tensors

    def skip(self, prefix: str) -> None:
        self.taken.update(name for name in self.tensors if name.startswith(prefix))

    def finish(self) -> None:
        unknown = {name: value for name, value in self.tensors.items() if name not in self.taken}
        if unknown:
            raise ConfigError(
                f"{self.where}: expected {len(self.taken)} tensors that this extractor knows, found others, too: "
                f"{_some(unknown)}"
            )


def _some(tensors: Mapping[str, Tensor]) -> str:
    names = [f"{name} {tuple(value.shape)}" for name, value in sorted(tensors.items())]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


@torch.no_grad()
def _matlab(extractor: PooledExtractor, layers: nn.Sequential, pooling: NetVLAD, reader: _Reader) -> None:
    stage, number = 1, 0
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 0
        if not isinstance(layer, nn.Conv2d):
            continue
        number += 1
        name, shape = f"conv{stage}_{number}", tuple(layer.weight.shape)
        kernel = reader.take(f"{name}.0", shape[2], shape[3], shape[1], shape[0]).permute(3, 2, 0, 1)
        bias = reader.take(f"{name}.1", shape[0])
        if (stage, number) == (1, 1):
            axes = reader.tensors["averageImage"].ndim if reader.has("averageImage") else 1
            average = reader.take("averageImage", *[None] * (axes - 1), 3)
            kernel, bias = _folded(kernel, bias, average.reshape(-1, 3).mean(dim=0))
        layer.weight.copy_(kernel)
        if layer.bias is not None:
            layer.bias.copy_(bias)
    clusters, channels = pooling.centres.shape
    pooling.assignment.weight.copy_(reader.take("vlad:core.0", channels, clusters).T[:, :, None, None])
    pooling.centres.copy_(-reader.take("vlad:core.1", channels, clusters).T)
    if extractor.settings.whiten is None or not reader.has("WPCA.0"):
        reader.skip("WPCA.")
        return
    weight = reader.take("WPCA.0", channels * clusters, None).T
    weight = weight.reshape(len(weight), channels, clusters).transpose(1, 2).reshape(len(weight), -1)
    _whiten(extractor, weight, reader.take("WPCA.1", len(weight)), reader)


def _folded(kernel: Tensor, bias: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution for grey levels minus ``average`` as one for images normalised by mean and deviation."""
    scale = 255.0 * torch.from_numpy(np.array(IMAGENET_STD, dtype=np.float32))
    offset = 255.0 * torch.from_numpy(np.array(IMAGENET_MEAN, dtype=np.float32)) - average
    return kernel * scale[:, None, None], bias + (kernel.sum(dim=(-2, -1)) * offset).sum(dim=1)


@torch.no_grad()
def _pytorch(extractor: PooledExtractor, layers: nn.Sequential, pooling: NetVLAD, reader: _Reader) -> None:
    for index, layer in enumerate(layers):
        for name, value in layer.state_dict().items():
            value.copy_(reader.take(f"encoder.{index}.{name}", *value.shape))
    clusters, channels = pooling.centres.shape
    if reader.has("pool.conv.bias"):
        raise ConfigError(
            f"{reader.where}: expected an assignment without bias, found pool.conv.bias: weights of the vladv2 form "
            "are not supported; use those trained without it"
        )
    pooling.assignment.weight.copy_(reader.take("pool.conv.weight", clusters, channels, 1, 1))
    pooling.centres.copy_(reader.take("pool.centroids", clusters, channels))
    if extractor.settings.whiten is None or not reader.has("WPCA.0.weight"):
        reader.skip("WPCA.")
        return
    weight = reader.take("WPCA.0.weight", None, clusters * channels)
    _whiten(extractor, weight, reader.take("WPCA.0.bias", len(weight)), reader)


def _whiten(extractor: PooledExtractor, weight: Tensor, bias: Tensor, reader: _Reader) -> None:
    wanted = extractor.settings.whiten or 0
    if wanted > len(weight):
        raise ConfigError(f"{reader.where}: expected a whitening to {wanted} or more, found one to {len(weight)}")
    extractor.set_whitening(weight[:wanted].contiguous(), bias[:wanted].contiguous())
