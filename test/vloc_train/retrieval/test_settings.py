from __future__ import annotations

import pytest

from vloc_ros.errors import ConfigError
from vloc_train.retrieval.settings import BuildSettings, TrainSettings

preset, build_preset = TrainSettings.preset, BuildSettings.preset


@pytest.mark.parametrize(("kind", "rate"), [("triplet", 1e-5), ("relative", 1e-4), ("distance", 5e-5)])
def test_the_paper_preset_is_the_paper(kind, rate):
    s = preset("paper", {"loss": {"kind": kind}})
    assert s.learning_rate == rate and s.loss.margin == 0.3 and s.pretrained is True
    assert s.extractor.backbone == "resnet34" and s.extractor.kind == "gap" and s.extractor.dimension is None
    assert (s.extractor.image_width, s.extractor.image_height) == (240, 135)
    assert s.extractor.normalise == (kind == "triplet")
    assert s.loss.max_distance_m is None and s.loss.rotation_m_per_deg == 0 and s.loss.near_m is None
    assert s.sampling.group_size == 2 and s.sampling.compare == "group" and s.sampling.near_m is None
    assert s.schedule == "constant" and s.weight_average == 0


def test_what_the_user_gives_wins_over_what_follows_from_the_loss():
    s = preset("small", {"loss": {"kind": "triplet", "margin": 0.5}, "learning_rate": 2e-3})
    assert s.learning_rate == 2e-3 and s.loss.margin == 0.5 and s.extractor.normalise
    assert preset("small", s.to_mapping()) == s
    assert preset("paper").loss.kind == "distance"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "hinge"}}, "loss.kind: expected one of triplet, relative, distance"),
        ({"extractor": {"normalise": True}}, "expected false with loss.kind 'distance'"),
        ({"loss": {"kind": "triplet"}, "extractor": {"normalise": False}}, "expected true with loss.kind 'triplet'"),
        ({"extractor": {"whiten": 16}}, "extractor.whiten"),
        ({"loss": {"max_distance_m": -1.0}}, "max_distance_m"),
        ({"epoch": 3}, "unknown field 'epoch'"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        preset("small", changes)


def test_settings_of_a_build():
    assert build_preset("default") == BuildSettings()
    assert build_preset("default", {"database": {"spacing_m": 2.0}}).database.spacing_m == 2.0
    with pytest.raises(ConfigError, match="preset"):
        build_preset("paper")
