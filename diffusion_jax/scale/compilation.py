"""Compiled programs kept in the run directory, and a clock that does not see compilation."""

import functools
import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

_OPTION = "jax_compilation_cache_dir"
# Tracing, lowering, and what the compiler takes.
_COMPILING = "/jax/core/compile/"


@contextmanager
def compilation_cache_in(directory: Path) -> Iterator[None]:
    """Keep and find compiled programs in a directory while the block runs.

    Where JAX was given a cache already (``JAX_COMPILATION_CACHE_DIR``), that one stays. Programs
    that compile faster than JAX's threshold (one second by default) are not kept.

    Args:
        directory: created when the first program is kept; one folder per kind of processor, since
            JAX does not ask whether a program for a CPU was compiled for this one.
    """
    if getattr(jax.config, _OPTION) is not None:
        yield
        return
    jax.config.update(_OPTION, str(directory / _processor()))
    try:
        yield
    finally:
        jax.config.update(_OPTION, None)
        # The cache that was opened would else stay open, whatever directory is set later.
        compilation_cache.reset_cache()


@contextmanager
def running_time() -> Iterator[Callable[[], float]]:
    """Time work, but for what JAX needs to trace, lower and compile its programs.

    Yields:
        A function that returns the seconds since the block began, compilation left out.
    """
    begun = time.perf_counter()
    spans: list[tuple[float, float]] = []

    def running() -> float:
        # Programs are traced within programs, so spans lie within spans.
        compiling, seen = 0.0, begun
        for start, end in sorted(spans):
            compiling += max(0.0, end - max(start, seen))
            seen = max(seen, end)
        return time.perf_counter() - begun - compiling

    watching = _watching()
    watching[id(spans)] = spans
    try:
        yield running
    finally:
        del watching[id(spans)]


@functools.cache
def _watching() -> dict[int, list[tuple[float, float]]]:
    """Return the lists, by their ids, to which the span of every compilation is added.

    One listener serves all, as older versions of JAX let go of none.
    """
    watching: dict[int, list[tuple[float, float]]] = {}

    def note(event: str, seconds: float, **_: Any) -> None:
        if event.startswith(_COMPILING):
            ended = time.perf_counter()
            for spans in watching.values():
                spans.append((ended - seconds, ended))

    jax.monitoring.register_event_duration_secs_listener(note)
    return watching


def _processor() -> str:
    """Name the host's kind of processor by its features, where the system tells them."""
    features = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line for line in info.read_text().splitlines() if ":" in line)
        named = {name.strip(): value for name, value in (line.split(":", 1) for line in lines)}
        features = named.get("flags", "") or named.get("Features", "")
    text = f"{platform.system()} {platform.machine()} {features}"
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
