"""What enters a network: positions, the time, and latents in the width of the Transformer.

Plain functions to be called inside a module's compact method: their parameters become that
module's.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.layers import BlockSpec, Linear, named_axes


def timestep_embedding(time: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Return sinusoidal features [B, dim] of time labels [B]: cosines, sines, a zero if odd.

    Args:
        time: float32 [B], may be fractional.
        dim: number of features.
        max_period: the longest wavelength is ``2 pi max_period``.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = time.astype(jnp.float32)[:, None] * frequencies[None, :]
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, dim % 2)))


def time_vector(spec: BlockSpec, time_dim: int, time: jax.Array) -> jax.Array:
    """Map time labels [B] to float32 [B, D] through two linear maps with SiLU between them."""
    inner = 4 * time_dim
    x = timestep_embedding(time, time_dim)
    x = Linear((time_dim,), (inner,), (None, "mlp"), spec.init, jnp.float32, name="time_in")(x)
    return Linear(
        (inner,), (spec.hidden_dim,), ("mlp", "embed"), spec.init, jnp.float32, name="time_out"
    )(jax.nn.silu(x))


def position_rows(module: nn.Module, spec: BlockSpec, max_length: int) -> jax.Array:
    """Return the table [max_length, D] of learned positions."""
    scale = 1.0 if spec.init == "torch" else 0.02
    return module.param(
        "positions",
        named_axes(nn.initializers.normal(scale), (None, "embed")),
        (max_length, spec.hidden_dim),
    )


def project(spec: BlockSpec, x: jax.Array, out_dim: int, name: str) -> jax.Array:
    """Map [..., F] to [..., out_dim] through tanh units as many as the Transformer is wide."""
    dtype, hidden = jnp.dtype(spec.dtype), (spec.hidden_dim,)
    x = Linear((x.shape[-1],), hidden, (None, "mlp"), spec.init, dtype, name=f"{name}_in")(x)
    return Linear(hidden, (out_dim,), ("mlp", None), spec.init, dtype, name=f"{name}_out")(
        jnp.tanh(x)
    )
