"""What a sampler is to the driver: a starting state and one pure step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffusion_jax.types import StepInfo, StepOutput

SamplerState = Any
"""A NamedTuple of arrays that has at least the field ``x_t`` [B, L, E], the current latent."""


class Sampler(NamedTuple):
    """A reverse sampler as pure functions; the network call and the noise come from outside.

    Attributes:
        init: initial latent [B, L, E] -> state.
        step: (state, pred_x_start [B, L, E], info, noise) -> (new state, StepOutput). ``noise`` is
            standard normal [B, L, E], or None where ``needs_noise`` is False.
        needs_noise: whether the steps are random.
        start_mean: float32 [1, 1, E], the mean of the noise that the chain starts from; None
            means 0.
        check_grid: raises UserError for a grid (NumPy arrays) that the sampler cannot walk.
    """

    init: Callable[[jax.Array], SamplerState]
    step: Callable[
        [SamplerState, jax.Array, StepInfo, jax.Array | None],
        tuple[SamplerState, StepOutput],
    ]
    needs_noise: bool
    start_mean: jax.Array | None = None
    check_grid: Callable[[StepInfo], None] = lambda grid: None


class LatentState(NamedTuple):
    """The state of a sampler without memory: the latent alone."""

    x_t: jax.Array
