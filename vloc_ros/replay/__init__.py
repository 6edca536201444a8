"""Recorded drives through a map: the live node's pipeline over a bag, as fast as the machine allows."""

from vloc_ros.replay.runner import ReplayResult, replay

__all__ = ["ReplayResult", "replay"]
