"""Localizer backends: one interface, one folder a backend."""

from __future__ import annotations

from vloc_ros.localizers.base import Localizer, available_backends, load_localizer, select_device

__all__ = ["Localizer", "available_backends", "load_localizer", "select_device"]
