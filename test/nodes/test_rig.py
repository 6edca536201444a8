"""Images of several cameras as moments, or in turn; cameras that are silent or apart are not waited for."""

from __future__ import annotations

from vloc_ros.nodes.rig import Moments, Turns

MS = 1_000_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def moments(names=("front", "side"), tolerance_s=0.02, timeout_s=0.5):
    clock, got = Clock(), []
    return Moments(names, tolerance_s, timeout_s, got.append, clock), got, clock


def drive(made, clock, frames, cameras, first=0, step_ms=100):
    """``cameras`` is {name: (offset of its stamps, delay until it arrives)}, milliseconds."""
    events = [
        (n * step_ms + delay, name, n * step_ms + offset)
        for n in range(first, first + frames)
        for name, (offset, delay) in cameras.items()
    ]
    for at, name, stamp in sorted(events):
        clock.now = at * 1e-3
        made.add(name, (1000 + stamp) * MS, f"{name}{stamp}")


def test_images_of_one_moment_come_together_in_the_order_of_the_names():
    made, got, clock = moments()
    drive(made, clock, 3, {"side": (0, 5), "front": (3, 9)})
    assert got == [["front3", "side0"], ["front103", "side100"], ["front203", "side200"]]
    assert made.absent() == {}


def test_a_camera_that_falls_silent_costs_no_frame_and_comes_back():
    made, got, clock = moments()
    both = {"front": (0, 5), "side": (2, 30)}
    drive(made, clock, 3, both)
    drive(made, clock, 10, {"front": (0, 5)}, first=3)
    # While it is waited for each image goes out with the next; then at once, and none is lost.
    assert got[3:] == [[f"front{100 * n}"] for n in range(3, 13)]
    assert "no image for" in made.absent()["side"] and list(made.absent()) == ["side"]
    drive(made, clock, 5, both, first=13)
    assert got[-3:] == [[f"front{100 * n}", f"side{100 * n + 2}"] for n in (15, 16, 17)]
    assert made.absent() == {}


def test_the_first_camera_may_be_the_one_that_fails():
    made, got, clock = moments()
    drive(made, clock, 2, {"front": (0, 5), "side": (2, 9)})
    drive(made, clock, 12, {"side": (2, 9)}, first=2)
    assert got[2:] == [[f"side{100 * n + 2}"] for n in range(2, 14)] and list(made.absent()) == ["front"]


def test_stamps_apart_by_more_than_the_tolerance_are_told_and_not_waited_for():
    made, got, clock = moments()
    drive(made, clock, 20, {"front": (0, 5), "side": (45, 52)})
    assert all(len(images) == 1 for images in got)
    assert [i for images in got for i in images if i.startswith("front")][-8:] == [f"front{n}00" for n in range(12, 20)]
    told = made.absent()
    assert list(told) == ["side"] and "from those of the others" in told["side"] and "rig_tolerance" in told["side"]


def test_a_faster_camera_does_not_wait_long_and_stamps_never_go_back():
    made, got, clock = moments(("front", "side"), 0.02)
    for n in range(60):
        clock.now = n * 0.033
        made.add("front", (1000 + 33 * n) * MS, 33 * n)
        if n % 3 == 0:
            clock.now += 0.01
            made.add("side", (1000 + 33 * n + 1) * MS, 33 * n + 1)
    stamps = [max(images) for images in got]
    assert stamps == sorted(set(stamps)) and sum(len(images) == 2 for images in got) >= 18
    assert len({i for images in got for i in images if i % 33 == 0}) >= 58


def test_a_clock_that_goes_back_starts_anew():
    made, got, clock = moments()
    drive(made, clock, 3, {"front": (5000, 5), "side": (5002, 9)})
    drive(made, clock, 2, {"front": (0, 5), "side": (2, 9)}, first=3)
    assert got[-1] == ["front400", "side402"]


def test_a_camera_that_never_sends_is_named():
    made, got, clock = moments()
    drive(made, clock, 8, {"front": (0, 5)})
    assert made.absent() == {"side": "no image has come"} and len(got) >= 7


def test_in_turn_the_camera_that_waited_longest_is_next():
    clock = Clock()
    turns = Turns(["front", "left", "right"], clock)
    assert turns.take(0) is None
    for n, name in enumerate(("front", "left", "right", "front")):
        turns.add(name, (10 + n) * MS, f"{name}{n}")
    taken, last = [], 0
    for n in range(4, 10):
        item = turns.take(last)
        taken.append(item)
        last = (10 + int(item[-1])) * MS if item else last
        for name in ("front", "left", "right"):
            turns.add(name, (10 + n) * MS, f"{name}{n}")
    assert [item.rstrip("0123456789") for item in taken] == ["front", "left", "right"] * 2
    assert turns.take(10**18) is not None  # the stamps went back
    clock.now = 3.0
    turns.add("left", 10**9, "left")
    assert list(turns.absent(1.0)) == ["front", "right"]
