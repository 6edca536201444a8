from __future__ import annotations

import numpy as np
import tiny_drive
import tiny_extractor
import torch

from vloc_train.retrieval.database import describe_augmented, describe_frames
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.frames import cache_frames


def test_every_frame_is_described_whatever_the_batch(tmp_path):
    made = tiny_extractor.descriptor()
    mapped = cache_frames([tiny_drive.drive(7)], made.preprocess, tmp_path)
    found = describe_frames(made, mapped, batch=3)
    assert found.shape == (7, 32) and found.dtype == torch.float32 and found.device.type == "cpu"
    one = torch.stack([made.describe(np.array(mapped.images[i])) for i in range(7)])
    torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)
    assert describe_frames(made, mapped.select(np.arange(0))).shape == (0, 32)


def test_augmented_copies_differ_in_light_alone():
    made, frames = tiny_extractor.descriptor(), tiny_drive.frames(4)
    found = describe_augmented(made, frames, 3, seed=5, batch=5)
    assert found.shape == (4, 3, 32) and torch.isfinite(found).all()
    assert not torch.allclose(found[:, 0], found[:, 1])
    torch.testing.assert_close(found, describe_augmented(made, frames, 3, seed=5, batch=12), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, describe_augmented(made, frames, 3, seed=6))
    still = describe_augmented(made, frames, 2, AugmentSettings(photometric=0.0, blur=0.0, erase=0.0))
    plain = describe_frames(made, frames)
    torch.testing.assert_close(still, plain[:, None].expand(-1, 2, -1), rtol=1e-4, atol=1e-4)
