from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_drive
import tiny_extractor
import tiny_job
import torch

from vloc_ros.errors import DatasetError
from vloc_train.retrieval.module import nearest_pose_errors
from vloc_train.retrieval.train import check_trainable, train_extractor, validation_sets
from vloc_train.training import fitting
from vloc_train.training.fitting import fit
from vloc_train.training.recipe import HeldOut


def trained_on(training, held, settings, work, start=None):
    return train_extractor(tiny_job.job(settings, training, held, tiny_extractor.preprocess(), work), start)


def described(extractor, frames):
    images = torch.from_numpy(np.array(frames.images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return extractor(tiny_extractor.preprocess().normalize(images)).float()


def drives(scene="map"):
    return [tiny_drive.frames(24, scene), tiny_drive.frames(24, scene, phase=0.13)]


def found_error(extractor, queries, references):
    errors = nearest_pose_errors(described(extractor, queries), queries, described(extractor, references), references)
    return float(np.median(errors[:, 0]))


def test_the_distance_loss_makes_descriptors_metres(tmp_path):
    queries = tiny_drive.frames(30, phase=0.07)
    settings = tiny_extractor.settings("distance", epochs=80)
    trained = trained_on(drives(), [HeldOut(queries)], settings, tmp_path)
    assert not trained.training and trained.metric == "l2"
    f = described(trained, queries)
    p = torch.from_numpy(queries.T_map_cam[:, :3, 3]).float()
    wanted, found = torch.cdist(p, p), torch.cdist(f, f)
    near = (wanted > 0) & (wanted < 12)
    before = torch.cdist(*[described(tiny_extractor.extractor(), queries)] * 2)
    error = lambda d: float((d - wanted)[near].abs().mean())  # noqa: E731
    assert error(found) < 0.5 * error(before) and error(found) < 2.0
    assert found_error(trained, queries, drives()[0]) < 2.5


@pytest.mark.parametrize("kind", ["triplet", "relative"])
def test_the_other_losses_train(tmp_path, kind):
    settings = tiny_extractor.settings(kind, epochs=6)
    trained = trained_on(drives(), [HeldOut(tiny_drive.frames(10))], settings, tmp_path)
    f = described(trained, drives()[0])
    assert torch.isfinite(f).all() and float(f.std(dim=0).mean()) > 0
    assert trained.metric == ("cosine" if kind == "triplet" else "l2")
    if kind == "triplet":
        torch.testing.assert_close(f.norm(dim=1), torch.ones(len(f)))


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    # A constant rate: progress is measured against the epochs of the trainer, which the first part believes to be two.
    settings = tiny_extractor.settings("distance", epochs=4, schedule="constant")
    run = lambda folder: trained_on(drives(), [], settings, tmp_path / folder)  # noqa: E731
    whole = run("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit", lambda *a, **k: fit(*a, **{**k, "epochs": 2}))
        begun = run("parts")
    parts = run("parts")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    assert any(not torch.allclose(v, whole.state_dict()[k], atol=1e-3) for k, v in begun.state_dict().items())


def test_netvlad_begins_at_clusters_and_ends_with_a_whitening(tmp_path):
    extractor = {"kind": "netvlad", "clusters": 4, "whiten": 6}
    settings = tiny_extractor.settings("triplet", epochs=2, extractor=extractor)
    trained = trained_on(drives(), [HeldOut(tiny_drive.frames(6))], settings, tmp_path)
    assert trained.dimension == 6 and trained.settings.whiten == 6
    f = described(trained, drives()[0])
    assert f.shape == (24, 6)
    torch.testing.assert_close(f.norm(dim=1), torch.ones(24))


def test_training_goes_on_from_an_extractor(tmp_path):
    start = tiny_extractor.extractor(seed=3)
    settings = tiny_extractor.settings("distance", epochs=1, learning_rate=0.0, weight_average=0.0)
    trained = trained_on(drives(), [], settings, tmp_path, copy.deepcopy(start))
    for name, value in start.named_parameters():
        assert torch.equal(dict(trained.named_parameters())[name], value)


def test_what_validation_finds_among_what():
    a, b, c = tiny_drive.frames(8, "x"), tiny_drive.frames(6, "x", phase=0.2), tiny_drive.frames(5, "y")
    training = [a, b, c]
    out = lambda f: f.select(np.arange(2))  # noqa: E731
    sets = validation_sets(training, [HeldOut(out(a), 0), HeldOut(out(b), 1), HeldOut(out(c), 2)])
    # Another drive of the place where there is one, else the rest of the same.
    assert [len(s.references) for s in sets] == [6, 8, 5]
    d, e = tiny_drive.frames(4, "x"), tiny_drive.frames(3, "x")
    # Each drive alone: among all together the nearest lane answers for the others.
    assert [len(s.references) for s in validation_sets(training, [HeldOut(d)])] == [8, 6]
    assert [len(s.references) for s in validation_sets(training, [HeldOut(d), HeldOut(e)])] == [3, 4]
    assert validation_sets(training, [HeldOut(tiny_drive.frames(3, "z"))]) == []


def test_triplets_need_negatives():
    settings = tiny_extractor.settings("triplet", sampling={"negative_m": None})
    with pytest.raises(DatasetError, match="several places"):
        check_trainable(drives(), settings)
    check_trainable([*drives(), *drives("b")], settings)
    far = tiny_extractor.settings("triplet", sampling={"negative_m": 100.0})
    with pytest.raises(DatasetError, match="farther apart"):
        check_trainable(drives(), far)
    with pytest.raises(DatasetError, match="at least 2 frames"):
        check_trainable([drives()[0].select(np.arange(1))], tiny_extractor.settings())
