"""3D points of images with known poses: structure from motion, depth, COLMAP import, quality."""
