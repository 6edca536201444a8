"""Frames are chosen by motion, and every frame that is left out has its reason."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiny_drive import CAMERA, START, Pictures

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import R_BODY_OPTICAL, PosedSequence
from vloc_ros.errors import DatasetError
from vloc_train.frame_choice.measure import Measures, figures_of, measure
from vloc_train.frame_choice.selection import choose, surroundings
from vloc_train.frame_choice.settings import SelectionSettings

TEXTURE = cv2.resize(np.random.default_rng(0).integers(0, 255, (18, 64, 3), dtype=np.uint8), (256, 72))


class Spoiled(Pictures):
    """A textured wall that moves by, with faults by number: blurred, dark, bright, flat, size, broken."""

    faults: dict[int, str]
    seen: int = 0

    def image(self, index):
        self.seen += 1
        image, fault = np.roll(TEXTURE, index, axis=1)[:36, :64].copy(), self.faults.get(index, "")
        if fault == "blurred":
            return cv2.GaussianBlur(image, (0, 0), 4.0)
        if fault == "broken":
            raise DatasetError(f"image {index}: cannot be decoded")
        made = {"dark": image // 16, "bright": np.full_like(image, 255), "flat": np.full_like(image, 128)}
        return made.get(fault, image[:-1] if fault == "size" else image)


def straight(metres, faults=None, name="drive"):
    """A drive along x, one frame at each of ``metres``."""
    T = np.tile(np.eye(4), (len(metres), 1, 1))
    T[:, :3, :3] = R_BODY_OPTICAL
    T[:, 0, 3] = metres
    source = Spoiled(T, paint=3)
    source.faults = faults or {}
    stamps = START + np.arange(len(metres), dtype=np.int64) * 100_000_000
    return PosedSequence(name, stamps, T, np.eye(4), CAMERA, source)


def chosen(sequence, problems=None, **settings):
    return choose(sequence, measure(sequence, problems=problems), SelectionSettings(**settings))


def test_a_new_frame_every_so_many_metres_and_none_while_standing():
    metres = np.concatenate([np.arange(0, 5, 0.1), np.full(20, 5.0), np.arange(5, 8, 0.1)])
    choice = chosen(straight(metres), spacing_m=0.5)
    steps = np.diff(choice.used.T_map_cam[:, 0, 3])
    np.testing.assert_allclose(steps, 0.5, atol=1e-9)
    # Of the 21 frames at 5 m one is used.
    assert choice.counts["standing still"] == 20
    assert sum(choice.counts.values()) + len(choice.kept) == len(metres)


def test_a_turn_counts_as_motion():
    sequence = straight(np.zeros(30))
    T = sequence.T_map_cam.copy()
    angle = np.radians(np.arange(30))
    for k, a in enumerate(angle):
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        T[k, :3, :3] = turn @ R_BODY_OPTICAL
    choice = chosen(replace(sequence, T_map_cam=T), spacing_deg=10.0)
    assert len(choice.kept) == 3 and np.diff(choice.kept).max() <= 11  # ten degrees, up to rounding
    assert chosen(replace(sequence, T_map_cam=T), spacing_deg=0.0).kept.tolist() == [0]


@pytest.mark.parametrize("step", [0.4, 0.49, 0.51, 0.7])
def test_frames_a_little_closer_than_the_spacing_do_not_end_up_twice_as_far_apart(step):
    choice = chosen(straight(np.arange(40) * step), spacing_m=0.5)
    spacing = np.diff(choice.used.T_map_cam[:, 0, 3])
    assert spacing.max() <= max(step, 0.5) * 1.3


def test_bad_images_are_dropped_each_with_its_reason():
    faults = {5: "blurred", 6: "dark", 7: "bright", 8: "flat"}
    choice = chosen(straight(np.arange(30.0), faults))
    assert choice.counts == {"dark": 1, "overexposed": 1, "shows nothing": 1, "blurred": 1}
    assert set(range(30)) - set(choice.kept.tolist()) == {5, 6, 7, 8}
    assert choice.used.dropped == choice.counts
    assert "26 of 30 posed frames over 29 m; left out: 1 dark" in choice.in_words()


def test_a_long_blurred_stretch_does_not_excuse_itself():
    """40 m blurred in a window of 20 m: the drive's own median tells."""
    choice = chosen(straight(np.arange(120.0), dict.fromkeys(range(40, 80), "blurred")), blur_window_m=20.0)
    assert choice.counts == {"blurred": 40}
    excused = chosen(
        straight(np.arange(120.0), dict.fromkeys(range(40, 80), "blurred")), blur_window_m=20.0, blur_floor=0.0
    )
    assert excused.counts.get("blurred", 0) < 40


def test_sharpness_ignores_light_and_contrast():
    image = TEXTURE[:36, :64]
    sharp = figures_of(image)[0]
    darker = figures_of((image * 0.5).astype(np.uint8))[0]
    assert darker == pytest.approx(sharp, rel=0.3)
    assert figures_of(cv2.GaussianBlur(image, (0, 0), 4.0))[0] < 0.2 * sharp


def test_damaged_images_stop_or_are_counted(tmp_path):
    sequence = straight(np.arange(10.0), {3: "size", 4: "broken", 9: "broken"})
    with pytest.raises(DatasetError, match=r"image 3 \(stamp \d+ ns\): expected 64x36 as the camera says, found 64x35"):
        measure(sequence)
    problems = Problems(keep_going=True)
    measures = measure(sequence, tmp_path, problems)
    assert np.flatnonzero(measures.damaged).tolist() == [3, 4, 9]
    assert problems.counts == {"image damaged, or of another size": 3}
    choice = choose(sequence, measures, SelectionSettings())
    assert choice.counts == {"damaged": 3}
    with pytest.raises(DatasetError):  # what was found with --keep-going is no excuse without it
        measure(sequence, tmp_path)


def test_a_second_look_takes_the_first_ones_figures(tmp_path):
    sequence = straight(np.arange(12.0))
    first = measure(sequence, tmp_path)
    sequence.source.seen = 0
    second = measure(sequence, tmp_path)
    assert sequence.source.seen == 2  # the first and the last image tell which drive it is
    for name in ("sharpness", "spread", "thumbnails"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    other = straight(np.arange(12.0), {0: "dark"})
    assert measure(other, tmp_path).dark_grey[0] < first.dark_grey[0]
    assert not list(tmp_path.glob("*.partial*"))


def test_surroundings_count_road_and_not_time():
    along = np.concatenate([np.zeros(50), np.arange(1.0, 21.0)])
    values = np.concatenate([np.full(50, 9.0), np.full(20, 1.0)])
    assert (surroundings(values, along, np.ones(70, bool), 100.0) == 1.0).all()
    assert (surroundings(values, along, np.zeros(70, bool), 100.0) == 0.0).all()


def test_settings_off_keep_everything():
    sequence = straight(np.zeros(5), {1: "dark", 2: "bright", 3: "flat"})
    settings = SelectionSettings(spacing_m=0, blur=0, dark_grey=0, bright_share=1, flat=0)
    assert len(choose(sequence, measure(sequence), settings).kept) == 5
    empty = Measures(*(np.zeros(0) for _ in range(4)), np.zeros((0, 18, 32), np.uint8), np.zeros(0, bool))
    assert len(choose(straight(np.zeros(0)), empty, SelectionSettings()).kept) == 0
