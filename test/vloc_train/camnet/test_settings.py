from __future__ import annotations

import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.settings import settings_from_mapping
from vloc_train.camnet.settings import TrainSettings

preset = TrainSettings.preset


def test_the_paper_preset_is_the_papers():
    s = preset("paper")
    assert (s.network.backbone, s.network.feature_dim, s.network.hidden, s.network.pooling) == (
        "resnet34",
        None,
        512,
        "gap",
    )
    assert (s.image_width, s.image_height, s.batch_size, s.epochs) == (224, 224, 128, 300)
    assert (s.optimizer, s.learning_rate, s.weight_decay) == ("sgd", 0.01, 1e-4)
    assert (s.schedule, s.margin, s.rotation_weight) == ("poly", 0.1, 1.0)
    assert (s.mining.grid, s.mining.similarity) == (10, "auto")
    assert (s.inference.top, s.inference.rotation_weight_m, s.flip, s.pretrained) == (3, 1.0, True, True)
    assert s.augment.photometric == 0.4 and s.augment.rotate_deg == (0.0, 0.0, 0.0) and s.augment.shift_m == 0.0
    assert s.pairs == "anchor" and s.losses == ("frustum", "angle", "triplet", "pfr", "prp")


@pytest.mark.parametrize("name", ["paper", "small"])
def test_presets_survive_the_way_through_a_manifest(name):
    s = preset(name, {"losses": ["frustum"]})
    assert settings_from_mapping(TrainSettings, s.to_mapping(), "test") == s and s.losses == ("frustum",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": []}, "losses"),
        ({"losses": ["pfr", "pose"]}, "losses"),
        ({"losses": ["prp"]}, "Algorithm 1"),
        ({"losses": ["pfr", "pfr"]}, "losses"),
        ({"batch_sise": 3}, "batch_sise"),
        ({"mining": {"near_m": [5.0, 1.0]}}, "easy pairs"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        preset("small", changes)
    with pytest.raises(ConfigError, match="preset"):
        preset("large")
