"""The prefetcher: the batches in order, errors in the open, nothing left running."""

import itertools
import threading

import pytest

from diffusion_jax.text.prefetch import Prefetcher


def nothing_running(before):
    return set(threading.enumerate()) <= before


def test_batches_come_in_order_from_the_start_step():
    before = set(threading.enumerate())
    with Prefetcher(lambda step: step, 5, 9, place=lambda batch: batch * 10) as batches:
        assert list(batches) == [50, 60, 70, 80]
        assert list(batches) == []
    assert nothing_running(before)


def test_placing_happens_in_the_thread():
    with Prefetcher(lambda s: s, 0, 1, place=lambda _: threading.current_thread()) as batches:
        assert next(batches) is not threading.current_thread()


def test_no_more_than_depth_batches_are_made_ahead():
    made = []
    with Prefetcher(made.append, place=lambda batch: batch, depth=3) as batches:
        for _ in range(4):
            next(batches)
    # Four taken, three waiting, one in the thread's hands.
    assert made == list(range(len(made)))
    assert 4 <= len(made) <= 8


def test_an_error_is_raised_where_it_happened():
    before = set(threading.enumerate())

    def batch_at(step):
        if step == 2:
            raise OSError("disk gone")
        return step

    batches = Prefetcher(batch_at, place=lambda batch: batch)
    assert list(itertools.islice(batches, 2)) == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert list(batches) == []
    assert nothing_running(before)


def test_closing_early_stops_the_thread():
    before = set(threading.enumerate())
    batches = Prefetcher(lambda step: step, place=lambda batch: batch)
    next(batches)
    batches.close()
    batches.close()
    assert nothing_running(before)


def test_waiting_is_measured():
    release = threading.Event()

    def batch_at(step):
        release.wait(5)
        return step

    with Prefetcher(batch_at, 0, 1, place=lambda batch: batch) as batches:
        assert batches.waited_seconds == 0
        threading.Timer(0.05, release.set).start()
        next(batches)
        assert batches.waited_seconds > 0
