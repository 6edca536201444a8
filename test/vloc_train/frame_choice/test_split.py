"""Held-out frames are those that a user would meet: another drive, another passage, or a gap with guards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_drive import circle
from tiny_route import drive, line

from vloc_ros.errors import ConfigError, DatasetError
from vloc_train.frame_choice.route import metres_along, recordings
from vloc_train.frame_choice.settings import HoldOutSettings
from vloc_train.frame_choice.split import GUARD, HELD, MEANING, USED, held_apart, split


def laps(count, frames=200, radius=25.0):
    return np.concatenate([circle(frames, radius)] * count)


def nearest(made):
    """Of every held-out frame, metres to the nearest frame of the map."""
    used = np.concatenate([d.T_map_cam[:, :3, 3] for d in made.training])
    held = np.concatenate([d.T_map_cam[:, :3, 3] for d in made.held_out])
    return np.linalg.norm(held[:, None] - used[None], axis=-1).min(axis=1)


def test_one_passage_is_held_out_in_gaps_with_guards():
    made = split([drive(line(400))], HoldOutSettings())
    assert made.kind == "gaps"
    distance = nearest(made)
    assert distance.min() >= 1.5 and np.median(distance) < 3.1
    share = 1 - len(made.training[0]) / 800
    assert 0.15 <= share <= 0.25
    part = made.part[0]
    assert set(np.unique(part)) == {USED, HELD, GUARD}
    stretches = np.flatnonzero(np.diff((part == HELD).astype(int)) == 1)
    assert len(stretches) >= 10
    assert made.nearest_m == pytest.approx(np.median(distance))
    assert "same light" in made.in_words() and "vloc map calibrate" in made.in_words()


def test_the_guard_of_a_gap_holds_for_every_passage():
    """A place that comes again is not in the map next to a held-out frame, whenever it was seen."""
    made = split([drive(line(300)), drive(line(300, offset=(0.0, 0.7)), "back", 900)], HoldOutSettings(kind="gaps"))
    assert nearest(made).min() >= 1.5


def test_a_lap_driven_twice_holds_out_pieces_of_the_second_passage():
    made = split([drive(laps(2))], HoldOutSettings())
    assert made.kind == "pass"
    held = np.flatnonzero(made.part[0] == HELD)
    assert held.min() >= 190  # the first lap stays whole
    assert (made.part[0][:190] == USED).all()
    assert nearest(made).max() < 4.0  # the map knows the place
    assert made.nearest_s > 30.0  # from another time
    along = metres_along(made.drives[0].T_map_cam)
    used = along[made.part[0] == USED]
    assert min(np.abs(used - along[k]).min() for k in held) >= 5.0  # and not from a moment before
    assert 0.1 <= len(held) / 400 <= 0.35


@pytest.mark.parametrize(
    ("route", "of_a_tenth"),
    [
        (laps(2), HoldOutSettings(kind="pass", near_m=0.4, pass_m=3.0)),
        (line(400), HoldOutSettings(kind="stretches", near_m=0.4, stretch_m=3.0)),
    ],
)
def test_lengths_of_a_tenth_do_in_a_room_what_those_of_streets_do_outdoors(route, of_a_tenth):
    room = route.copy()
    room[:, :3, 3] *= 0.1
    small, large = split([drive(room)], of_a_tenth), split([drive(route)], HoldOutSettings(kind=of_a_tenth.kind))
    np.testing.assert_array_equal(small.part[0], large.part[0])
    assert (large.part[0] == GUARD).any()


def test_standing_or_crawling_is_no_second_passage():
    T = np.repeat(line(60), 5, axis=0)  # five frames at each place
    assert split([drive(T)], HoldOutSettings()).kind == "gaps"


def test_the_other_direction_is_no_second_passage():
    T = np.concatenate([line(200), line(200, backwards=True)])
    assert split([drive(T)], HoldOutSettings()).kind == "gaps"


def test_of_several_drives_the_last_covered_one_is_held_out():
    first, second = drive(line(200), "one"), drive(line(200, offset=(0, 1.0)), "two", 86_400)
    elsewhere = drive(line(200, offset=(0, 500.0)), "three", 90_000)
    made = split([first, second, elsewhere], HoldOutSettings())
    assert made.kind == "drive"
    assert [d.name for d in made.training] == ["one", "three"]
    assert [d.name for d in made.held_out] == ["two (held out)"]
    assert "24 h" in made.in_words() and made.nearest_m == pytest.approx(1.0, abs=0.01)


def test_what_only_the_held_out_drive_has_seen_stays_in_the_map():
    first, longer = drive(line(190), "one"), drive(line(200, offset=(0, 1.0)), "two", 86_400)
    made = split([first, longer], HoldOutSettings())
    assert made.kind == "drive"
    own = next(d for d in made.training if d.name == "two")
    assert own.T_map_cam[:, 0, 3].min() > 190.0


def test_calibration_frames_are_limited():
    made = split([drive(line(400, 0.2), "one"), drive(line(400, 0.2), "two", 900)], HoldOutSettings(frames=50))
    assert sum(len(d) for d in made.held_out) == 50
    assert [d.name for d in made.training] == ["one"]  # the others of the held-out drive do not come back


def test_short_routes_get_short_gaps():
    made = split([drive(line(30, 0.05))], HoldOutSettings())
    assert made.kind == "gaps" and 0.1 < np.median(nearest(made)) < 0.6


def test_a_gap_holds_a_frame_however_far_apart_frames_are():
    made = split([drive(line(400)[::16])], HoldOutSettings())  # 8 m
    assert made.kind == "gaps" and 7 <= sum(len(d) for d in made.held_out) <= 14


def test_stretches_are_places_that_the_map_has_not_seen():
    made = split([drive(line(600))], HoldOutSettings(kind="stretches"))
    assert nearest(made).max() > 15.0


def test_nothing_is_held_out():
    made = split([drive(line(100))], HoldOutSettings(kind="none"))
    assert made.held_out == [] and len(made.training[0]) == 200 and MEANING["none"] in made.in_words()


def test_every_nth_frame_is_held_out_by_name_alone():
    made = split([drive(line(100)), drive(line(6), "two", 900)], HoldOutSettings.named("every:4"))
    assert made.kind == "every" and [len(d) for d in made.held_out] == [50, 3]
    assert made.taken_from == [0, 1] and made.figures()["nearest_m"] == 0.5
    assert made.part[0][:8].tolist() == [USED, USED, HELD, USED, USED, USED, HELD, USED]
    with pytest.raises(ConfigError, match="--hold-out every:10"):  # nothing moved: no gap can be cut
        split([drive(np.tile(np.eye(4), (50, 1, 1)))], HoldOutSettings())


def test_other_drives_are_held_apart():
    made = held_apart([drive(line(10))], [drive(line(5), "two")])
    assert [d.name for d in made.held_out] == ["two"] and made.taken_from == [None]
    assert [len(d) for d in made.training] == [20]


@pytest.mark.parametrize("kind", ["drive", "pass"])
def test_a_kind_that_is_not_possible_says_so(kind):
    with pytest.raises(ConfigError, match=f"--hold-out {kind}: the drives do not allow it"):
        split([drive(line(100))], HoldOutSettings(kind=kind))


def test_no_frames():
    with pytest.raises(DatasetError, match="found none"):
        split([drive(np.zeros((0, 4, 4)))], HoldOutSettings())
    with pytest.raises(DatasetError, match="found none"):
        split([], HoldOutSettings())


def test_a_drive_of_which_nothing_is_left_is_left_out():
    made = replace(split([drive(line(100))], HoldOutSettings(kind="every")), part=(np.full(200, HELD, np.uint8),))
    assert made.training == [] and len(made.held_out) == 1


@pytest.mark.parametrize("sigma_m", [0.005, 0.02, 0.1])
def test_a_standing_vehicle_does_not_drive_by_the_noise_of_its_reference(sigma_m):
    """Five minutes before a red light would be hundreds of metres by the sum of the steps, and a second passage."""
    T = np.concatenate([line(50), np.tile(line(51)[100], (1500, 1, 1)), line(50, offset=(50.5, 0))])
    T[:, :2, 3] += np.random.default_rng(0).normal(0, sigma_m, (len(T), 2))
    assert metres_along(T)[-1] == pytest.approx(100.0, rel=0.15)
    made = split([drive(T)], HoldOutSettings())
    assert made.kind == "gaps"
    # Gaps are spread over the road, not over the time.
    held = made.drives[0].T_map_cam[made.part[0] == HELD][:, 0, 3]
    assert held.min() < 20 and held.max() > 80


def test_metres_are_those_of_the_road():
    np.testing.assert_allclose(metres_along(line(20, 0.05)), np.arange(400) * 0.05, atol=1e-9)
    np.testing.assert_allclose(metres_along(line(20, 2.0)), np.arange(10) * 2.0)
    assert (np.diff(metres_along(np.concatenate([line(5, 0.1), line(5, 0.1, backwards=True)]))) >= 0).all()
    assert metres_along(np.zeros((0, 4, 4))).shape == (0,)


def test_short_passages_that_were_met_first_do_not_hide_the_long_one():
    """Pieces of 6, 36 and 6 frames: two evenly chosen ones would be too few to calibrate on, all three are enough."""
    again = [line(3, offset=(20, 0.5)), line(18, offset=(60, 0.5)), line(3, offset=(100, 0.5))]
    away = [line(20, offset=(0, 300.0 * k)) for k in (1, 2, 3)]
    T = np.concatenate([line(130), *(part for pair in zip(away, again, strict=True) for part in pair)])
    made = split([drive(T)], HoldOutSettings())
    assert made.kind == "pass" and 30 <= len(made.held_out[0]) <= 48


@pytest.mark.parametrize("frames", [1, 2, 5, 19, 20, 21, 29, 30, 31])
@pytest.mark.parametrize("drives", [1, 2])
def test_very_short_drives_always_leave_something_to_make_a_map_of(frames, drives):
    laps = [drive(line(frames / 2), str(k), 900.0 * k) for k in range(drives)]
    if frames <= 2:
        with pytest.raises(ConfigError, match="the route is too short"):
            split(laps, HoldOutSettings())
        return
    made = split(laps, HoldOutSettings())
    assert sum(len(d) for d in made.training) >= frames / 2
    held = sum(len(d) for d in made.held_out)
    assert held + sum(len(d) for d in made.training) <= frames * drives
    assert made.kind != "drive" or held >= 30


def test_a_second_drive_the_other_way_is_not_held_out_as_a_whole():
    made = split([drive(line(200), "there"), drive(line(200, backwards=True), "back", 900)], HoldOutSettings())
    assert made.kind == "gaps" and len(made.training) == 2
    assert nearest(made).min() >= 1.5


def test_a_reference_that_jumps():
    made = split([drive(np.concatenate([line(100), line(100, offset=(400.0, 30.0))]))], HoldOutSettings())
    assert made.kind == "gaps" and nearest(made).min() >= 1.5


@pytest.mark.parametrize("frames", (60, 130, 400))
def test_what_is_left_of_a_drive_can_be_parted_again(frames):
    """Gaps at even distances would all fall into those that were taken out before."""
    first = split([drive(line(frames))], HoldOutSettings())
    second = split(first.training, HoldOutSettings())
    assert first.kind == second.kind == "gaps"
    held = sum(map(len, second.held_out))
    assert 0.03 * frames < held < 0.25 * frames
    assert nearest(second).min() > 0.2


def beside(one, offset_s=0.005):
    """A second camera on the same vehicle, a metre to the right and turned by 90 degrees."""
    turned = np.eye(4)
    turned[:3, :3], turned[0, 3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], 1.0
    return replace(one, name="side", T_map_cam=one.T_map_cam @ turned, stamps_ns=one.stamps_ns + int(offset_s * 1e9))


def test_drives_of_one_time_that_move_together_are_one_recording():
    front = drive(line(200))
    same_time = drive(line(200, offset=(0.0, 3.0), backwards=True), "counted frames")
    assert recordings([front, beside(front), same_time, drive(line(200), "later", 900)]) == [0, 0, 2, 3]
    assert recordings([front, front.select(np.arange(1))]) == [0, 1]


@pytest.mark.parametrize("kind", ["auto", "pass", "gaps", "every"])
def test_the_cameras_of_a_rig_lose_the_same_moments(kind):
    """Else the side camera at the moment of a held-out frame would be in the map, and count as another passage."""
    front = drive(laps(2))
    made = split([front, beside(front)], HoldOutSettings(kind=kind))
    assert made.kind == ("pass" if kind == "auto" else kind)
    np.testing.assert_array_equal(made.part[0], made.part[1])
    assert (made.part[0] == HELD).any() and len(made.held_out) == 2
    alone = split([front], HoldOutSettings(kind=kind))
    np.testing.assert_array_equal(made.part[0], alone.part[0])
    assert made.nearest_s >= (30.0 if kind in ("auto", "pass") else 0.1)


def test_of_two_drives_of_a_rig_one_is_held_out_with_all_its_cameras():
    one, other = drive(line(200)), drive(line(200, offset=(0.0, 0.4)), "other", 900)
    made = split([one, beside(one), other, beside(other)], HoldOutSettings())
    assert made.kind == "drive"
    assert [len(d) for d in made.held_out] == [len(other)] * 2 and [len(d) for d in made.training] == [len(one)] * 2
