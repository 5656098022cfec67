"""Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16), between any two indices.

eps    = (x_t - sqrt(alpha_bar) pred_x_start) / sqrt(1 - alpha_bar)
sigma  = eta sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar_prev)
x_prev = sqrt(alpha_bar_prev) pred_x_start + sqrt(1 - alpha_bar_prev - sigma^2) eps + sigma noise
"""

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.samplers.base import LatentState, Sampler
from diffusion_jax.types import StepInfo, StepOutput


def ddim(*, eta: float = 0.0) -> Sampler:
    """Return the DDIM sampler.

    Args:
        eta: 0 is deterministic, 1 has the mean and variance of DDPM with ``fixed_small``.

    Raises:
        UserError: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise UserError(
            f"eta={eta} is not allowed; use a number from 0 (deterministic) to 1 (DDPM)"
        )

    def step(
        state: LatentState, pred_x_start: jax.Array, info: StepInfo, noise: jax.Array | None
    ) -> tuple[LatentState, StepOutput]:
        eps = (state.x_t - jnp.sqrt(info.alpha_bar) * pred_x_start) / jnp.sqrt(
            info.one_minus_alpha_bar
        )
        # Share of the remaining noise that is drawn anew. Squares, not roots: on an ascending grid
        # beta is negative, and eta = 0 must make it vanish.
        fresh = eta**2 * info.beta / info.one_minus_alpha_bar
        sigma = jnp.sqrt(info.one_minus_alpha_bar_prev * fresh)
        # 1 - beta / (1 - alpha_bar), formed without the difference that float32 loses near 0.
        ratio = info.alpha_bar / info.alpha_bar_prev
        stays = ratio * info.one_minus_alpha_bar_prev / info.one_minus_alpha_bar
        kept = jnp.sqrt(info.one_minus_alpha_bar_prev * (1.0 - eta**2 + eta**2 * stays))
        mean = jnp.sqrt(info.alpha_bar_prev) * pred_x_start + kept * eps
        x_prev = mean if noise is None else mean + sigma * noise
        return LatentState(x_prev), StepOutput(pred_x_start, mean, sigma)

    return Sampler(init=LatentState, step=step, needs_noise=eta > 0)
