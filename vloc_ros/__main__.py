"""``python -m vloc_ros`` is ``vloc``."""

from vloc_ros.cli.main import main

main()
