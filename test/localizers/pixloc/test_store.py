from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import tiny_pixloc
import torch

from vloc_ros.errors import ConfigError, MapChecksumError, MapNotFoundError, MapTensorError
from vloc_ros.localizers.pixloc.bundle import MapSettings, bytes_per_observation, tile_tensors
from vloc_ros.localizers.pixloc.store import ReferenceStore
from vloc_ros.maps import read_map, verify_map

CPU = torch.device("cpu")


def opened(bundle, memory_mb=512.0, pyramid=2):
    return ReferenceStore.from_bundle(bundle, "map", CPU, memory_mb, pyramid, tiny_pixloc.DIMENSIONS)


@pytest.fixture(scope="module")
def sparse():
    return tiny_pixloc.street()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, sparse):
    return tiny_pixloc.store_map(tmp_path_factory.mktemp("store") / "map", sparse)


@pytest.fixture
def store(bundle):
    with_tiles = opened(bundle)
    yield with_tiles
    with_tiles.close()


def expected(sparse, features, ids, point, p, level):
    """The mean over observations by confidence, and the mean confidence alike, by the definition."""
    vectors, weights = [], []
    for r in ids:
        own = sparse.point_ids[sparse.offsets[r] : sparse.offsets[r + 1]]
        for row in np.flatnonzero(own == point):
            found = features("map", r)[p][level]
            vectors.append(found.features[row].double())
            weights.append(float(found.confidence[row]))
    w = torch.tensor(weights, dtype=torch.float64)
    return (torch.stack(vectors) * w[:, None]).sum(0) / w.sum(), float((w * w).sum() / w.sum())


def test_features_are_averaged_by_confidence(store, sparse):
    features = tiny_pixloc.random_features(sparse, 2)
    ids = np.array([7, 2, 3, 9])
    batch = store.load(ids)
    assert store.counters.read >= 2, "the references lie in several tiles"
    np.testing.assert_array_equal(
        batch.ids, np.unique(np.concatenate([sparse.point_ids[sparse.offsets[r] : sparse.offsets[r + 1]] for r in ids]))
    )
    np.testing.assert_allclose(batch.points, sparse.points[batch.ids], rtol=1e-6)
    assert batch.observers.max() == 4
    for p in range(2):
        for level in range(3):
            found = batch.levels[p][level]
            for slot in (0, len(batch) // 2, len(batch) - 1):
                mean, confidence = expected(sparse, features, ids, batch.ids[slot], p, level)
                np.testing.assert_allclose(found.features[slot], mean, atol=2e-3)
                assert float(found.confidence[slot]) == pytest.approx(confidence, abs=2e-3)


def test_only_the_points_that_are_asked_for(store):
    ids = np.array([4, 5])
    everything = store.load(ids)
    keep = everything.ids[::3]
    some = store.load(ids, keep)
    np.testing.assert_array_equal(some.ids, keep)
    torch.testing.assert_close(some.levels[1][2].features, everything.levels[1][2].features[::3])
    assert len(store.load(ids, np.zeros(0, np.int64))) == 0
    assert len(store.load(np.zeros(0, np.int64))) == 0


def test_the_order_of_the_references_does_not_matter(store):
    a, b = store.load(np.array([2, 9, 5])), store.load(np.array([9, 5, 2]))
    assert torch.equal(a.levels[0][0].features, b.levels[0][0].features)


def test_near_by_position_and_view(store, sparse):
    T = sparse.T_map_cam[6].copy()
    assert store.near(T, 1).tolist() == [6]
    assert set(store.near(T, 3).tolist()) == {5, 6, 7}
    assert store.near(T, 100).tolist()[0] == 6 and len(store.near(T, 100)) == 12
    behind = T.copy()
    behind[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ T[:3, :3]  # turned round
    assert not len(store.near(behind, 5))
    far = T.copy()
    far[0, 3] += 500.0
    assert not len(store.near(far, 5, radius_m=50.0))
    assert 6 not in store.near(T, 3, allowed=np.arange(12) != 6)


def test_int8_is_half_as_large_and_nearly_the_same(tmp_path, sparse):
    halves = MapSettings(pyramid=(1.0,), tile_mb=1.0)
    bytes_ = MapSettings(pyramid=(1.0,), tile_mb=1.0, precision="int8")
    dims = (128, 128, 32)
    assert bytes_per_observation(dims, halves) == 2 * 288 + 6
    assert bytes_per_observation(dims, bytes_) == 288 + 12
    first = tiny_pixloc.store_map(tmp_path / "a", sparse, halves)
    second = tiny_pixloc.store_map(tmp_path / "b", sparse, bytes_)
    ids = np.array([3, 4, 5])
    a, b = opened(first, pyramid=1).load(ids), opened(second, pyramid=1).load(ids)
    for level in range(3):
        difference = (a.levels[0][level].features - b.levels[0][level].features).abs().max()
        assert 0 < float(difference) < 0.01
    assert second.size_bytes < first.size_bytes


def test_zero_features_survive_int8():
    nothing = tiny_pixloc.LevelFeatures(torch.zeros(2, 4), torch.zeros(2))
    tile = tile_tensors([[[nothing]]], "int8")
    assert not tile["features.0.0"].any() and (tile["scale.0.0"] > 0).all()


def test_size_is_what_is_computed(bundle, sparse):
    tiles = sum(e.bytes for e in bundle.manifest.files if e.name.startswith("tiles/"))
    stored = bytes_per_observation(tiny_pixloc.DIMENSIONS, MapSettings(pyramid=(0.5, 1.0))) * len(sparse.point_ids)
    headers = 1200 * sum(e.name.startswith("tiles/") for e in bundle.manifest.files)
    assert stored <= tiles <= stored + headers
    assert all(check.passed for check in verify_map(bundle.path))


def test_an_interrupted_build_goes_on(tmp_path, sparse):
    settings, asked = MapSettings(pyramid=(1.0,), tile_mb=0.01), []
    features = tiny_pixloc.random_features(sparse, 1)

    def breaking(scene, reference):
        asked.append(reference)
        if reference == 6:
            raise KeyboardInterrupt
        return features(scene, reference)

    with pytest.raises(KeyboardInterrupt):
        tiny_pixloc.store_map(tmp_path / "map", sparse, settings, breaking, staging=tmp_path / "work")
    assert not (tmp_path / "map").exists()
    before = asked.copy()
    asked.clear()

    def counting(scene, reference):
        asked.append(reference)
        return features(scene, reference)

    done = []
    again = tiny_pixloc.store_map(
        tmp_path / "map", sparse, settings, counting, staging=tmp_path / "work",
        progress=lambda scene, count, total: done.append((count, total)),
    )  # fmt: skip
    assert 0 not in asked and asked[-1] == 11 and len(asked) < 12 and before[0] == 0
    assert done[-1] == (12, 12)
    whole = tiny_pixloc.store_map(tmp_path / "other", sparse, settings, features)
    assert again.id == whole.id


def test_the_pyramid_starts_where_the_coarsest_map_is_16_wide():
    assert MapSettings().resolved(640, 16).pyramid == (0.4, 1.0)
    assert MapSettings().resolved(256, 16).pyramid == (1.0,)
    assert MapSettings(pyramid=(0.25, 1.0)).resolved(640, 16).pyramid == (0.25, 1.0)
    with pytest.raises(ConfigError, match="rise"):
        MapSettings(pyramid=(1.0, 0.5))


# -- memory ---------------------------------------------------------------------------------------


def test_a_map_larger_than_the_bound(tmp_path):
    sparse = tiny_pixloc.street(60, 3000)
    bundle = tiny_pixloc.store_map(tmp_path / "map", sparse, MapSettings(pyramid=(1.0,), tile_mb=0.02))
    tiles = [e for e in bundle.manifest.files if e.name.startswith("tiles/")]
    bound_mb = 0.3
    assert sum(e.bytes for e in tiles) > 3 * bound_mb * 1e6
    bounded, free = opened(bundle, bound_mb, 1), opened(bundle, 512.0, 1)
    for place in range(0, 60, 2):
        near = bounded.near(sparse.T_map_cam[place], 5)
        a, b = bounded.load(near), free.load(near)
        assert torch.equal(a.levels[0][1].features, b.levels[0][1].features)
        assert bounded.held_bytes <= bound_mb * 1e6
        bounded.prefetch(sparse.T_map_cam[place], ahead_m=10.0)
        bounded.wait()
        assert bounded.held_bytes <= bound_mb * 1e6
    assert bounded.counters.evicted > 10 and free.counters.evicted == 0
    assert bounded.counters.ahead > 3, "nothing was fetched ahead"
    bounded.close()
    bounded.close()


def test_what_is_ahead_is_there_before_it_is_asked_for(tmp_path):
    sparse = tiny_pixloc.street(60, 3000)
    bundle = tiny_pixloc.store_map(tmp_path / "map", sparse, MapSettings(pyramid=(1.0,), tile_mb=0.02))
    store = opened(bundle, 10.0, 1)
    store.load(store.near(sparse.T_map_cam[10], 5))
    store.prefetch(sparse.T_map_cam[10], ahead_m=20.0)
    store.wait()
    read = store.counters.read
    store.load(store.near(sparse.T_map_cam[25], 5))
    assert store.counters.read == read, "tiles were read again or too late"
    store.prefetch(sparse.T_map_cam[10], heading=np.zeros(3))  # a vehicle that stands
    store.prefetch(sparse.T_map_cam[10], heading=np.full(3, np.nan))
    store.close()


def test_one_tile_that_exceeds_the_bound(bundle, sparse):
    store = opened(bundle, 0.001)
    assert len(store.load(np.array([5]))) > 10
    assert store.held_bytes > 1000  # one tile, not none
    store.prefetch(sparse.T_map_cam[5])
    store.close()


# -- bad maps -------------------------------------------------------------------------------------


def test_a_missing_or_altered_tile(tmp_path, sparse):
    bundle = tiny_pixloc.store_map(tmp_path / "map", sparse)
    store = opened(bundle)
    good = store.near(sparse.T_map_cam[0], 1)
    last = tmp_path / "map" / [e.name for e in bundle.manifest.files if e.name.startswith("tiles/")][-1]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(bytes(content))
    with pytest.raises(MapChecksumError, match=r"altered"):
        store.load(np.arange(12))
    last.unlink()
    with pytest.raises(MapNotFoundError, match="not there"):
        store.load(np.arange(12))
    store.prefetch(sparse.T_map_cam[0], ahead_m=30.0)  # says so in the log and goes on
    store.wait()
    assert len(store.load(good)) > 10, "the other tiles are as good as before"
    store.close()


def test_a_tile_that_is_not_listed(tmp_path, sparse):
    bundle = tiny_pixloc.store_map(tmp_path / "map", sparse)

    def drop(manifest):
        manifest["files"] = [e for e in manifest["files"] if not e["name"].endswith("-0.safetensors")]

    tiny_drive.edited(bundle.path, drop)
    with pytest.raises(MapNotFoundError, match="map-0"):
        opened(read_map(bundle.path))


@pytest.mark.parametrize(
    ("file", "name", "change", "told"),
    [
        ("references", "map.offsets", lambda t: t.flip(0), "offsets that rise"),
        ("references", "map.point_ids", lambda t: t + 10_000, "point_ids"),
        ("references", "map.tile", lambda t: t.flip(0), "order of their tiles"),
        ("references", "map.poses", lambda t: 2 * t, "unit quaternions"),
        ("references", "map.stamps", lambda t: t[:-1], "stamps"),
        ("points", "map.points", lambda t: t[:, :2], "points"),
        ("tiles/map-0", "features.0.1", lambda t: t[:-1], "features.0.1"),
        ("tiles/map-0", "features.0.1", lambda t: t.float(), "float16"),
    ],
)
def test_tensors_that_do_not_agree(tmp_path, bundle, file, name, change, told):
    def alter(tensors):
        tensors[name] = change(tensors[name])

    bad = tiny_drive.rewritten(bundle.path, tmp_path / "bad", f"{file}.safetensors", alter)
    with pytest.raises(MapTensorError, match=told):
        opened(read_map(bad)).load(np.arange(12))


def test_features_that_do_not_fit_are_never_written(tmp_path, sparse):
    wrong = tiny_pixloc.random_features(sparse, 1)
    with pytest.raises(MapTensorError, match="reference 0"):
        tiny_pixloc.store_map(tmp_path / "map", sparse, features=wrong)
    sparse_wrong = tiny_pixloc.street()
    sparse_wrong.point_ids = sparse_wrong.point_ids + 10_000
    with pytest.raises(MapTensorError, match="agree"):
        tiny_pixloc.store_map(tmp_path / "map", sparse_wrong, features=wrong)
    assert not (tmp_path / "map").exists()
