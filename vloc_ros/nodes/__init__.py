"""The rclpy front end: the only place in the package that imports rclpy."""
