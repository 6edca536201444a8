"""Benchmarks: each backend's stages, timed against a literal transcription of its paper in the same run."""
