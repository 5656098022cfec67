"""A program that was compiled once is found again in its directory, and only there."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.scale.compilation import compilation_cache_in

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
