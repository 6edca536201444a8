"""The ImPosing trainer: posed images in, a map bundle out."""
