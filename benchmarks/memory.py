"""Peak resident memory of a training run, each in a process of its own (Linux)."""

import multiprocessing

from benchmarks.sizes import Size
from benchmarks.workers import Contender, program

NUM_STEPS = 3


def peak_rss_mb(framework: str, size: Size) -> float:
    """Train a few steps in a fresh process and return its peak resident memory in MB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_train_and_measure, (framework, size))


def _train_and_measure(framework: str, size: Size) -> float:
    step = program(Contender(framework, keeps_memory=False, part="train"), size)
    for _ in range(NUM_STEPS):
        step()
    return _peak_resident_kb() / 1024


def _peak_resident_kb() -> int:
    # Not getrusage: its peak survives exec, so a child would report its parent's.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
