"""A compiled program is found again in its directory alone; a clock leaves compilation out."""

import time

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.scale.compilation import compilation_cache_in, running_time

FOUND = []
jax.monitoring.register_event_listener(
    lambda event, **_: FOUND.append(event) if event.endswith("/cache_hits") else None
)


@pytest.fixture
def keep_all():
    threshold = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    FOUND.clear()
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", threshold)


def compile_anew():
    jax.jit(lambda x: jnp.sin(x) + 41.5).lower(jax.ShapeDtypeStruct((7,), jnp.float32)).compile()


def test_a_program_is_found_again_in_its_directory_alone(tmp_path, keep_all):
    with compilation_cache_in(tmp_path / "one"):
        compile_anew()
    assert not FOUND
    assert list((tmp_path / "one").glob("*/jit*"))
    with compilation_cache_in(tmp_path / "one"):
        compile_anew()
    assert len(FOUND) == 1
    with compilation_cache_in(tmp_path / "two"):
        compile_anew()
    assert list((tmp_path / "two").glob("*/jit*"))
    kept = sorted(tmp_path.rglob("*"))
    jax.jit(lambda x: jnp.cos(x) + 17.5).lower(jax.ShapeDtypeStruct((5,), jnp.float32)).compile()
    assert sorted(tmp_path.rglob("*")) == kept
    assert len(FOUND) == 1


def test_a_cache_that_jax_was_given_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    try:
        with compilation_cache_in(tmp_path / "other"):
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)


def test_the_directory_is_forgotten_afterwards(tmp_path):
    with pytest.raises(KeyError), compilation_cache_in(tmp_path):
        raise KeyError
    assert jax.config.jax_compilation_cache_dir is None


def test_tracing_counts_as_compilation():
    def slow_to_trace(x):
        time.sleep(0.5)
        return x * 3

    start = time.perf_counter()
    with running_time() as running:
        jax.block_until_ready(jax.jit(slow_to_trace)(jnp.zeros(3)))
        left = running()
    assert 0 < left <= time.perf_counter() - start - 0.5


def test_spans_within_spans_count_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def compiled(until, seconds, event="/jax/core/compile/backend_compile_duration"):
        now[0] = until
        jax.monitoring.record_event_duration_secs(event, seconds)

    with running_time() as running:
        compiled(103.0, 1.0)
        compiled(104.0, 3.0)
        compiled(106.0, 1.0)
        compiled(107.0, 0.5, event="/jax/checkpoint/read/duration")
        now[0] = 110.0
        # From 101 to 104, and from 105 to 106.
        assert running() == 6.0
        now[0] = 111.0
        assert running() == 7.0
    compiled(112.0, 1.0)
    assert running() == 8.0
