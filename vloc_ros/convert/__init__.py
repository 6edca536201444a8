"""Data sets and synthetic drives to rosbag2."""
