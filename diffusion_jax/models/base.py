"""What a model is to the rest of the program: a record of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from diffusion_jax.errors import UserError
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
        """Map ``x_t`` [B, L, E] and time labels [B] to an output [B, L, E]; see Model.read."""
        ...


class ReadXStart(Protocol):
    """Read the estimate of ``x_start`` off the network's output."""

    def __call__(self, params: Params, output: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Map an output [B, L, E] to the estimate of ``x_start`` [B, L, E].

        ``temperature`` divides the logits of a model whose estimate is a mean over tokens.
        """
        ...


def read_vector(params: Params, output: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Return the output itself, which is the estimate of the published models.

    Raises:
        UserError: a temperature other than 1, which has nothing to act on.
    """
    if temperature != 1.0:
        raise UserError(
            f"temperature={temperature} needs a model that predicts a token posterior "
            "(model.readout='posterior'); this one predicts vectors"
        )
    return output


class Model(NamedTuple):
    """A denoiser as pure functions of its parameters.

    Attributes:
        init: typed key -> parameters.
        embed: (params, input_ids int32 [B, L]) -> float32 [B, L, E], the mean of ``x_start``.
        head: params -> RoundingHead (the tied embedding table and the bias).
        denoise: the network, see ApplyDenoiser.
        predict_length: (params, input_ids int32 [B, L], noise_mask bool [B, L]) -> float32
            [B, max_length + 1], log-probabilities of the number of target tokens, told by the given
            positions alone; None where the model has no such head.
        read: (params, output of ``denoise``) -> estimate of ``x_start``, see ReadXStart.
        logical_axes: () -> pytree like the parameters, holding a tuple of logical axis names (or
            None) per array dimension, from which ``scale.sharding`` derives placements.
    """

    init: Callable[[jax.Array], Params]
    embed: Callable[[Params, jax.Array], jax.Array]
    head: Callable[[Params], RoundingHead]
    denoise: ApplyDenoiser
    logical_axes: Callable[[], Any]
    read: ReadXStart = read_vector
    predict_length: Callable[[Params, jax.Array, jax.Array], jax.Array] | None = None


def own_estimate(
    denoise: DenoiseFn, x_t: jax.Array, time: jax.Array, *, self_condition: bool
) -> jax.Array:
    """Return the estimate of ``x_start``, made from the network's first one where it is asked to.

    Args:
        denoise: the network, its parameters fixed.
        x_t: float32 [B, L, E].
        time: time labels [B].
        self_condition: give the network its own estimate, as a chain does after the first step.
    """
    first = denoise(x_t, time)
    return denoise(x_t, time, first) if self_condition else first


def bind(model: Model, params: Params, *, temperature: float = 1.0) -> DenoiseFn:
    """Fix the parameters and leave a denoiser that samplers and guides can call (no dropout).

    Args:
        model: network and read-out.
        params: its parameters.
        temperature: see ReadXStart.
    """

    def denoise(x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None) -> jax.Array:
        output = model.denoise(params, x_t, time, self_cond)
        return model.read(params, output, temperature=temperature)

    return denoise
