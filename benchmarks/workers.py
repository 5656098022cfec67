"""Programs in processes of their own, timed in turn: their threads and memory never meet."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

from benchmarks.measure import Sample, alternate_samples
from benchmarks.sizes import Size
from diffusion_jax.scale.host_memory import HUGE_PAGES, TUNABLES, keep_freed_memory

CHAIN_STEPS = 4
REST_SECONDS = 0.3
"""Threads of the program before may still be spinning."""


class Contender(NamedTuple):
    """What a process runs.

    Attributes:
        framework: "jax", "torch", or "peak" (a matrix product, by jax).
        keeps_memory: freed memory stays with the process and pages are huge, as our command line
            has it (``diffusion_jax.scale.host_memory``).
        part: "train" or "reverse".
    """

    framework: str
    keeps_memory: bool
    part: str


def measure(contenders: Mapping[str, Contender], size: Size) -> dict[str, Any]:
    """Time each contender's program in turn; return name -> ``Timing``."""
    with contextlib.ExitStack() as stack:
        programs = {
            name: stack.enter_context(_Worker(contender, size))
            for name, contender in contenders.items()
        }
        return alternate_samples(programs, size.repeats)


class _Worker:
    """A process that runs one program whenever it is asked to."""

    def __init__(self, contender: Contender, size: Size) -> None:
        context = multiprocessing.get_context("spawn")
        self._keeps_memory = contender.keeps_memory
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, contender, size), daemon=True)

    def __enter__(self) -> Callable[[], Sample]:
        # A process reads this when it begins, and it begins with the environment of this one.
        os.environ[TUNABLES] = f"{HUGE_PAGES}={int(self._keeps_memory)}"
        self._process.start()
        return self._run

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(False)
        self._process.join(timeout=30)
        self._process.kill()

    def _run(self) -> Sample:
        time.sleep(REST_SECONDS)
        self._pipe.send(True)
        while not self._pipe.poll(1.0):
            if not self._process.is_alive():
                raise SystemExit("a measured program ended; its error is above")
        return cast(Sample, self._pipe.recv())


def _serve(pipe: Connection, contender: Contender, size: Size) -> None:
    if contender.keeps_memory:
        keep_freed_memory()
    run = program(contender, size)
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


def program(contender: Contender, size: Size) -> Callable[[], object]:
    """Return a function that runs the program once and waits for it."""
    from benchmarks import jax_programs
    from benchmarks.measure import matmul_program

    if contender.framework == "torch":
        return _torch_program(contender.part, size)
    import jax

    if contender.framework == "peak":
        run = matmul_program()
    elif contender.part == "train":
        run, _ = jax_programs.train_program(size)
    else:
        run = jax_programs.reverse_program(size, CHAIN_STEPS)
    return lambda: jax.block_until_ready(run())


def _torch_program(part: str, size: Size) -> Callable[[], object]:
    import torch

    from benchmarks import jax_programs, torch_model

    if part == "train":
        step = torch_model.make_train_step(
            size.spec, jax_programs.NUM_TIMESTEPS, jax_programs.LEARNING_RATE, jax_programs.EMA_RATE
        )
        ids = torch.from_numpy(jax_programs.random_ids(size))
        return lambda: step(ids)
    reverse = torch_model.make_reverse_step(size.spec, jax_programs.NUM_TIMESTEPS)
    shape = (size.batch_size, size.length, size.spec.embed_dim)

    def chain() -> None:
        x = torch.randn(shape)
        for t in range(CHAIN_STEPS, 0, -1):
            x = reverse(x, t)

    return chain
