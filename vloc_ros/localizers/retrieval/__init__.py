"""Image retrieval: global descriptors, a database of them with poses, and the pose of what is nearest."""
