"""The measured rate of matrix products."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.scale import peak


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rate_is_that_of_one_device_of_a_cpu(dtype, monkeypatch):
    """Devices of one CPU share its cores: eight of them are no faster than one."""
    clock = iter(float(i) for i in range(100))
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    seen = []

    def zeros(shape, dtype):
        seen.append((shape, dtype))
        return jnp.zeros(shape, dtype)

    monkeypatch.setattr(peak.jnp, "ones", zeros)
    assert peak.matmul_peak(dtype) == 2 * 1024**3
    assert seen == [((1024, 1024), dtype)]
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert peak.matmul_peak(dtype) == 4 * 2 * 1024**3


def test_devices_that_do_not_share_add_up(monkeypatch):
    clock = iter(float(i) for i in range(100))
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(peak, "OTHER_SIZE", 64)
    monkeypatch.setattr(peak, "SIZES", {})
    monkeypatch.setattr(peak, "SHARED", ())
    assert peak.matmul_peak() == jax.device_count() * 2 * 64**3
