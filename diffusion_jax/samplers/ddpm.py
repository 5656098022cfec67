"""Ancestral sampling (Ho et al. 2020, eq. 7), for steps between any two indices.

    x_prev = coef1 * pred_x_start + coef2 * x_t + sigma * noise
    coef1  = beta sqrt(alpha_bar_prev) / (1 - alpha_bar)
    coef2  = (1 - alpha_bar_prev) sqrt(1 - beta) / (1 - alpha_bar)

with ``beta = 1 - alpha_bar / alpha_bar_prev``, the beta of the jump, so the formulas hold on
strided grids as they are. The last step (``t_prev = -1``) has coef1 = 1, coef2 = 0 and adds no
noise.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.samplers.base import LatentState, Sampler
from diffusion_jax.types import StepInfo, StepOutput

Variance = Literal["fixed_small", "fixed_large", "zero"]


def ddpm(*, variance: Variance = "fixed_small") -> Sampler:
    """Return the ancestral sampler.

    Args:
        variance: ``"fixed_small"`` is the variance of q(x_prev | x_t, x_start) (Diffusion-LM),
            ``"fixed_large"`` is beta (DiffuSeq), ``"zero"`` follows the mean (greedy infilling).

    Raises:
        UserError: an unknown variance.
    """
    if variance not in get_args(Variance):
        raise UserError(
            f"unknown variance {variance!r}; use one of {', '.join(get_args(Variance))}"
        )

    def step(
        state: LatentState, pred_x_start: jax.Array, info: StepInfo, noise: jax.Array | None
    ) -> tuple[LatentState, StepOutput]:
        mean = posterior_mean(pred_x_start, state.x_t, info)
        sigma = jnp.sqrt(_variance(variance, info))
        x_prev = mean if noise is None else mean + sigma * noise
        return LatentState(x_prev), StepOutput(pred_x_start, mean, sigma)

    return Sampler(init=LatentState, step=step, needs_noise=variance != "zero")


def posterior_mean(pred_x_start: jax.Array, x_t: jax.Array, info: StepInfo) -> jax.Array:
    """Return the mean of q(x_prev | x_t, x_start = pred_x_start), [B, L, E]."""
    coef1 = info.beta * jnp.sqrt(info.alpha_bar_prev) / info.one_minus_alpha_bar
    # The ratio is 1 - beta, which float32 cannot form from a beta close to 1.
    ratio = info.alpha_bar / info.alpha_bar_prev
    coef2 = info.one_minus_alpha_bar_prev * jnp.sqrt(ratio) / info.one_minus_alpha_bar
    return coef1 * pred_x_start + coef2 * x_t


def _variance(variance: Variance, info: StepInfo) -> jax.Array:
    if variance == "fixed_small":
        # Exactly 0 at the last step, where 1 - alpha_bar_prev is.
        return info.beta * info.one_minus_alpha_bar_prev / jnp.asarray(info.one_minus_alpha_bar)
    if variance == "fixed_large":
        return jnp.where(info.t_prev < 0, 0.0, info.beta)
    return jnp.zeros(())
