"""CamNet: coarse-to-fine retrieval and relative pose regression against a database of posed images."""
