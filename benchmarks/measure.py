"""Timing two programs fairly on a machine that may be busy."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

_MATMUL_SIZE, _MATMUL_REPEATS = 2048, 8
MATMUL_FLOPS = 2.0 * _MATMUL_SIZE**3 * _MATMUL_REPEATS
Sample = tuple[float, float]
"""Seconds by the wall clock, and of the processor."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long one program took.

    Attributes:
        wall_s: median wall-clock seconds.
        best_wall_s: least wall-clock seconds.
        cpu_s: least processor seconds, summed over threads. Other programs on the machine disturb
            it less than the wall clock, though waiting threads that spin count too.
    """

    wall_s: float
    best_wall_s: float
    cpu_s: float


def alternate(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Time programs in turn, so that a busy minute falls on all of them.

    Args:
        programs: name -> a function; the arrays of jax that it returns are waited for.
        repeats: timed rounds. In each a program runs twice and the second time counts: by the time
            its turn comes round, caches and even memory may have gone to the others.
    """

    def timed(program: Callable[[], Any]) -> Sample:
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(program())
        return time.perf_counter() - wall, time.process_time() - cpu

    bound = {name: functools.partial(timed, program) for name, program in programs.items()}
    return alternate_samples(bound, repeats)


def alternate_samples(
    programs: Mapping[str, Callable[[], Sample]], repeats: int
) -> dict[str, Timing]:
    """Do the same with functions that measure themselves."""
    samples: dict[str, list[Sample]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            program()
            samples[name].append(program())
    return {name: _summary(taken) for name, taken in samples.items()}


def _summary(taken: list[Sample]) -> Timing:
    walls, cpus = zip(*taken)
    return Timing(statistics.median(walls), min(walls), min(cpus))


def matmul_program() -> Callable[[], list[jax.Array]]:
    """Return a float32 matrix product of ``MATMUL_FLOPS``, to be timed as the machine's peak."""
    a = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE))

    @jax.jit
    def product(a: jax.Array) -> jax.Array:
        return a @ a

    def run() -> list[jax.Array]:
        return [product(a) for _ in range(_MATMUL_REPEATS)]

    return run
