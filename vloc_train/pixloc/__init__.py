"""PixLoc: its maps (structure from motion, depth, COLMAP models) and its training."""
