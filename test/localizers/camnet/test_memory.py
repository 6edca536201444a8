from __future__ import annotations

import torch

from vloc_ros.localizers.camnet.memory import FrameMemory, SeenFrame

SECOND = 1_000_000_000


def frame(stamp_s: float, scene: str = "map") -> SeenFrame:
    return SeenFrame(int(stamp_s * SECOND), scene, torch.zeros(2), torch.zeros(7))


def stamps(memory: FrameMemory, stamp_s: float, scene: str = "map") -> list[float]:
    return [f.stamp_ns / SECOND for f in memory.before(int(stamp_s * SECOND), scene)]


def filled() -> FrameMemory:
    memory = FrameMemory(2, 0.5)
    for stamp in (10.0, 10.1, 10.2, 10.3):
        memory.remember(frame(stamp))
    return memory


def test_the_last_two_frames_oldest_first():
    assert stamps(filled(), 10.4) == [10.2, 10.3]
    assert stamps(FrameMemory(2, 0.5), 1.0) == []


def test_the_same_frame_again_sees_what_it_saw_before():
    memory = filled()
    assert stamps(memory, 10.3) == [10.1, 10.2]
    memory.remember(frame(10.3))
    assert stamps(memory, 10.3) == [10.1, 10.2] and stamps(memory, 10.4) == [10.2, 10.3]


def test_a_pause_a_step_back_and_another_scene_empty_it():
    for when, scene in ((10.81, "map"), (10.25, "map"), (10.4, "other")):
        memory = filled()
        assert stamps(memory, when, scene) == [] and len(memory) == 0
    assert stamps(filled(), 10.79) == [10.2, 10.3]


def test_without_length_nothing_is_kept():
    memory = FrameMemory(0, 0.5)
    memory.remember(frame(1.0))
    assert len(memory) == 0 and stamps(memory, 1.1) == []
