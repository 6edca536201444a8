"""ImPosing: implicit pose encoding, the coarse localizer that runs in real time with a map of constant size."""
