"""Training losses of both systems: one function per term, one composition.

The objective of Diffusion-LM (arXiv:2205.14217, equation 2) and DiffuSeq (arXiv:2210.08933,
equation 2), as their published code computes it, is for every example the sum of

    mse           |x_start - f(x_t, t)|^2, or |x_start_mean - f(x_t, t)|^2 at t = 0
    prior         |E[x_T | x_start]|^2, which keeps x_T free of signal
    rounding_nll  -log p(input_ids | x_start)

averaged over positions and embedding coordinates. The two differ in the noise mask alone: it is
True everywhere for Diffusion-LM and on the target for DiffuSeq. Nothing is detached: gradients
reach the embedding through ``x_start``, ``x_t`` and the tied rounding head.

Dimensions: B batch, L length, E embedding width, T timesteps.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.forward import (
    q_sample,
    q_sample_at,
    q_sample_soft_absorbing,
    sample_x_start,
    x_start_from_eps,
)
from diffusion_jax.losses.terms import (
    ByPosition,
    Draws,
    LossTerms,
    mean_over_positions,
    penalty_term,
    prior_term,
    require_choice,
    resolve_draws,
    squared_error,
    time_label,
)
from diffusion_jax.models.base import Model
from diffusion_jax.rounding import token_nll
from diffusion_jax.schedules import NoiseSchedule, extract
from diffusion_jax.types import Params, RoundingHead, check_shape

TokenNLL = Callable[[RoundingHead, jax.Array, jax.Array], jax.Array]


def diffusion_loss(
    key: jax.Array | None,
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    noise_mask: jax.Array,
    t: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    self_cond_rate: float = 0.0,
    source_drop_rate: float = 0.0,
    positions: Literal["all", "target"] = "all",
    parameterization: Literal["x_start", "eps"] = "x_start",
    nll_input: Literal["x_start", "prediction"] = "x_start",
    snr_weight: float = 0.0,
    snr_clip: float = 5.0,
    mean_embed: jax.Array | None = None,
    absorb_rate: float = 0.0,
    penalty_weight: float = 0.01,
    token_nll_fn: TokenNLL = token_nll,
    draws: Draws | None = None,
    alpha_bar: jax.Array | None = None,
    by_position: bool = False,
) -> LossTerms | ByPosition:
    """Compute the training loss of Diffusion-LM, DiffuSeq or DiffuSeq-v2, per example.

    Args:
        key: typed key; None where ``draws`` is given.
        model: the denoiser.
        params: its parameters.
        schedule: the noise schedule.
        input_ids: int32 [B, L].
        noise_mask: bool [B, L], True where a position is noised and generated.
        t: int32 [B], in [0, T).
        dropout_key: typed key; None switches dropout off.
        self_cond_rate: probability that the network also sees its own estimate, made in a first
            pass without gradient (Chen et al. 2022, arXiv:2208.04202); drawn once for the batch.
            The model must have been built with self-conditioning.
        source_drop_rate: share of examples for which the network sees no source (the given
            positions are 0), so that it can be guided without a classifier (Ho and Salimans 2022,
            arXiv:2207.12598). With positions "target" only.
        positions: average over ``"all"`` positions, as published, or over the noised ones
            (``"target"``), as DiffuSeq's equation 2 has it.
        parameterization: what the network's output is read as. ``"eps"`` regresses the noise.
        nll_input: compute ``rounding_nll`` on the drawn ``"x_start"``, as published, or on the
            network's ``"prediction"`` of it.
        snr_weight: weigh the network's squared error by ``1 + snr_weight * min(SNR, snr_clip)``,
            where SNR is alpha_bar / (1 - alpha_bar); 0 as published. 1 without a bound is the
            "SNR + 1" of Salimans and Ho 2022 (arXiv:2202.00512); the bound is that of Hang et al.
            2023 (arXiv:2303.09556). Rare words are told apart at little noise only, where a uniform
            weight hardly sees them. Needs parameterization "x_start".
        snr_clip: the largest SNR that weighs; unused without ``snr_weight``.
        mean_embed: float32 [E], the soft absorbing state of DiffuSeq-v2, usually
            ``params["mean_embed"]``; None for the other two systems.
        absorb_rate: probability of absorbing a token at full noise; needs ``mean_embed``.
        penalty_weight: weight of the norm of ``mean_embed``; unused without one.
        token_nll_fn: rounding loss, (head, x [..., E], ids [...]) -> nats [...].
        draws: all random numbers, instead of drawing them with ``key``.
        alpha_bar: float32 [B, L], share of signal variance at every position, instead of the
            schedule's at ``t`` (SeqDiffuSeq); without ``mean_embed``.
        by_position: also return the network's error at every position, not weighted.

    Returns:
        The terms, each float32 [B]; in a ``ByPosition`` where that is asked for.

    Raises:
        UserError: an unknown choice, a rate outside [0, 1], or options that exclude each other.
    """
    _check_options(positions, parameterization, nll_input, mean_embed, absorb_rate, self_cond_rate)
    _check_snr_weight(snr_weight, snr_clip, parameterization)
    check_source_drop(source_drop_rate, positions)
    check_shape("input_ids", input_ids, (None, None))
    check_shape("noise_mask", noise_mask, input_ids.shape)
    check_shape("t", t, input_ids.shape[:1])

    x_start_mean = model.embed(params, input_ids)
    rates = {
        "absorb_rate": absorb_rate,
        "self_cond_rate": self_cond_rate,
        "source_drop_rate": source_drop_rate,
    }
    draws = resolve_draws(key, draws, schedule, x_start_mean, t, **rates)
    x_start = sample_x_start(None, schedule, x_start_mean, noise=draws.x_start_noise)
    x_t = noised(schedule, x_start, t, noise_mask, mean_embed, draws, alpha_bar)

    def read_x_start(output: jax.Array) -> jax.Array:
        if parameterization == "x_start":
            return model.read(params, output)
        return x_start_from_eps(schedule, x_t, t, output)

    output = predict(model, params, schedule, x_t, t, noise_mask, dropout_key, draws, read_x_start)
    pred_x_start = read_x_start(output)

    # 1. The network's error. At t = 0 the target is the embedding, not the draw around it.
    if parameterization == "x_start":
        error = squared_error(x_start, pred_x_start)
    else:
        error = squared_error(draws.q_noise, output)
    error = jnp.where((t == 0)[:, None], squared_error(x_start_mean, pred_x_start), error)
    # 2. The signal that is left at the end of the forward process.
    prior = prior_term(schedule, x_start)
    # 3. The words, given the latent.
    latent = x_start if nll_input == "x_start" else pred_x_start
    nll = token_nll_fn(model.head(params), latent, input_ids)

    weighted = error
    if snr_weight > 0.0:
        weighted = error * snr_weights(schedule, t, alpha_bar, snr_weight, snr_clip)
    counted = noise_mask if positions == "target" else None
    terms = LossTerms(
        mse=mean_over_positions(weighted, counted),
        prior=mean_over_positions(prior, counted),
        rounding_nll=mean_over_positions(nll, counted),
        penalty=penalty_term(mean_embed, penalty_weight, t),
    )
    return ByPosition(terms, error) if by_position else terms


def noised(
    schedule: NoiseSchedule,
    x_start: jax.Array,
    t: jax.Array,
    noise_mask: jax.Array,
    mean_embed: jax.Array | None,
    draws: Draws,
    alpha_bar: jax.Array | None = None,
) -> jax.Array:
    """Return ``x_t``, around the soft absorbing state where there is one, sources dropped.

    Raises:
        UserError: noise of its own at every position and a soft absorbing state.
    """
    noise = draws.q_noise
    if alpha_bar is not None:
        if mean_embed is not None:
            raise UserError("noise by position works without mean_embed only")
        x_t = q_sample_at(x_start, alpha_bar, noise_mask, noise)
    elif mean_embed is None:
        x_t = q_sample(None, schedule, x_start, t, noise_mask, noise=noise)
    else:
        x_t = q_sample_soft_absorbing(
            None, schedule, x_start, t, noise_mask, mean_embed, draws.absorb_mask, noise=noise
        )
    return hide_source(x_t, noise_mask, draws.source_drop_mask)


def hide_source(
    x: jax.Array, noise_mask: jax.Array, rows: jax.Array | bool | None = True
) -> jax.Array:
    """Return what a network that shall not know the source is given: zeros where it stood.

    Args:
        x: float [B, L, E], noisy states or estimates; an estimate at a given position tells of it.
        noise_mask: bool [B, L], False at given positions.
        rows: bool [B], or one for all: which rows to hide; None is none.
    """
    if rows is None:
        return x
    hidden = jnp.reshape(jnp.asarray(rows), (-1, 1)) & ~noise_mask
    return jnp.where(hidden[..., None], 0.0, x)


def predict(
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    noise_mask: jax.Array,
    dropout_key: jax.Array | None,
    draws: Draws,
    read_x_start: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Run the network, twice where some examples are to see their own estimate."""
    time = time_label(schedule, t)
    if draws.self_cond_mask is None:
        return model.denoise(params, x_t, time, dropout_key=dropout_key)
    first_key, second_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    # Stopping the inputs too keeps the first pass out of differentiation altogether.
    frozen = jax.lax.stop_gradient(params)
    blank = jnp.zeros_like(x_t)
    frozen_x_t = jax.lax.stop_gradient(x_t)

    def own_estimate() -> jax.Array:
        first = model.denoise(frozen, frozen_x_t, time, blank, dropout_key=first_key)
        return jax.lax.stop_gradient(read_x_start(first))

    estimate = jax.lax.cond(jnp.any(draws.self_cond_mask), own_estimate, lambda: blank)
    self_cond = jnp.where(draws.self_cond_mask[:, None, None], estimate, blank)
    # As in sampling, where the estimate comes from a network that was told the source.
    self_cond = hide_source(self_cond, noise_mask, draws.source_drop_mask)
    return model.denoise(params, x_t, time, self_cond, dropout_key=second_key)


def snr_weights(
    schedule: NoiseSchedule,
    t: jax.Array,
    alpha_bar: jax.Array | None,
    weight: float,
    clip: float,
) -> jax.Array:
    """Return ``1 + weight * min(SNR, clip)``: [B, 1], or [B, L] where positions have levels."""
    if alpha_bar is None:
        alpha_bar = extract(schedule.alphas_cumprod, t, 2)
    # Infinite without noise (alpha_bar 1), which the bound makes finite.
    return 1.0 + weight * jnp.minimum(alpha_bar / (1.0 - alpha_bar), clip)


def check_source_drop(rate: float, positions: str) -> None:
    """Raise UserError for a rate out of range, or sources that are both dropped and learned."""
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"source_drop_rate={rate} must lie between 0 and 1")
    if rate > 0.0 and positions != "target":
        raise UserError(
            f"source_drop_rate={rate} needs positions='target': a source that was dropped cannot "
            "be predicted"
        )


def _check_snr_weight(weight: float, clip: float, parameterization: str) -> None:
    if not weight >= 0.0:
        raise UserError(f"snr_weight={weight} is not allowed; use 0 (off) or more")
    if weight > 0.0 and not clip > 0.0:
        raise UserError(f"snr_clip={clip} is not allowed; use a positive number")
    if weight > 0.0 and parameterization != "x_start":
        raise UserError(
            f"snr_weight={weight} weighs errors of x_start; parameterization is "
            f"{parameterization!r}: leave one of them out"
        )


def _check_options(
    positions: str,
    parameterization: str,
    nll_input: str,
    mean_embed: jax.Array | None,
    absorb_rate: float,
    self_cond_rate: float,
) -> None:
    require_choice("positions", positions, ("all", "target"))
    require_choice("parameterization", parameterization, ("x_start", "eps"))
    require_choice("nll_input", nll_input, ("x_start", "prediction"))
    for name, rate in (("absorb_rate", absorb_rate), ("self_cond_rate", self_cond_rate)):
        if not 0.0 <= rate <= 1.0:
            raise UserError(f"{name}={rate} must lie between 0 and 1")
    if mean_embed is None and absorb_rate > 0.0:
        raise UserError(f"absorb_rate={absorb_rate} needs a model with mean_embed=True")
    if mean_embed is not None and parameterization == "eps":
        raise UserError("mean_embed works with parameterization='x_start' only, not 'eps'")
