"""Named random streams, so that every random number is a function of (seed, purpose, step).

No key is ever stored: a resumed run derives the same keys again, and the stream of one purpose does
not move when another one is added.
"""

import zlib

import jax
import jax.numpy as jnp


def stream(root: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
    """Derive the key of one purpose at one step.

    Args:
        root: typed key of the run (``jax.random.key(seed)``), scalar.
        name: the purpose, e.g. ``"timesteps"``, ``"noise"``, ``"dropout"``, ``"sample"``.
        step: int32 scalar, may be traced.

    Returns:
        A scalar typed key; different names or steps give independent streams.
    """
    # crc32 is the same on every machine and Python version, which hash() is not.
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def per_example(root: jax.Array, example_ids: jax.Array) -> jax.Array:
    """Derive one key per example [B], so that a sample does not depend on its batch neighbours."""
    return jax.vmap(lambda index: jax.random.fold_in(root, index))(
        jnp.asarray(example_ids, jnp.uint32)
    )


def per_example_normal(keys: jax.Array, step: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normal noise [B, *shape], row b from ``fold_in(keys[b], step)`` alone."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)
