from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.simulated_device import simulated_device
from vloc_ros.errors import ImageError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.recorder import Recorder

PREPROCESS = Preprocess(20, 12)


def image(height: int = 30, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reads(seen: list[torch.Tensor], device: torch.device, preprocess: Preprocess = PREPROCESS) -> ImageNetwork:
    def network(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(x)
        return (x * 2,)

    return ImageNetwork(network, preprocess, torch.float32, Recorder(device))


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(30, 50), (12, 20), (9, 33)])
def test_a_network_reads_what_training_reads(fit, size):
    """Bit by bit: training normalises fitted images of its cache."""
    preprocess = Preprocess(20, 12, fit=fit)
    cached = torch.from_numpy(preprocess.apply_uint8(image(*size)))
    expected = preprocess.normalize(cached.permute(2, 0, 1)[None])
    seen: list[torch.Tensor] = []
    reads(seen, torch.device("cpu"), preprocess)(image(*size))
    assert torch.equal(seen[0], expected) and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0][0], preprocess.apply(image(*size)))
    with simulated_device() as (device, _):
        for _ in range(3):
            (found,) = reads([], device, preprocess)(image(*size))
            assert torch.equal(found.cpu(), 2 * expected)


def test_bytes_go_up_and_the_rest_is_one_launch():
    with simulated_device() as (device, counted), torch.inference_mode():
        network = reads([], device)
        for _ in range(3):
            counted()
            network(image())
            counts = counted()
    assert (counts.uploads, counts.uploaded_bytes, counts.launches) == (1, 12 * 20 * 3, 2), "the replay and a copy out"


def test_images_of_a_message_and_wrong_ones():
    network = reads([], torch.device("cpu"))
    fixed = np.frombuffer(image().tobytes(), np.uint8).reshape(30, 50, 3)  # cannot be written
    assert torch.equal(network(fixed)[0], network(image())[0])
    with pytest.raises(ImageError, match="uint8"):
        network(image().astype(np.float32))
