from __future__ import annotations

import pytest
import tiny_drive
import tiny_extractor
import torch
from torch.nn import functional

from vloc_ros.errors import VlocError
from vloc_train.retrieval.clusters import fit_extractor_whitening, initialise_clusters

CPU = torch.device("cpu")


def drives():
    return [tiny_drive.frames(9, "a"), tiny_drive.frames(7, "b", paint=1)]


def test_clusters_are_where_local_features_are():
    extractor = tiny_extractor.extractor(kind="netvlad", clusters=4, normalise=True)
    assert initialise_clusters(extractor, drives(), tiny_extractor.preprocess(), 12, 0, CPU)
    centres = extractor.pooling.centres.detach()
    images = torch.from_numpy(drives()[0].images).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = extractor.local_features(tiny_extractor.preprocess().normalize(images))
    unit = functional.normalize(features, dim=1).flatten(2).transpose(1, 2).reshape(-1, 32)
    random = tiny_extractor.extractor(kind="netvlad", clusters=4, normalise=True).pooling.centres.detach()
    near = lambda c: float(torch.cdist(unit, c).min(dim=1).values.mean())  # noqa: E731
    assert near(centres) < 0.5 * near(random)
    again = tiny_extractor.extractor(kind="netvlad", clusters=4, normalise=True)
    initialise_clusters(again, drives(), tiny_extractor.preprocess(), 12, 0, CPU)
    torch.testing.assert_close(again.pooling.centres, extractor.pooling.centres)


def test_extractors_without_clusters_are_left_alone():
    extractor = tiny_extractor.extractor()
    before = {k: v.clone() for k, v in extractor.state_dict().items()}
    assert not initialise_clusters(extractor, drives(), tiny_extractor.preprocess(), 12, 0, CPU)
    assert all(torch.equal(v, before[k]) for k, v in extractor.state_dict().items())


def test_the_whitening_makes_components_of_training_images_independent():
    extractor = tiny_extractor.extractor(normalise=True)
    fit_extractor_whitening(extractor, 5, drives(), tiny_extractor.preprocess(), 100, 0, CPU)
    assert extractor.dimension == 5 and extractor.settings.whiten == 5
    images = torch.cat([torch.from_numpy(d.images).permute(0, 3, 1, 2) for d in drives()])
    with torch.no_grad():
        x = extractor.whitening(extractor.before_whitening(tiny_extractor.preprocess().normalize(images)))
    torch.testing.assert_close(torch.cov(x.T), torch.eye(5), rtol=0.01, atol=0.01)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(5), rtol=0.0, atol=1e-3)


def test_images_that_are_all_alike_cannot_be_whitened():
    frames = tiny_drive.frames(5)
    frames.images[:] = frames.images[0]
    with pytest.raises(VlocError, match="alike"):
        fit_extractor_whitening(tiny_extractor.extractor(), 4, [frames], tiny_extractor.preprocess(), 5, 0, CPU)
