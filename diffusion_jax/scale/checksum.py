"""Checksums of arrays, computed where the arrays live.

The storage layer keeps small arrays without a checksum of its own, so a flipped bit on disk would
come back as a wrong number. Integer sums do not depend on the order of addition, so these are the
same for every sharding and every number of processes.
"""

from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def tree_checksum(tree: Any) -> jax.Array:
    """Sum up the bits of every array, weighted by position, modulo 2^32.

    Every weight is odd, hence invertible modulo 2^32: any change of one element changes the result.

    Args:
        tree: pytree of numeric arrays.

    Returns:
        uint32 scalar.
    """
    total = jnp.zeros((), jnp.uint32)
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        total += jnp.uint32(2 * index + 1) * _array_checksum(jnp.asarray(leaf))
    return total


def _array_checksum(x: jax.Array) -> jax.Array:
    words = _as_uint32(x)
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position = position * jnp.uint32(size) + index
    return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)


def _as_uint32(x: jax.Array) -> jax.Array:
    """Reinterpret an array as 32-bit words (narrower types one to a word)."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
