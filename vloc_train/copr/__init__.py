"""The CoPR trainer and ``vloc map densify``: drives to a descriptor regressor, sparse maps to dense ones."""
