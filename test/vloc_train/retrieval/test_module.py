from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_drive
import tiny_extractor
import torch

from vloc_train.retrieval import losses
from vloc_train.retrieval.module import ExtractorModule, ValidationSet, nearest_pose_errors
from vloc_train.retrieval.sampling import KeyedImages
from vloc_train.training.sampling import TrainingData


def module_of(kind, validation=(), **changes) -> ExtractorModule:
    settings = tiny_extractor.settings(kind, **changes)
    extractor = tiny_extractor.extractor(normalise=kind == "triplet")
    return ExtractorModule(extractor, settings, tiny_extractor.preprocess(), validation)


def batch_of(settings, scenes=("a", "b")):
    drives = [tiny_drive.frames(14, name, paint=i) for i, name in enumerate(scenes)]
    images = KeyedImages(drives, settings.sampling, settings.augment, 0)
    return next(iter(TrainingData(images).train_dataloader()))


@pytest.mark.parametrize("kind", ["triplet", "relative", "distance"])
def test_the_loss_of_a_batch_reaches_every_weight(kind):
    module = module_of(kind)
    batch = batch_of(module.settings)
    loss = module.loss(batch)
    assert loss.shape == () and torch.isfinite(loss) and loss > 0
    loss.backward()
    trained = module.configure_optimizers().param_groups[0]["params"]
    for name, parameter in module.named_parameters():
        if name.startswith("averaged."):
            assert parameter.grad is None and not parameter.requires_grad
        else:
            assert any(parameter is p for p in trained) and torch.isfinite(parameter.grad).all(), name
    assert (module.regressor is not None) == (kind == "relative")


def test_pairs_of_different_places_count_only_with_a_limit():
    limited, paper = (
        module_of("distance", loss={"max_distance_m": limit}, sampling={"compare": "batch"}) for limit in (50.0, None)
    )
    batch = batch_of(limited.settings)
    assert set(batch.place.tolist()) == {0, 1}
    f = paper.network(paper.preprocess.normalize(batch.images)).detach()
    rows = [(a, b) for a in range(16) for b in range(a + 1, 16)]
    same = torch.tensor([(a, b) for a, b in rows if batch.place[a] == batch.place[b]])
    paper.network.eval(), limited.network.eval()
    assert paper.loss(batch).item() == pytest.approx(float(losses.distance_loss(f, batch.poses, same)), rel=1e-4)
    elsewhere = torch.tensor([bool(batch.place[a] != batch.place[b]) for a, b in rows])
    wanted = losses.distance_loss(f, batch.poses, torch.tensor(rows), 50.0, elsewhere=elsewhere, balanced=True)
    assert limited.loss(batch).item() == pytest.approx(float(wanted), rel=1e-4)


def test_nearest_pose_errors_by_hand():
    queries, references = tiny_drive.frames(4), tiny_drive.frames(8)
    f = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    found = nearest_pose_errors(f[[1, 2, 4, 7]], queries, f, references)
    for row, (q, r) in zip(found, zip(range(4), [1, 2, 4, 7], strict=True), strict=True):
        a, b = queries.T_map_cam[q], references.T_map_cam[r]
        assert row[0] == pytest.approx(np.linalg.norm(a[:3, 3] - b[:3, 3]), abs=1e-5)
        angle = np.degrees(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))
        assert row[1] == pytest.approx(angle, abs=1e-3)


def test_validation_leaves_the_training_mode_and_the_weights_alone():
    frames = tiny_drive.frames(10)
    sets = [ValidationSet(frames.select(np.arange(1, 10, 2)), frames.select(np.arange(0, 10, 2)))]
    module = module_of("distance", sets, weight_average=0.0)
    module.train()
    before = copy.deepcopy(module.state_dict())
    distance, angle = module.validate_frames()
    assert distance.shape == angle.shape == (5,) and (distance > 0).all()
    assert module.network.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
