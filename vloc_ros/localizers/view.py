"""Images of another camera than the map's, for backends that look at an image as a whole."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from vloc_ros.errors import CameraMismatchError
from vloc_ros.geometry.cameras import undistorted_camera
from vloc_ros.geometry.se3 import largest_sigma
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.view import ViewWarp
from vloc_ros.localizers.calibration import Confidence, ConfidenceSettings
from vloc_ros.settings import ranged
from vloc_ros.types import CameraModel, LocalizationState, RgbImage

__all__ = ["MapViews", "ViewSettings", "less_sure"]

#: Cameras that are kept ready.
_CAMERAS = 8
#: The covariance of an image that shows a share c of the map's view is that of a whole one times c to this power.
COVERED_POWER = -3.0
#: A part of a view is LOCALIZED only with a score at most two standard deviations below the mean of the calibration's
#: frames: parts that were wrong scored less.
FAMILIAR = -2.0
#: A view counts as whole from here on: the last rows of a rectified image may be missing.
WHOLE = 0.98


@dataclass(frozen=True)
class ViewSettings(ConfidenceSettings):
    """Which other cameras are taken, by a backend that looks at an image as a whole; its own settings derive from it.

    An image of another camera is warped into the view of the map's; where that camera sees nothing, its nearest pixel
    stands.

    :param least_covered: share of the map's view that another camera must see.
    :param most_enlarged: pixels of the map's view that a pixel of another camera may become, along an axis.
    """

    least_covered: float = ranged(0.7, minimum=0.05, maximum=1.0)
    most_enlarged: float = ranged(2.0, minimum=0.1, maximum=100.0)


class MapViews:
    """Images of any camera as the map's camera would have seen them; what a camera takes is made once.

    :param map_camera: of the manifest.
    :param preprocess: of the manifest; its tolerances say which cameras see the same.
    :param limits: which cameras are taken; None: all.
    """

    def __init__(self, map_camera: CameraModel, preprocess: Preprocess, limits: ViewSettings | None = None) -> None:
        self._map_camera, self._preprocess, self._limits = map_camera, preprocess, limits
        self._views: OrderedDict[CameraModel, ViewWarp | None] = OrderedDict()

    def of(self, camera: CameraModel) -> ViewWarp | None:
        """How images of a camera become views; None where they are such views already.

        :raises CameraMismatchError: it sees too little of the map's view, or with too few pixels.
        :raises CameraError: coefficients that are no lens.
        """
        if camera not in self._views:
            self._views[camera] = self._made(camera)
            while len(self._views) > _CAMERAS:
                self._views.popitem(last=False)
        return self._views[camera]

    def seen(self, image: RgbImage, camera: CameraModel) -> RgbImage:
        """The view of an image."""
        view = self.of(camera)
        return image if view is None else view.warp(image)

    def _made(self, camera: CameraModel) -> ViewWarp | None:
        differs = ""
        try:
            self._preprocess.check(camera, self._map_camera)
        except CameraMismatchError as problem:
            differs = f": {problem}"
        if not camera.is_distorted and not differs:
            return None
        target = undistorted_camera(self._map_camera) if self._map_camera.is_distorted else self._map_camera
        view = ViewWarp(camera, target)
        if self._limits is None:
            return view
        if view.covered < self._limits.least_covered:
            raise CameraMismatchError(
                f"camera: expected at least {100 * self._limits.least_covered:.0f} % of the map's view "
                f"(least_covered), found {100 * view.covered:.0f} %{differs}"
            )
        if view.enlarged > self._limits.most_enlarged:
            raise CameraMismatchError(
                f"camera: expected pixels that become at most {self._limits.most_enlarged:g} of the map's "
                f"(most_enlarged), found {view.enlarged:.1f}: {camera.width}x{camera.height} pixels are few for its "
                "field of view; use images of more pixels, or a map made with this lens"
            )
        return view


def less_sure(confidence: Confidence, view: ViewWarp, score: float, limits: object) -> Confidence:
    """What is believed of a pose by a view that another camera saw, perhaps in part.

    :param confidence: as if it had been whole. :param score: relative to what frames of the map score
        (:meth:`~vloc_ros.localizers.calibration.SceneCalibration.relative`). :param limits: the backend's settings.
    """
    if view.covered >= WHOLE:
        return confidence
    covariance = confidence.covariance * max(view.covered, 1e-3) ** COVERED_POWER
    state, sigma = confidence.state, confidence.position_sigma_m
    familiar = score >= FAMILIAR
    if sigma is None:  # nobody knows what a part is worth where nobody knows what the whole is
        familiar = False
    elif isinstance(limits, ConfidenceSettings):
        sigma = largest_sigma(covariance[:3, :3])
        familiar &= sigma <= limits.localized_sigma_m
        if sigma > limits.lost_sigma_m:
            state = LocalizationState.LOST
    if not familiar and state is LocalizationState.LOCALIZED:
        state = LocalizationState.DEGRADED
    return replace(confidence, covariance=covariance, state=state, position_sigma_m=sigma)
