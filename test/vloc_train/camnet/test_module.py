from __future__ import annotations

import numpy as np
import pytest
import tiny_camnet
import tiny_drive
import torch

from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.localizers.camnet.relative import pose_distance, relative_poses
from vloc_train.camnet import module as module_file
from vloc_train.camnet.data import KeyedGroups, Place
from vloc_train.camnet.losses import angle_loss, angle_target, frustum_loss, hard_triplet_loss, relative_pose_loss
from vloc_train.camnet.mining import mine
from vloc_train.camnet.module import CamNetModule
from vloc_train.training.augment import AugmentSettings

STILL = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))


@pytest.fixture
def make(tmp_path):
    def made(**changes) -> CamNetModule:
        settings = tiny_camnet.train_settings(**changes)
        a, b = tiny_drive.frames(30), tiny_drive.frames(30, phase=0.1)
        frames = type(a)(
            np.concatenate([np.asarray(a.images), np.asarray(b.images)]), np.concatenate([a.T_map_cam, b.T_map_cam]),
            np.concatenate([a.stamps_ns, b.stamps_ns]), a.camera,
        )  # fmt: skip
        place = Place(frames, np.repeat([0, 1], 30), mine(frames, settings.mining, settings.seed, tmp_path))
        torch.manual_seed(0)
        return CamNetModule(settings, KeyedGroups([place], settings), tiny_drive.preprocess())

    return made


def batch_of(module: CamNetModule, count: int = 8, step: int = 0):
    groups = module._groups
    return groups.collate([groups[(0, step, 0, i * 60 // count)] for i in range(count)])


def test_the_terms_are_the_losses_of_the_batchs_pairs(make):
    module = make(flip=False, augment=STILL, pairs="anchor", far_negatives=False).eval()
    batch = batch_of(module)
    terms = module.losses(batch)
    assert list(terms) == ["frustum", "angle", "triplet", "pfr", "prp"]
    with torch.no_grad():
        features = module._encode(batch.images.flatten(0, 1))
        icr, pfr, _ = (f.reshape(8, 4, -1) for f in features)
        anchor, others = icr[:, :1].expand(-1, 3, -1), icr[:, 1:]
        distances, angles = module.network.overlap(anchor, others)
        anchors = batch.poses[:, :1].expand(-1, 3, -1)
        torch.testing.assert_close(terms["frustum"], frustum_loss(distances, 1 - batch.overlap))
        torch.testing.assert_close(terms["angle"], angle_loss(angles, angle_target(anchors, batch.poses[:, 1:])))
        unit = torch.nn.functional.normalize(icr, dim=-1)
        expected = hard_triplet_loss(unit[:, 0], unit[:, 1], unit[:, 2], unit[:, 3], batch.valid, 0.1)
        torch.testing.assert_close(terms["triplet"], expected)
        coarse = module.network.coarse(pfr[:, :1].expand(-1, 3, -1), pfr[:, 1:])
        target = relative_poses(anchors, batch.poses[:, 1:])
        torch.testing.assert_close(terms["pfr"], relative_pose_loss(coarse, target, 10.0))


@pytest.mark.parametrize("source", ["any", "others", "one"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_algorithm_1_takes_the_image_closest_to_the_estimate(make, source, mirrored):
    module = make(augment=STILL, refine_from=source)
    step = next(s for s in range(50) if module._groups.mirrors(0, s) == mirrored)
    batch = batch_of(module, step=step)
    place = module._groups.places[0]
    rng = np.random.default_rng(0)
    T = place.frames.T_map_cam[rng.integers(0, 60, (8, 3))]
    estimated = torch.from_numpy(to_vectors(T))
    if mirrored:
        estimated = torch.from_numpy(to_vectors(np.diag([-1.0, 1, 1, 1]) @ T @ np.diag([-1.0, 1, 1, 1])))
    rows = module.closest(batch, estimated)
    references = torch.from_numpy(to_vectors(place.frames.T_map_cam))
    for i in range(8):
        anchor = int(batch.frames[i, 0])
        allowed = np.arange(60) != anchor if source == "any" else place.drive != place.drive[anchor]
        for k in range(3):
            distance = pose_distance(torch.from_numpy(to_vectors(T[i, k])), references, 18.0).numpy()
            distance[~allowed] = np.inf
            assert distance[rows[i, k]] == pytest.approx(distance.min(), abs=1e-5)


def test_a_single_drive_excludes_only_the_anchor(make):
    module = make(augment=STILL)
    place = module._groups.places[0]
    object.__setattr__(place, "drive", np.zeros(60, np.int64))
    batch = batch_of(module)
    own = torch.from_numpy(to_vectors(place.frames.T_map_cam))[batch.frames[:, :1]].expand(-1, 3, -1)
    rows = module.closest(batch, own)
    assert (rows.numpy() != batch.frames[:, :1]).all()


def test_prp_is_trained_on_the_images_that_pfr_leads_to(make, monkeypatch):
    module = make(flip=False, augment=STILL, pairs="anchor").eval()
    batch = batch_of(module)
    place = module._groups.places[0]
    seen = {}

    def remember(predicted, target, weight):
        seen["target"] = target
        return relative_pose_loss(predicted, target, weight)

    anchors = module._encode(batch.images.flatten(0, 1)).prp.reshape(8, 4, -1)[:, 0]
    truth = relative_poses(batch.poses[:, :1].expand(-1, 3, -1), batch.poses[:, 1:])
    monkeypatch.setattr(module_file, "relative_pose_loss", remember)
    module._precise(batch, anchors, truth)  # a perfect PFR: all three lead to the image nearest to the anchor
    for i in range(8):
        anchor = int(batch.frames[i, 0])
        T = place.frames.T_map_cam
        distance = np.linalg.norm(T[:, :3, 3] - T[anchor, :3, 3], axis=1)
        distance[place.drive == place.drive[anchor]] = np.inf
        expected = np.linalg.inv(T[anchor]) @ T[distance.argmin()]
        for k in range(3):
            np.testing.assert_allclose(from_vectors(seen["target"][i, k]), expected, atol=1e-4)


def test_only_what_has_a_loss_is_trained(make):
    module = make(losses=("triplet", "pfr"))
    trained = {name.split(".")[0] for name, p in module.network.named_parameters() if p.requires_grad}
    assert trained == {"trunk", "icr", "pfr", "pfr_pair"}
    terms = module.losses(batch_of(module))
    assert list(terms) == ["triplet", "pfr"]
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in module.network.parameters() if p.requires_grad)
    everything = make()
    sum(everything.losses(batch_of(everything)).values()).backward()
    assert all(p.grad is not None for p in everything.network.parameters())


def test_a_few_steps_learn_relative_poses(make):
    module = make(losses=("pfr",), flip=False, augment=STILL)
    optimizer = module.configure_optimizers()
    batches = [batch_of(module, 12, step) for step in range(2)]
    values = []
    for step in range(60):
        loss = module.losses(batches[step % 2])["pfr"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert np.mean(values[-4:]) < 0.65 * np.mean(values[:4])


def test_optimisers(make):
    sgd = make(optimizer="sgd", learning_rate=0.01, weight_decay=1e-4).configure_optimizers()
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.9
    assert sgd.defaults["weight_decay"] == 1e-4 and sgd.defaults["lr"] == 0.01
    assert isinstance(make().configure_optimizers(), torch.optim.AdamW)


def test_images_beyond_an_anchors_reach_are_hard_ones(make):
    module = make(flip=False, augment=STILL)
    batch = batch_of(module)
    vectors = torch.nn.functional.normalize(torch.randn(8, 4, 5), dim=-1)
    distances, exist = module._far(batch, vectors)
    positions = batch.poses[..., :3].numpy()
    for i in range(8):
        apart = np.linalg.norm(positions - positions[i, 0], axis=-1)
        features = (vectors - vectors[i, 0]).norm(dim=-1).numpy()
        assert bool(exist[i]) and float(distances[i]) == pytest.approx(features[apart > 8.0].min(), abs=1e-5)


def test_one_other_drive_is_drawn_for_each_anchor(make):
    module = make(augment=STILL, refine_from="one")
    place = module._groups.places[0]
    drive = np.arange(60) // 15  # four drives
    object.__setattr__(place, "drive", drive)
    chosen = set()
    for step in range(6):
        batch = batch_of(module, step=step)
        allowed = ~module._excluded(batch)
        np.testing.assert_array_equal(allowed, ~module._excluded(batch))
        for row, anchor in zip(allowed, batch.frames[:, 0].tolist(), strict=True):
            (found,) = np.unique(drive[row])
            assert found != drive[anchor] and row.sum() == 15
            chosen.add((int(drive[anchor]), int(found)))
    assert len(chosen) > 8  # of twelve possible pairs of drives
