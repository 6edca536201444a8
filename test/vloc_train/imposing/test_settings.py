from __future__ import annotations

import pytest

from vloc_ros.errors import ConfigError
from vloc_train.imposing.settings import TrainSettings

preset = TrainSettings.preset


def test_the_paper_is_the_paper():
    s = preset("paper")
    assert (s.network.backbone, s.network.embed_dim, s.network.pooling) == ("resnet34", 256, "gap")
    assert s.network.pose_input_dim == 161 and (s.network.layers, s.network.hidden) == (4, 256)
    assert (s.search.candidates, s.search.refinements, s.search.components, s.search.averaged) == (4096, 6, 100, 256)
    assert s.search.noise_translation_m == (8.0, 8.0, 0.2) and s.search.noise_rotation_deg == (1.0, 1.0, 5.0)
    assert (s.image_width, s.image_height, s.epochs, s.learning_rate, s.schedule) == (240, 135, 250, 1e-4, "constant")
    assert (s.width_m, s.width_deg, s.uniform_noise, s.weight_average) == (5.0, 10.0, 1.0, 0.0)
    assert s.pretrained is True


def test_nested_changes_leave_the_rest_of_the_preset_alone():
    base, s = preset("small"), preset("small", {"network": {"embed_dim": 64}, "augment": {"blur": 0.0}, "epochs": 3})
    assert (s.network.embed_dim, s.augment.blur, s.epochs) == (64, 0.0, 3)
    assert s.network.backbone == base.network.backbone and s.augment.erase == base.augment.erase
    assert s.search == base.search


def test_backbone_options_are_replaced_as_a_whole():
    s = preset("small", {"network": {"backbone": "resnet18", "backbone_options": {}}})
    assert s.network.backbone_options == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"epochz": 3}, {"network": {"embed": 3}}, {"epochs": 0}, {"epochs": "many"}, {"batch_size": -1},
        {"search": {"candidates": 10}}, {"schedule": "linear"}, {"weights": "int4"}, {"network": 3}, {"width_m": 0},
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        preset("paper", changes, "my.yaml")


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="paper, small"):
        preset("large")
