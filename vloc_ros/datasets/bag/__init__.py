"""Bags as drives: reading, salvage of damaged files, the transform tree, reference poses."""
