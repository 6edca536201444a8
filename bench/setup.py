"""One set of ImPosing weights behind both paths: as shipped, and as the paper's text says it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.imposing_transcription import transcribed_search
from vloc_ros.errors import MapBackendError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.device import compute_dtype
from vloc_ros.localizers.folding import without_batch_norms
from vloc_ros.localizers.imposing.initial import initial_candidates
from vloc_ros.localizers.imposing.localizer import CANDIDATES_FILE, WEIGHTS_FILE, load_network
from vloc_ros.localizers.imposing.network import ImageEncoder, ImPosingNetwork, PoseEncoder
from vloc_ros.localizers.imposing.search import Draws, search
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder
from vloc_ros.maps import expect, read_map
from vloc_ros.settings import settings_from_mapping

__all__ = ["BenchSetup"]


@dataclass
class BenchSetup:
    """Networks in both precisions, the first candidates, and their signatures as the map stores them."""

    settings: SearchSettings
    initial: Tensor
    image_size: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    encoder: PoseEncoder
    encoder_default: FrozenPoseEncoder
    images: ImageEncoder
    images_default: ImageEncoder
    columns: Tensor

    @classmethod
    def of_map(cls, map_dir: Path, device: torch.device) -> BenchSetup:
        """From an ImPosing map, its first scene."""
        bundle = read_map(map_dir)
        stored, where = bundle.manifest.settings, str(map_dir)
        if bundle.manifest.backend != "imposing":
            raise MapBackendError(f"{where}: expected a map of backend 'imposing', found {bundle.manifest.backend!r}")
        network = load_network(
            settings_from_mapping(NetworkSettings, stored.get("network"), where),
            len(bundle.manifest.scenes),
            bundle.tensors(WEIGHTS_FILE),
            where,
        )
        first = f"{bundle.manifest.scenes[0].name}.poses"
        initial = expect(bundle.tensors(CANDIDATES_FILE), first, (None, 7), torch.float32, where)
        preprocess = Preprocess.from_settings(bundle.manifest.preprocessing)
        size = (preprocess.height, preprocess.width)
        return cls._of(
            network, settings_from_mapping(SearchSettings, stored.get("search"), where), initial, size, device
        )

    @classmethod
    def of_paper(cls, device: torch.device, seed: int = 0, dtype: torch.dtype | None = None) -> BenchSetup:
        """The paper's settings with random weights, and a circular drive of 1 km.

        :param dtype: of the default path, where it is not what the device is best at.
        """
        torch.manual_seed(seed)
        network, settings = ImPosingNetwork(NetworkSettings()), SearchSettings()
        angle = np.linspace(0, 2 * np.pi, settings.candidates, endpoint=False)
        poses = np.zeros((len(angle), 7), dtype=np.float32)
        poses[:, 0], poses[:, 1] = 160 * np.cos(angle), 160 * np.sin(angle)
        poses[:, 5], poses[:, 6] = np.sin(angle / 2), np.cos(angle / 2)
        network.pose_encoder().set_area(torch.from_numpy(poses[:, :3].min(0)), torch.from_numpy(poses[:, :3].max(0)))
        return cls._of(network, settings, initial_candidates(settings, poses, seed), (135, 240), device, dtype)

    @classmethod
    def _of(
        cls,
        network: ImPosingNetwork,
        settings: SearchSettings,
        initial: Tensor,
        image_size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> BenchSetup:
        network = network.eval().requires_grad_(False).to(device)
        dtype = dtype or compute_dtype("auto", device)
        encoder, initial = network.pose_encoder(), initial.to(device)
        encoder_default = FrozenPoseEncoder(encoder, torch.float32, dtype)
        images_default = copy.deepcopy(network.image_encoder).cpu()
        images_default.backbone = without_batch_norms(images_default.backbone)
        images_default.to(device, dtype)
        images_default.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            columns = encoder(initial).T.contiguous()
        return cls(
            settings,
            initial,
            image_size,
            device,
            dtype,
            encoder,
            encoder_default,
            network.image_encoder,
            images_default,
            columns,
        )

    @torch.inference_mode()
    def encode_full(self, image: Tensor) -> Tensor:
        """``(1, 3, H, W)`` float32 to ``(d,)``, in float32."""
        return torch.as_tensor(self.images(image)[0])

    @torch.inference_mode()
    def encode_default(self, image: Tensor) -> Tensor:
        """The same as shipped."""
        ready = image.to(self.dtype).to(memory_format=torch.channels_last)
        return torch.as_tensor(self.images_default(ready)[0]).float()

    def search_default(self, vector: Tensor, draws: Draws) -> Tensor:
        """The pose ``(7,)`` by the search as shipped."""
        return search(self.encoder_default, vector, self.initial, self.columns, draws, self.settings).pose

    def search_transcribed(self, vector: Tensor, draws: Draws) -> Tensor:
        """The pose ``(7,)`` by the transcription in float32."""
        return transcribed_search(self.encoder, vector, self.initial, draws, self.settings)[0]
