"""The synthetic town: exact ground truth for every backend, from one seed.

>>> town = Town(seed=1, loop_m=200.0)
>>> drive = Traversal(town, index=0)
>>> frame = Renderer(town, default_camera()).render(drive, 0)
"""

from vloc_ros.town.light import CONDITIONS
from vloc_ros.town.renderer import Rendered, Renderer, default_camera
from vloc_ros.town.town import Town
from vloc_ros.town.traversal import Traversal

__all__ = ["CONDITIONS", "Rendered", "Renderer", "Town", "Traversal", "default_camera"]
