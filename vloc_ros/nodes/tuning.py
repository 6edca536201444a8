"""The pipeline with the settings that the node's parameters ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vloc_ros.nodes.ros_parameters import NodeParameters
from vloc_ros.pipeline import Pipeline, PipelineSettings
from vloc_ros.settings import settings_from_mapping
from vloc_ros.tracking import Tracker, TrackerSettings

if TYPE_CHECKING:
    from vloc_ros.localizers.base import Localizer

__all__ = ["make_pipeline"]


def make_pipeline(localizer: Localizer, parameters: NodeParameters) -> Pipeline:
    """A fresh pipeline around ``localizer``.

    :raises ConfigError: settings that do not go together.
    """
    tracker = Tracker(settings_from_mapping(TrackerSettings, parameters.group("tracker."), "parameters tracker.*"))
    own = {
        "publish_degraded": parameters["publish_degraded"],
        "max_age_s": parameters["max_image_age"],
        **parameters.group("pipeline."),
    }
    return Pipeline(localizer, settings_from_mapping(PipelineSettings, own, "parameters pipeline.*"), tracker)
