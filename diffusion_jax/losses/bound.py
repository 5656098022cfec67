"""Two other objectives of Diffusion-LM: the variational bound, and the words' likelihood alone.

Dimensions: B batch, L length, E embedding width, T timesteps.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from diffusion_jax.forward import q_mean_variance, q_sample, sample_x_start
from diffusion_jax.losses.diffusion import TokenNLL
from diffusion_jax.losses.terms import (
    BoundTerms,
    Draws,
    gaussian_kl,
    last_timestep,
    mean_over_positions,
    require_choice,
    resolve_draws,
    time_label,
)
from diffusion_jax.models.base import Model
from diffusion_jax.rounding import token_nll
from diffusion_jax.schedules import NoiseSchedule, extract
from diffusion_jax.types import Params, check_shape


def variational_loss(
    key: jax.Array | None,
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    noise_mask: jax.Array,
    t: jax.Array,
    *,
    variance: Literal["fixed_small", "fixed_large"] = "fixed_large",
    dropout_key: jax.Array | None = None,
    token_nll_fn: TokenNLL = token_nll,
    draws: Draws | None = None,
) -> BoundTerms:
    """Compute a one-timestep estimate of the variational bound (Diffusion-LM's ``E2E_KL``).

    At t = 0 the KL is that of the embedding step, KL(N(x_start_mean, sigma_0^2) || p(x_0 | x_1)) in
    the paper's indices (arXiv:2205.14217, equation 1). Everything is averaged over the noised
    positions, and multiplied by T because one timestep stands for all.

    Args:
        key: typed key; None where ``draws`` is given.
        model: the denoiser, whose output is read as ``x_start``.
        params: its parameters.
        schedule: the noise schedule.
        input_ids: int32 [B, L].
        noise_mask: bool [B, L], True where a position is noised.
        t: int32 [B], in [0, T).
        variance: of the reverse step: the posterior's or the betas.
        dropout_key: typed key; None switches dropout off.
        token_nll_fn: rounding loss, (head, x [..., E], ids [...]) -> nats [...].
        draws: ``x_start_noise`` and ``q_noise``, instead of drawing them with ``key``.

    Returns:
        The terms, each float32 [B], in bits per dimension times T.

    Raises:
        UserError: an unknown variance.
    """
    require_choice("variance", variance, ("fixed_small", "fixed_large"))
    check_shape("noise_mask", noise_mask, input_ids.shape)
    x_start_mean = model.embed(params, input_ids)
    draws = resolve_draws(key, draws, schedule, x_start_mean, t)
    x_start = sample_x_start(None, schedule, x_start_mean, noise=draws.x_start_noise)
    x_t = q_sample(None, schedule, x_start, t, noise_mask, noise=draws.q_noise)
    output = model.denoise(params, x_t, time_label(schedule, t), dropout_key=dropout_key)
    pred_x_start = model.read(params, output)

    kl = _reverse_kl(schedule, x_start_mean, x_start, pred_x_start, x_t, t, variance)
    last_mean, last_variance = q_mean_variance(schedule, x_start, last_timestep(schedule, x_start))
    prior = jnp.mean(gaussian_kl(last_mean, jnp.log(last_variance), 0.0, 0.0), axis=-1)
    nll = token_nll_fn(model.head(params), x_start, input_ids) / x_start.shape[-1]

    scale = schedule.num_timesteps / math.log(2.0)
    return BoundTerms(*(scale * mean_over_positions(nats, noise_mask) for nats in (kl, prior, nll)))


def prediction_nll_loss(
    key: jax.Array | None,
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    t: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    q_noise: jax.Array | None = None,
) -> jax.Array:
    """Compute the cross-entropy of the words given the network's output alone, nats per token [B].

    Diffusion-LM's early objective (``e2e-simple``): embeddings are noised without first being
    drawn around their mean. Its authors report that it collapses easily; it is here for comparison.
    """
    x_start_mean = model.embed(params, input_ids)
    x_t = q_sample(key, schedule, x_start_mean, t, noise=q_noise)
    output = model.denoise(params, x_t, time_label(schedule, t), dropout_key=dropout_key)
    return jnp.mean(token_nll(model.head(params), output, input_ids), axis=-1)


def _reverse_kl(
    schedule: NoiseSchedule,
    x_start_mean: jax.Array,
    x_start: jax.Array,
    pred_x_start: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    variance: str,
) -> jax.Array:
    """Return KL(q || p) of the step from t, averaged over coordinates: nats [B, L]."""
    coef1 = extract(schedule.posterior_mean_coef1, t, 3)
    coef2 = extract(schedule.posterior_mean_coef2, t, 3)
    is_first = (t == 0)[:, None, None]
    log_posterior_variance = extract(schedule.posterior_log_variance_clipped, t, 3)
    sigma_0 = extract(schedule.sqrt_one_minus_alphas_cumprod, jnp.zeros_like(t), 3)

    q_mean = jnp.where(is_first, x_start_mean, coef1 * x_start + coef2 * x_t)
    q_log_variance = jnp.where(is_first, 2.0 * jnp.log(sigma_0), log_posterior_variance)
    p_mean = coef1 * pred_x_start + coef2 * x_t
    p_log_variance = log_posterior_variance
    if variance == "fixed_large":
        p_log_variance = jnp.log(extract(schedule.fixed_large_variance, t, 3))
    return jnp.mean(gaussian_kl(q_mean, q_log_variance, p_mean, p_log_variance), axis=-1)
