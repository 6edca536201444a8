"""Local features behind one interface: detect, describe, match, and what a pose is worth by them."""
