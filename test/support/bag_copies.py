"""Bags made from others."""

from __future__ import annotations

import shutil


def copy_without(source, target, topic):
    """The same bag without one topic."""
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import StoragePlugin, Writer

    shutil.rmtree(target, ignore_errors=True)
    with AnyReader([source]) as reader, Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        made = {}
        for connection, time, data in reader.messages():
            if connection.topic == topic:
                continue
            if connection.topic not in made:
                made[connection.topic] = writer.add_connection(
                    connection.topic, connection.msgtype, typestore=reader.typestore
                )
            writer.write(made[connection.topic], time, data)
