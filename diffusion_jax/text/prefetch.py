"""A background thread that makes the next batches while the device computes."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

Batch = TypeVar("Batch")
Placed = TypeVar("Placed")


class _Failure(NamedTuple):
    error: BaseException


class _End(NamedTuple):
    pass


class Prefetcher(Generic[Batch, Placed]):
    """Iterate over ``place(batch_at(step))`` for consecutive steps, made ahead of time.

    An error in the thread is raised in the consumer, at the step where it happened. Use it as a
    context manager, or call ``close``.

    Attributes:
        waited_seconds: How long the consumer has waited for batches so far.
    """

    def __init__(
        self,
        batch_at: Callable[[int], Batch],
        start_step: int = 0,
        stop_step: int | None = None,
        *,
        place: Callable[[Batch], Placed],
        depth: int = 2,
    ):
        """Start the thread.

        Args:
            batch_at: Makes the batch of a step; called in order, in the thread.
            start_step: First step: where a resumed run goes on.
            stop_step: The step to end before; without it, iteration never ends.
            place: Called on each batch in the thread; the transfer to devices belongs here.
            depth: How many finished batches may wait.
        """
        self.waited_seconds = 0.0
        self._finished: queue.Queue[Placed | _Failure | _End] = queue.Queue(maxsize=depth)
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(
            target=self._work, args=(batch_at, place, start_step, stop_step), daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Placed]:
        return self

    def __next__(self) -> Placed:
        if self._ended:
            raise StopIteration
        began = time.perf_counter()
        item = self._finished.get()
        self.waited_seconds += time.perf_counter() - began
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        if isinstance(item, _End):
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        """Stop the thread and wait for it; iteration then ends."""
        self._ended = True
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> "Prefetcher[Batch, Placed]":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _work(
        self,
        batch_at: Callable[[int], Batch],
        place: Callable[[Batch], Placed],
        start_step: int,
        stop_step: int | None,
    ) -> None:
        step = start_step
        try:
            while stop_step is None or step < stop_step:
                if not self._offer(place(batch_at(step))):
                    return
                step += 1
            self._offer(_End())
        except BaseException as error:
            self._offer(_Failure(error))

    def _offer(self, item: Placed | _Failure | _End) -> bool:
        """Queue an item, giving up when the consumer closes; return whether it was queued."""
        while not self._closing.is_set():
            try:
                self._finished.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False
