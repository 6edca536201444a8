"""Builds maps of the backend ``features``: points with descriptors, of drives with poses; nothing is trained."""
