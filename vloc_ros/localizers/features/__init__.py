"""Structure-based localization: local features of the image matched with the points of the map."""
