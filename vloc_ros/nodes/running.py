"""Runs a node of this package until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vloc_ros.errors import ConfigError

__all__ = ["PATIENCE_S", "run_node"]

N = TypeVar("N", bound=Node)
#: How long the end waits for what cannot be interrupted (a map that loads, a frame at work), seconds.
PATIENCE_S = 0.5


def run_node(
    name: str,
    make: Callable[[], N],
    failed: Callable[[N, Exception], None],
    finish: Callable[[N], int],
    args: list[str] | None = None,
) -> int:
    """Run the node until SIGINT or SIGTERM. Exit code 2 for a parameter that is not allowed, else that of ``finish``.

    Signals are handled here rather than by rclpy: the executor spins in its own thread and the main thread only
    waits for a signal, so that none is lost. The process ends as soon as the node has told the others and closed its
    files: taking the interpreter and its libraries apart costs seconds on a loaded machine and gives nothing back that
    the system does not take anyway.

    :param name: of the program, before what it prints.
    :param make: the node. :param failed: hears of what a callback raised; the node goes on.
    :param finish: closes what the node holds when no callback runs any more, and gives the exit code.
    """
    stop = threading.Event()
    heard: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        # A terminal and ros2 launch may both pass on one Ctrl-C: only the third signal ends the process at once.
        heard.append(number)
        if len(heard) >= 2:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
    except ConfigError as error:
        print(f"{name}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        while not stop.is_set():
            try:
                executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                stop.set()
            except Exception as error:
                if not stop.is_set():
                    failed(node, error)

    spinner = threading.Thread(target=spin, name="vloc-executor", daemon=True)
    spinner.start()
    while not stop.wait(0.5):
        pass
    spinner.join(PATIENCE_S)
    code = 0
    if spinner.is_alive():
        # A map that is being loaded cannot be interrupted; nothing has been published from it.
        print(f"{name}: stopped while loading", file=sys.stderr)
    else:
        code = finish(node)
        executor.shutdown(timeout_sec=0.2)
        node.destroy_node()
        rclpy.try_shutdown()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
