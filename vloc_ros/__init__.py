"""vloc_ros: a vehicle's camera in, a trustworthy pose out.

The two names most programs need::

    import vloc_ros

    localizer = vloc_ros.load_localizer("/maps/campus", device="auto")
    estimate = localizer.localize(vloc_ros.Query(image_rgb, camera, stamp_ns))

Importing the package is cheap: torch loads with the first localizer.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vloc_ros.localizers.base import load_localizer
    from vloc_ros.types import CameraModel, Estimate, LocalizationState, PosePrior, Query

__version__ = "0.2.0"

__all__ = ["CameraModel", "Estimate", "LocalizationState", "PosePrior", "Query", "__version__", "load_localizer"]

#: Where the names come from when they are first asked for: `vloc --help` needs neither numpy nor torch.
_MODULES = {
    "load_localizer": "vloc_ros.localizers.base",
    **dict.fromkeys(("CameraModel", "Estimate", "LocalizationState", "PosePrior", "Query"), "vloc_ros.types"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        # What is imported stays: a tenth of the time of importing torch went into looking for garbage.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return getattr(import_module(_MODULES[name]), name)
        finally:
            if collecting:
                gc.enable()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
