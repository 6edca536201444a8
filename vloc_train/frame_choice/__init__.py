"""Which frames of a drive become the map, and which are held out."""
