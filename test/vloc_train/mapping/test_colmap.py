"""The adapter of pycolmap: versions, triangulation of an exact scene, COLMAP's conventions, damaged models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vloc_ros.errors import CameraError, ConfigError, DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse, se3_exp, transform_points
from vloc_ros.types import CameraModel
from vloc_train.mapping import colmap

CAMERA = CameraModel(320, 200, 210.0, 205.0, 158.0, 101.0)


@pytest.fixture(scope="module")
def pycolmap():
    return pytest.importorskip("pycolmap", reason="needs the extra [maps]")


def drive(frames: int = 6, points: int = 200, seed: int = 0):
    """Poses that move sideways and turn a little, a cloud in front, and what each frame sees of it."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform((-6, -3, 8), (8, 3, 25), (points, 3))
    T = np.stack([se3_exp([0.6 * i, 0.02 * i, 0.1 * i, 0.0, 0.01 * i, 0.0]) for i in range(frames)])
    seen = [project(CAMERA, transform_points(inverse(t), cloud)) for t in T]
    return T, cloud, [np.flatnonzero(v) for _, v in seen], [p[v] for p, v in seen]


def matches_of(rows):
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            _, a, b = np.intersect1d(rows[i], rows[j], return_indices=True)
            yield i, j, np.stack([a, b], axis=1)


def test_versions_are_compared_as_numbers(monkeypatch):
    assert colmap.version_of("3.9.1") < (3, 11) <= colmap.version_of("3.11.1") < colmap.version_of("4.0.0.dev2")
    monkeypatch.setitem(sys.modules, "pycolmap", SimpleNamespace(__version__="0.6.1"))
    with pytest.raises(ConfigError, match=r"expected 3\.11 or newer, found 0\.6\.1.*\[maps\]"):
        colmap.require_pycolmap()
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ConfigError, match=r"pip install 'vloc_ros\[maps\]'"):
        colmap.require_pycolmap()


def test_the_installed_version_has_what_the_adapter_calls(pycolmap):
    found = colmap.require_pycolmap()
    assert colmap.version_of(found.__version__) >= colmap.OLDEST
    for name in ("Sift", "triangulate_points", "bundle_adjustment", "Reconstruction", "Database", "TwoViewGeometry"):
        assert hasattr(found, name), f"pycolmap {found.__version__} has lost {name}: the adapter needs a new branch"


def test_exact_matches_triangulate_exactly(pycolmap, tmp_path):
    T, cloud, rows, pixels = drive()
    made = colmap.triangulate(tmp_path, [CAMERA], [0] * len(T), T, pixels, matches_of(rows))
    seen = np.bincount(np.concatenate(rows), minlength=len(cloud))
    assert len(made.points) > 0.9 * (seen >= 3).sum()
    np.testing.assert_array_equal(made.T_map_cam, T)
    truth = np.array([rows[f][k] for f, k in zip(made.frames, made.features, strict=True)])
    error = np.linalg.norm(made.points[made.point_ids] - cloud[truth], axis=1)
    assert np.median(error) < 1e-4 and error.max() < 0.01
    lengths = np.bincount(made.point_ids)
    assert lengths.min() >= 3 and np.median(lengths) >= 4


def test_wrong_poses_leave_hardly_a_point(pycolmap, tmp_path):
    T, _, rows, pixels = drive()
    wrong = T[::-1].copy()
    made = colmap.triangulate(tmp_path, [CAMERA], [0] * len(T), wrong, pixels, matches_of(rows))
    assert len(made.points) < 20


def test_distorted_cameras_are_refused(tmp_path, pycolmap):
    bent = replace(CAMERA, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(CameraError, match="pinhole"):
        colmap.triangulate(tmp_path, [bent], [0], np.eye(4)[None], [np.zeros((0, 2))], [])


def test_sift_finds_blobs_where_pixel_centres_are_integers(pycolmap):
    v, u = np.indices((120, 160), dtype=np.float64)
    places = [(40.0, 30.0), (100.5, 80.25), (60.0, 90.0)]
    image = np.full(u.shape, 40.0)
    for x, y in places:
        image += 180 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 3.0**2))
    pixels, descriptors = colmap.sift(500, 0.0067)(image.astype(np.uint8))
    assert descriptors.shape == (len(pixels), 128)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)
    for place in places:
        assert np.linalg.norm(pixels - place, axis=1).min() < 0.15


def test_a_model_reads_back_in_our_conventions(pycolmap, tmp_path):
    T, _, rows, pixels = drive()
    colmap.triangulate(tmp_path / "work", [CAMERA], [0] * len(T), T, pixels, matches_of(rows))
    model = colmap.read_model(tmp_path / "work" / "sparse")
    assert len(model.images) == len(T) and list(model.cameras.values()) == [CAMERA]
    for image, t in zip(model.images, T, strict=True):
        np.testing.assert_allclose(image.T_map_cam, t, atol=1e-9)
        at = np.searchsorted(model.point_ids, image.point_ids)
        found, _ = project(CAMERA, transform_points(inverse(t), model.points[at]))
        assert np.abs(found - image.pixels).max() < 0.01


@pytest.mark.parametrize(
    ("line", "model", "distortion"),
    [
        ("SIMPLE_PINHOLE 64 48 50 32 24", "none", ()),
        ("SIMPLE_RADIAL 64 48 50 32 24 0.1", "plumb_bob", (0.1, 0, 0, 0)),
        ("RADIAL 64 48 50 32 24 0.1 -0.2", "plumb_bob", (0.1, -0.2, 0, 0)),
        ("OPENCV 64 48 50 50 32 24 0.1 -0.2 0.01 0.02", "plumb_bob", (0.1, -0.2, 0.01, 0.02)),
        (
            "FULL_OPENCV 64 48 50 50 32 24 0.1 -0.2 0.01 0.02 0.3 0.4 0.5 0.6",
            "rational_polynomial",
            (0.1, -0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6),
        ),
        ("OPENCV_FISHEYE 64 48 50 50 32 24 0.1 -0.2 0.01 0.02", "equidistant", (0.1, -0.2, 0.01, 0.02)),
    ],
)
def test_camera_models_project_as_colmap_does(pycolmap, tmp_path, line, model, distortion):
    (tmp_path / "cameras.txt").write_text(f"1 {line}\n")
    (tmp_path / "images.txt").write_text("")
    (tmp_path / "points3D.txt").write_text("")
    camera = colmap.read_model(tmp_path).cameras[1]
    assert (camera.distortion_model, camera.distortion) == (model, distortion)
    points = np.array([[0.1, -0.05, 1.0], [-0.3, 0.2, 2.0]])
    theirs = pycolmap.Reconstruction(str(tmp_path)).cameras[1]
    flat = colmap.version_of(pycolmap.__version__) < (3, 13)
    expected = np.array([theirs.img_from_cam(p[:2] / p[2] if flat else p) for p in points])
    np.testing.assert_allclose(project(camera, points)[0], expected - 0.5, atol=1e-6)


def test_damaged_and_foreign_models_are_named(pycolmap, tmp_path):
    with pytest.raises(DatasetError, match="expected a COLMAP model"):
        colmap.read_model(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 FOV 64 48 50 50 32 24 0.9\n")
    (tmp_path / "images.txt").write_text("")
    (tmp_path / "points3D.txt").write_text("")
    with pytest.raises(CameraError, match=r"camera 1: .*found FOV"):
        colmap.read_model(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 64 48 50\n")
    with pytest.raises(DatasetError, match="damaged"):
        colmap.read_model(tmp_path)


def test_a_truncated_binary_model_is_an_error(pycolmap, tmp_path):
    T, _, rows, pixels = drive()
    colmap.triangulate(tmp_path, [CAMERA], [0] * len(T), T, pixels, matches_of(rows))
    file = tmp_path / "sparse" / "points3D.bin"
    if not file.exists():
        pytest.fail("the adapter's output folder holds no model")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DatasetError, match="damaged"):
        colmap.read_model(tmp_path / "sparse")


def test_sigterm_stays_ours(pycolmap):
    """Importing COLMAP takes the signal over: what a map build had begun would stay."""
    code = (
        "import os, signal, sys\n"
        "from vloc_train.mapping.colmap import require_pycolmap\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "require_pycolmap()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
