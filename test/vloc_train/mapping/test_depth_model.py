"""Points from depth: exact, seen where nothing hides them, resumable; depth folders; what is refused."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_street

from vloc_ros.errors import CameraMismatchError, DatasetError
from vloc_train.mapping.depth_model import DepthSettings, depth_model, depth_of, with_depth_folder


class NoDepth:
    """A drive's images without its depth."""

    def __init__(self, source) -> None:
        self.image, self.frames = source.image, source.frames


def test_points_are_exact_and_tracks_long(tmp_path):
    drive = tiny_street.drive(8, tiny_street.LENS)
    model = depth_model([drive], DepthSettings(), tmp_path)
    assert tiny_street.on_surface(model.points).max() < 1e-5
    assert model.reprojection_errors().max() < 1e-6
    assert np.diff(model.offsets).min() > 150 and model.track_length.min() >= 3
    assert model.track_length.mean() > 5
    # One point a cell: no two of a frame's own points are neighbours closer than a few pixels everywhere.
    ids, pixels = model.observations(0)
    assert len(ids) <= (240 // 12) * (-(-150 // 12)) * 2
    cells = {tuple(c) for c in (pixels // 30).astype(int)}
    assert len(cells) >= 0.8 * 8 * 5


def test_what_is_hidden_is_not_seen(tmp_path):
    drive = tiny_street.drive(6)

    class Parked(tiny_street.Views):
        """From frame 3 on something stands before the left half of the picture."""

        def depth(self, index):
            out = super().depth(index)
            if index >= 3:
                out[:, :120] = 2.0
            return out

    parked = replace(drive, source=Parked(drive.T_map_cam))
    model = depth_model([parked], DepthSettings(minimum_track=2), tmp_path)
    away = tiny_street.on_surface(model.points)
    for frame in range(3, 6):
        ids, pixels = model.observations(frame)
        assert not (away[ids] < 0.1)[pixels[:, 0] < 118].any()
    assert (away < 0.1).sum() > 100


def test_it_goes_on_where_it_stopped(tmp_path):
    drive = tiny_street.drive(5)
    asked = []

    class Counted(tiny_street.Views):
        def depth(self, index):
            asked.append(index)
            return super().depth(index)

    counted = replace(drive, source=Counted(drive.T_map_cam))

    class Stop(Exception):
        pass

    def stop(stage, done, _):
        if (stage, done) == ("depth", 3):
            raise Stop

    with pytest.raises(Stop):
        depth_model([counted], DepthSettings(), tmp_path, stop)
    model = depth_model([counted], DepthSettings(), tmp_path)
    assert sorted(asked) == [0, 1, 2, 3, 4]
    other = depth_model([drive], DepthSettings(), tmp_path / "whole")
    np.testing.assert_array_equal(model.points, other.points)


def test_a_selection_of_frames_has_the_depth_of_those_frames():
    drive = tiny_street.drive(6)
    part = drive.select(np.array([1, 3, 5])).select(np.array([0, 2]))
    depth = depth_of(part)
    assert depth is not None
    np.testing.assert_array_equal(depth(1), drive.source.depth(5))
    assert depth_of(replace(drive, source=NoDepth(drive.source))) is None


def test_depth_images_in_a_folder_are_found_by_stamp_or_by_order(tmp_path):
    drive = tiny_street.drive(4)
    plain = replace(drive, source=NoDepth(drive.source))
    for folder, names in (("stamps", [str(s) for s in drive.stamps_ns]), ("order", ["a", "b", "c", "d"])):
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            depth = np.clip(drive.source.depth(i) * 1000, 0, 65535).astype(np.uint16)
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), depth)
        model = depth_model(
            [with_depth_folder(plain, tmp_path / folder, 1000.0)], DepthSettings(), tmp_path / f"{folder}-work"
        )
        assert np.quantile(tiny_street.on_surface(model.points), 0.9) < 0.01
    (tmp_path / "order" / "d.png").unlink()
    with pytest.raises(DatasetError, match="4 of them"):
        with_depth_folder(plain, tmp_path / "order", 1000.0)
    with pytest.raises(DatasetError, match="expected depth images"):
        with_depth_folder(plain, tmp_path / "nothing", 1000.0)
    cv2.imwrite(str(tmp_path / "order" / "d.png"), np.zeros((150, 240, 3), np.uint8))
    wrong = depth_of(with_depth_folder(plain, tmp_path / "order", 1000.0))
    assert wrong is not None
    with pytest.raises(DatasetError, match="16-bit"):
        wrong(3)


def test_missing_foreign_and_useless_depth_is_refused(tmp_path):
    drive = tiny_street.drive(4)
    with pytest.raises(DatasetError, match=r"found none.*depth\.folders"):
        depth_model([replace(drive, source=NoDepth(drive.source))], DepthSettings(), tmp_path)
    with pytest.raises(DatasetError, match=r"depth\.scale"):
        depth_model([drive], DepthSettings(far_m=0.2), tmp_path)

    class Small(tiny_street.Views):
        def depth(self, index):
            return super().depth(index)[::2, ::2]

    with pytest.raises(CameraMismatchError, match="expected depth of 240x150"):
        depth_model([replace(drive, source=Small(drive.T_map_cam))], DepthSettings(), tmp_path)

    class Wrong(tiny_street.Views):
        """In millimetres by mistake, so that no two frames agree."""

        def depth(self, index):
            return super().depth(index) * (1.0 + 0.3 * index)

    with pytest.raises(DatasetError, match="do depths and poses agree"):
        depth_model([replace(drive, source=Wrong(drive.T_map_cam))], DepthSettings(tolerance=0.001), tmp_path)
