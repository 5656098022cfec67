"""What a model is to the rest of the program: a record of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from diffusion_jax.types import DenoiseFn, Params, RoundingHead


class ApplyDenoiser(Protocol):
    """Run the network: parameters first, randomness (dropout) only where a key is given."""

    def __call__(
        self,
        params: Params,
        x_t: jax.Array,
        time: jax.Array,
        self_cond: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Map ``x_t`` [B, L, E] and time labels [B] to the estimate of ``x_start`` [B, L, E]."""
        ...


class Model(NamedTuple):
    """A denoiser as pure functions of its parameters.

    Attributes:
        init: typed key -> parameters.
        embed: (params, input_ids int32 [B, L]) -> float32 [B, L, E], the mean of ``x_start``.
        head: params -> RoundingHead (the tied embedding table and the bias).
        denoise: the network, see ApplyDenoiser.
        logical_axes: () -> pytree like the parameters, holding a tuple of logical axis names (or
            None) per array dimension, from which ``scale.sharding`` derives placements.
    """

    init: Callable[[jax.Array], Params]
    embed: Callable[[Params, jax.Array], jax.Array]
    head: Callable[[Params], RoundingHead]
    denoise: ApplyDenoiser
    logical_axes: Callable[[], Any]


def bind(model: Model, params: Params) -> DenoiseFn:
    """Fix the parameters and leave a denoiser that samplers and guides can call (no dropout)."""

    def denoise(x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None) -> jax.Array:
        return model.denoise(params, x_t, time, self_cond)

    return denoise
