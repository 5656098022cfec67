"""What the time of a run was spent on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("compile", "input", "compute", "metrics", "checkpoint", "hooks")
"""Tracing and compilation; waiting for data; starting steps and waiting for the devices; reporting
metrics; starting and awaiting checkpoints; validation and samples."""


class Stopwatch:
    """Wall time of a loop, split by what the loop was doing.

    The devices work on beside the host: a part is the time that the loop itself spent in it, so the
    parts and ``other`` add up to the whole.
    """

    def __init__(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside the block as ``part``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - began)

    def add(self, part: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._seconds[part] += seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every part, of ``other`` (the rest), and the ``total``."""
        total = time.perf_counter() - self._began
        return {**self._seconds, "other": total - sum(self._seconds.values()), "total": total}
