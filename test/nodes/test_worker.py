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


def test_a_worker_that_is_started_again_while_its_last_frame_is_at_work(worker, recorder):
    """A localizer slower than the wait of stop(): the new thread waits for it, and then takes frames."""
    stopping = []
    worker.offer(1)
    assert recorder.entered.acquire(timeout=5)
    assert not worker.stop(0.01)
    assert not worker.submit(lambda: None)
    worker.start()
    assert worker.running and not worker.stopping
    assert worker.submit(lambda: stopping.append(worker.stopping))
    worker.offer(2)
    assert not recorder.entered.acquire(timeout=0.05), "two frames at work at once"
    recorder.release.release()
    assert recorder.entered.acquire(timeout=5)
    recorder.release.release()
    done = threading.Event()
    assert worker.submit(done.set)
    assert done.wait(5)
    assert recorder.seen == [1, 2] and stopping == [False]


def test_the_thread_that_was_replaced_knows_that_it_is_over(recorder):
    seen = []
    entered, release = threading.Event(), threading.Event()

    def handle(frame):
        entered.set()
        assert release.wait(5)
        seen.append((frame, made.stopping))

    made = Worker(handle, recorder.errors.append)
    made.start()
    made.offer(1)
    assert entered.wait(5)
    assert not made.stop(0.01)
    made.start()
    made.offer(2)
    release.set()
    done = threading.Event()
    while not seen or seen[-1][0] != 2:
        assert made.running
        done.wait(0.01)
    assert seen == [(1, True), (2, False)] and not recorder.errors
    assert made.stop(5)
