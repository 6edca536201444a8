"""Images: from any ROS encoding to RGB, rectified, checked, and as the tensor that a network reads."""
