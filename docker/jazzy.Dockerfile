# The node on ROS 2 Jazzy (Ubuntu 24.04, Python 3.12). From the checkout:
#
#     docker build -f docker/jazzy.Dockerfile -t vloc_ros:jazzy .
#     docker run --rm --gpus all --network host --ipc host -v /maps:/maps:ro vloc_ros:jazzy \
#         ros2 launch vloc_ros localizer.launch.py map:=/maps/campus image:=/camera/image
#
# Without a GPU leave out --gpus all. torch brings its CUDA libraries; the host needs its driver and NVIDIA's container
# toolkit. With --ipc host the image goes through shared memory where the middleware has any.
FROM ros:jazzy-ros-base

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
    ros-jazzy-ament-index-python \
    ros-jazzy-bond \
    ros-jazzy-builtin-interfaces \
    ros-jazzy-cv-bridge \
    ros-jazzy-diagnostic-msgs \
    ros-jazzy-diagnostic-updater \
    ros-jazzy-geometry-msgs \
    ros-jazzy-launch \
    ros-jazzy-launch-ros \
    ros-jazzy-lifecycle-msgs \
    ros-jazzy-nav-msgs \
    ros-jazzy-rcl-interfaces \
    ros-jazzy-rclpy \
    ros-jazzy-ros2bag \
    ros-jazzy-ros2launch \
    ros-jazzy-rosbag2-storage-mcap \
    ros-jazzy-sensor-msgs \
    ros-jazzy-sensor-msgs-py \
    ros-jazzy-std-msgs \
    ros-jazzy-std-srvs \
    ros-jazzy-tf-transformations \
    ros-jazzy-tf2-msgs \
    ros-jazzy-tf2-ros-py \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the distribution's packages (rclpy, cv_bridge). cv_bridge is built for numpy 1.
COPY . /opt/vloc_ros
RUN python3 -m venv --system-site-packages /opt/vloc \
    && /opt/vloc/bin/pip install --no-cache-dir "/opt/vloc_ros[replay,ros]" "numpy<2"

# The environment is an ament prefix: ros2 run and ros2 launch find the package in it.
ENV PATH="/opt/vloc/bin:${PATH}" AMENT_PREFIX_PATH="/opt/vloc"
CMD ["ros2", "launch", "vloc_ros", "localizer.launch.py", "--show-args"]
