"""Compiled programs kept in the run directory: a run that goes on need not compile again."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_OPTION = "jax_compilation_cache_dir"


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
