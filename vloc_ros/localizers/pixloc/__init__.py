"""PixLoc: poses refined by aligning learned features of the image with those of the map's points."""
