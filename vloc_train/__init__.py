"""Trainers and map builders. Imports vloc_ros, never the reverse."""
