"""Map building by several workers: the same map, whoever does the work, and whatever happens to them."""

from __future__ import annotations

import os
import signal

import pytest
import tiny_features

from vloc_ros.errors import ClusterError, ConfigError
from vloc_ros.maps import read_map
from vloc_train.training import cluster
from vloc_train.training.cluster import Cluster, Workers, open_workers

distributed = pytest.importorskip("distributed", reason="the extra cluster (dask.distributed) is not installed")


@pytest.fixture(scope="module")
def two():
    with Cluster("local:2") as found:
        yield found


def works():
    """Functions that travel by value: this file is not where workers look for modules."""

    def doubled(number: int) -> int:
        return 2 * number

    def slow(number: int) -> int:
        import os
        import time

        time.sleep(0.3)
        return os.getpid()

    def failing(number: int) -> int:
        from vloc_ros.errors import ConfigError

        raise ConfigError(f"piece {number}: expected, found")

    return doubled, slow, failing


doubled, slow, failing = works()


def test_every_piece_comes_back_with_its_number(two):
    assert two.far and two.count == 2 and not Workers().far
    for workers in (two, open_workers("")):
        found = dict(workers.each(doubled, iter(range(20))))
        assert found == {n: 2 * n for n in range(20)}
        assert not list(workers.each(doubled, []))


def test_an_error_of_a_piece_is_that_of_the_run(two):
    with pytest.raises(ConfigError, match="piece 0"):
        list(two.each(failing, [0]))


def test_a_worker_that_is_killed_loses_nothing(two):
    found, killed = {}, None
    for number, pid in two.each(slow, range(12)):
        found[number] = pid
        if killed is None:
            killed = pid
            os.kill(pid, signal.SIGKILL)
    assert sorted(found) == list(range(12))
    assert {pid for pid in found.values() if pid != killed}  # somebody else went on


def test_two_workers_make_the_same_map_as_none(two, tmp_path, monkeypatch):
    monkeypatch.setattr("vloc_train.training.recipe.open_workers", lambda address: two if address else Workers())
    monkeypatch.setattr(Cluster, "close", lambda self: None)  # the next test's, too
    alone = tiny_features.built(tmp_path / "alone", calibration_frames=12)
    shared = tiny_features.built(tmp_path / "shared", calibration_frames=12, cluster="two")
    assert [f.name for f in alone.manifest.files] == [f.name for f in shared.manifest.files]
    for a, b in zip(alone.manifest.files, shared.manifest.files, strict=True):
        assert a.sha256 == b.sha256, a.name
    assert alone.manifest.calibration == shared.manifest.calibration
    assert alone.manifest.validation == shared.manifest.validation


def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9: expected a scheduler of dask, found none") as raised:
        Cluster("tcp://127.0.0.1:9", patience_s=1.0)
    assert "\n" not in str(raised.value)
    for wrong in ("local:no", "local:0"):
        with pytest.raises(ConfigError, match="local:N"):
            Cluster(wrong)


def test_workers_of_another_version_are_refused_before_any_work(monkeypatch):
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as here:
        mine = cluster.versions()
        monkeypatch.setattr(cluster, "versions", lambda: {**mine, "vloc_ros": "9.9.9"})
        with pytest.raises(ClusterError, match=rf"vloc_ros 9.9.9, as here, found .* with {mine['vloc_ros']}"):
            Cluster(here.scheduler_address)
        assert cluster.differing(mine, {**mine, "numpy": "0"}) == ("numpy", mine["numpy"], "0")


def test_a_scheduler_without_workers_and_one_that_loses_them(monkeypatch):
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as here:
        with pytest.raises(ClusterError, match="found a scheduler that has had none"):
            Cluster(here.scheduler_address, patience_s=1.0)
        here.scale(1)
        monkeypatch.setattr(cluster, "_ALONE_S", 1.0)
        monkeypatch.setattr(cluster, "_FETCH_S", 2.0)  # of a result that its worker took along
        with Cluster(here.scheduler_address) as one, pytest.raises(ClusterError, match="found none for 1 s"):
            for number, _ in one.each(slow, range(40)):
                if number == 0:
                    here.scale(0)


def test_what_is_finished_is_not_done_again(two, tmp_path, monkeypatch):
    """A run that loses its workers half way goes on from what they brought back."""
    monkeypatch.setattr("vloc_train.training.recipe.open_workers", lambda address: two if address else Workers())
    monkeypatch.setattr(Cluster, "close", lambda self: None)
    each, done = Cluster.each, []

    def interrupted(self, work, pieces):
        for number, result in each(self, work, pieces):
            if len(done) == 7:
                raise ClusterError("lost")
            done.append(number)
            yield number, result

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "each", interrupted)
        with pytest.raises(ClusterError):
            tiny_features.built(tmp_path / "m", calibration_frames=0, cluster="two")
    kept = list((tmp_path / "m").rglob("features-*/*.npz"))
    assert len(kept) == 7
    before = {file: file.stat().st_mtime_ns for file in kept}
    tiny_features.built(tmp_path / "m", calibration_frames=0, cluster="two")
    assert {file: file.stat().st_mtime_ns for file in kept} == before
    assert read_map(tmp_path / "m" / "features").manifest.backend == "features"
