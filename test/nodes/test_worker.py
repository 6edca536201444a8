"""The newest-frame slot: nothing queues, jobs go first, an exception does not end the thread."""

from __future__ import annotations

import threading

import pytest

from vloc_ros.nodes.worker import Worker


class Recorder:
    """Handles frames one at a time, each released by the test."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Semaphore(0)
        self.errors: list[BaseException] = []

    def handle(self, frame: int) -> None:
        self.entered.release()
        assert self.release.acquire(timeout=5)
        self.seen.append(frame)
        if frame < 0:
            raise ValueError(frame)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def worker(recorder):
    made = Worker(recorder.handle, recorder.errors.append)
    made.start()
    yield made
    for _ in range(10):
        recorder.release.release()
    assert made.stop(5)


def test_only_the_newest_frame_waits(worker, recorder):
    worker.offer(1)
    assert recorder.entered.acquire(timeout=5)
    for frame in (2, 3, 4):
        worker.offer(frame)
    recorder.release.release()
    assert recorder.entered.acquire(timeout=5)
    recorder.release.release()
    done = threading.Event()
    assert worker.submit(done.set)
    assert done.wait(5)
    assert recorder.seen == [1, 4]
    assert worker.dropped == 2


def test_jobs_go_before_the_waiting_frame(worker, recorder):
    order: list[int] = []
    worker.offer(1)
    assert recorder.entered.acquire(timeout=5)
    worker.offer(2)
    worker.submit(lambda: order.append(len(recorder.seen)))
    recorder.release.release()
    assert recorder.entered.acquire(timeout=5)
    assert order == [1]
    recorder.release.release()


def test_an_exception_is_reported_and_the_thread_goes_on(worker, recorder):
    for frame in (-1, 5):
        worker.offer(frame)
        assert recorder.entered.acquire(timeout=5)
        recorder.release.release()
    done = threading.Event()
    worker.submit(done.set)
    assert done.wait(5)
    assert recorder.seen == [-1, 5]
    assert [type(e) for e in recorder.errors] == [ValueError]


def test_a_stopped_worker_refuses_and_starts_again():
    seen = threading.Event()
    worker: Worker[int] = Worker(lambda frame: seen.set(), lambda error: None)
    worker.start()
    assert worker.stop(5)
    assert not worker.running
    assert not worker.submit(lambda: None)
    worker.offer(1)
    assert not seen.wait(0.05)
    worker.start()
    worker.offer(2)
    assert seen.wait(5)
    assert worker.stop(5)


def test_a_discarded_frame_is_not_handled(worker, recorder):
    worker.offer(1)
    assert recorder.entered.acquire(timeout=5)
    worker.offer(2)
    worker.discard()
    recorder.release.release()
    done = threading.Event()
    worker.submit(done.set)
    assert done.wait(5)
    assert recorder.seen == [1]
