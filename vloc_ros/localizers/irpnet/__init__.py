"""IRPNet: the pose regressed from a frozen place-recognition descriptor (Shavit and Ferens, ICPR 2020)."""
