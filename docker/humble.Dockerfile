# The node on ROS 2 Humble (Ubuntu 22.04, Python 3.10). From the checkout:
#
#     docker build -f docker/humble.Dockerfile -t vloc_ros:humble .
#     docker run --rm --gpus all --network host --ipc host -v /maps:/maps:ro vloc_ros:humble \
#         ros2 launch vloc_ros localizer.launch.py map:=/maps/campus image:=/camera/image
#
# Without a GPU leave out --gpus all. torch brings its CUDA libraries; the host needs its driver and NVIDIA's container
# toolkit. With --ipc host the image goes through shared memory where the middleware has any.
FROM ros:humble-ros-base

# What package.xml names.
RUN apt-get update && apt-get install -y --no-install-recommends \
    python3-numpy \
    python3-opencv \
    python3-pip \
    python3-rich \
    python3-scipy \
    python3-transforms3d \
    python3-venv \
    python3-yaml \
    ros-humble-ament-index-python \
    ros-humble-bond \
    ros-humble-builtin-interfaces \
    ros-humble-cv-bridge \
    ros-humble-diagnostic-msgs \
    ros-humble-diagnostic-updater \
    ros-humble-geometry-msgs \
    ros-humble-launch \
    ros-humble-launch-ros \
    ros-humble-lifecycle-msgs \
    ros-humble-nav-msgs \
    ros-humble-rcl-interfaces \
    ros-humble-rclpy \
    ros-humble-ros2bag \
    ros-humble-ros2launch \
    ros-humble-rosbag2-storage-mcap \
    ros-humble-sensor-msgs \
    ros-humble-sensor-msgs-py \
    ros-humble-std-msgs \
    ros-humble-std-srvs \
    ros-humble-tf-transformations \
    ros-humble-tf2-msgs \
    ros-humble-tf2-ros-py \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the distribution's packages (rclpy, cv_bridge). cv_bridge is built for numpy 1.
COPY . /opt/vloc_ros
RUN python3 -m venv --system-site-packages /opt/vloc \
    && /opt/vloc/bin/pip install --no-cache-dir "/opt/vloc_ros[replay,ros]" "numpy<2"

# The environment is an ament prefix: ros2 run and ros2 launch find the package in it.
ENV PATH="/opt/vloc/bin:${PATH}" AMENT_PREFIX_PATH="/opt/vloc"
CMD ["ros2", "launch", "vloc_ros", "localizer.launch.py", "--show-args"]
