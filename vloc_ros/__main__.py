"""``python -m vloc_ros`` is ``vloc``."""

from vloc_ros.cli import main

main()
