"""How fast this machine multiplies matrices, measured: what a run's speed is held against."""

import time

import jax
import jax.numpy as jnp

SHARED = ("cpu",)
"""Platforms whose devices within one process are the same cores."""
SIZES = {"cpu": 1024}
OTHER_SIZE = 8192
ROUNDS = 4


def matmul_peak(dtype: str = "float32") -> float:
    """Measure the rate of square matrix products, in operations per second.

    The products are those of the default precision, as a network's are. On a CPU one device uses
    all cores, so several devices of one process do not add up; on accelerators they do. Takes
    tenths of a second, memory for three matrices (200 MB each in bfloat16 on an accelerator), and
    is the best of a few rounds: a busy machine looks slower than it is.

    Args:
        dtype: of the operands.

    Returns:
        The rate of all devices of all processes together, as though each was like this one's first.
    """
    device = jax.local_devices()[0]
    size = SIZES.get(device.platform, OTHER_SIZE)
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    shared = device.platform in SHARED
    copies = jax.process_count() if shared else jax.device_count()
    return copies * 2.0 * size**3 / min(seconds)
