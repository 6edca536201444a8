"""Offline trainers and map builders of vloc_ros. Imports ``vloc_ros``; nothing in ``vloc_ros`` imports it."""
