"""The variational bound on the likelihood of text under a diffusion model, in nats.

The latents of a sentence w with embeddings e are x_start ~ N(e, s0^2), x_0, ..., x_{T-1}; write
x_{-1} for x_start. Then

    -log p(w) <= KL(q(x_{T-1} | w) || N(0, I))                             prior
               + sum_t E KL(q(x_{t-1} | x_t, w) || p(x_{t-1} | x_t))       diffusion, t = 0 ... T-1
               + E[-log p(w | x_start)]                                    rounding_nll

``variance="matched"`` computes this bound (Kingma et al. 2021, eq. 11). x_start is integrated out:
q(x_t | w) = N(sqrt(alpha_bar_t) e, V_t), V_t = alpha_bar_t s0^2 + 1 - alpha_bar_t. p has the
sampler's mean and the variance of q(x_{t-1} | x_t, w). At t = 0 the network is trained to predict
e, and its estimate takes the place of e in the mean of q(x_start | x_0, w).

``"fixed_small"`` and ``"fixed_large"`` repeat the published computation: q is conditioned on
x_start, and at t = 0 N(e, s0^2) is held against a Gaussian of another variance, which costs 0.33
nats per embedding dimension with the sqrt schedule of 2000 steps. It also treats x_start and x_0 as
independent, so it is no proven bound; use it to compare with published bits per dimension only.

What is counted: all positions of the noise mask, padding included, because the model generates
padding to say where a sentence ends. ``summarize`` divides by the number of real tokens.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_sample, sample_x_start
from diffusion_jax.keys import stream
from diffusion_jax.models.base import Model, bind
from diffusion_jax.rounding import nearest_embedding, token_nll
from diffusion_jax.schedules import NoiseSchedule, Table, extract
from diffusion_jax.types import DenoiseFn, Params, check_shape

Variance = Literal["matched", "fixed_small", "fixed_large"]


class BoundDraws(NamedTuple):
    """Standard normal draws to use in place of the key's.

    Attributes:
        x_start_noise: float32 [B, L, E].
        q_noise: float32 [N, B, L, E], one row for each of the N timesteps that are evaluated.
    """

    x_start_noise: jax.Array
    q_noise: jax.Array


class LikelihoodTerms(NamedTuple):
    """The three parts of the bound in nats per sentence, and the tokens to divide by; all [B]."""

    prior: jax.Array
    diffusion: jax.Array
    rounding_nll: jax.Array
    num_tokens: jax.Array

    def total(self) -> jax.Array:
        """Return the bound in nats per sentence [B]."""
        return self.prior + self.diffusion + self.rounding_nll


class LikelihoodSummary(NamedTuple):
    """The bound over a corpus, in nats.

    The standard errors are those of drawing sentences, timesteps and noise together.
    """

    nats_per_sentence: float
    nats_per_sentence_error: float
    nats_per_token: float
    nats_per_token_error: float
    prior_per_token: float
    diffusion_per_token: float
    rounding_nll_per_token: float


class _StepTables(NamedTuple):
    """Gaussians q and p of every step, float64 [T]; means are from_target * x + from_x_t * x_t."""

    q_from_target: Table
    q_from_x_t: Table
    q_log_variance: Table
    p_from_target: Table
    p_from_x_t: Table
    p_log_variance: Table


def likelihood_bound(
    key: jax.Array,
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    *,
    token_mask: jax.Array | None = None,
    noise_mask: jax.Array | None = None,
    num_timesteps: int | None = None,
    variance: Variance = "matched",
    clamp: bool = False,
    mean_embed: jax.Array | None = None,
    draws: BoundDraws | None = None,
) -> LikelihoodTerms:
    """Estimate the bound for a batch of sentences. Pure; close over ``schedule`` under jit.

    Args:
        key: typed key.
        model: the denoiser; a self-conditioned one is run without its own estimate.
        params: its parameters.
        schedule: the T timesteps of the process.
        input_ids: int32 [B, L].
        token_mask: bool [B, L], True at real tokens and the end marker; None counts every position.
        noise_mask: bool [B, L], True where text is generated; elsewhere it is given, clean, and
            the bound is that of the rest given it. None generates everything.
        num_timesteps: how many of the T terms to evaluate for every sentence, one drawn from each
            of that many equal strata (unbiased). None evaluates all.
        variance: which bound, see the module.
        clamp: round the network's estimates to embeddings (the published script does).
        mean_embed: float32 [E], the state around which the noise gathers (DiffuSeq-v2); the prior
            is then N(mean_embed, I).
        draws: recorded noise.

    Returns:
        LikelihoodTerms.

    Raises:
        UserError: ``num_timesteps`` or ``variance`` is not allowed.
        ValueError: arrays of the wrong shape.
    """
    _check_variance(variance)
    check_shape("input_ids", input_ids, (None, None))
    everywhere = jnp.ones(input_ids.shape, bool)
    noise_mask = everywhere if noise_mask is None else noise_mask
    token_mask = everywhere if token_mask is None else token_mask
    check_shape("noise_mask", noise_mask, input_ids.shape)
    check_shape("token_mask", token_mask, input_ids.shape)

    t, weight = _timesteps(key, schedule.num_timesteps, num_timesteps, input_ids.shape[0])
    head = model.head(params)
    x_start_mean = model.embed(params, input_ids)
    x_start = _draw_x_start(key, schedule, x_start_mean, draws)
    # The process is the ordinary one in x - centre.
    centre = jnp.zeros((1, 1, 1)) if mean_embed is None else mean_embed[None, None, :]
    kl = kl_by_timestep(
        key,
        _move(bind(model, params), centre),
        schedule,
        x_start_mean - centre,
        x_start - centre,
        t,
        noise_mask=noise_mask,
        variance=variance,
        clamp_to=head.weight - centre[0] if clamp else None,
        q_noise=None if draws is None else draws.q_noise,
    )
    nll = token_nll(head, x_start, input_ids)
    prior_mean = x_start_mean if variance == "matched" else x_start
    return LikelihoodTerms(
        prior=_sum(_prior_kl(schedule, prior_mean - centre, variance), noise_mask),
        diffusion=weight * jnp.sum(kl, axis=0),
        rounding_nll=jnp.sum(jnp.where(noise_mask, nll, 0.0), axis=-1),
        num_tokens=jnp.sum(token_mask & noise_mask, axis=-1),
    )


def kl_by_timestep(
    key: jax.Array,
    denoise: DenoiseFn,
    schedule: NoiseSchedule,
    x_start_mean: jax.Array,
    x_start: jax.Array,
    t: jax.Array,
    *,
    noise_mask: jax.Array,
    variance: Variance = "matched",
    clamp_to: jax.Array | None = None,
    q_noise: jax.Array | None = None,
) -> jax.Array:
    """Estimate the terms of the sum over timesteps, in nats per sentence.

    Args:
        key: typed key.
        denoise: the network with its parameters.
        schedule: the noise schedule.
        x_start_mean: float32 [B, L, E], the embeddings.
        x_start: float32 [B, L, E], drawn around them.
        t: int32 [N, B], the timesteps of every sentence; one network call per row.
        noise_mask: bool [B, L], True where text is generated.
        variance: which bound, see the module.
        clamp_to: embedding table [V, E] to round the network's estimates to; None leaves them.
        q_noise: standard normal [N, B, L, E] to use instead of drawing it.

    Returns:
        float32 [N, B].
    """
    _check_variance(variance)
    check_shape("t", t, (None, x_start.shape[0]))
    tables = _step_tables(schedule, variance)

    def one_row(_: None, inputs: tuple) -> tuple[None, jax.Array]:
        row, t_row, noise = inputs
        noise_key = stream(key, "q_noise", row) if noise is None else None
        x_t = q_sample(noise_key, schedule, x_start, t_row, noise=noise)
        # Given positions are clean, as they are while sampling.
        x_t = jnp.where(noise_mask[..., None], x_t, x_start_mean)
        estimate = denoise(x_t, extract(schedule.model_timesteps, t_row, 1)).astype(jnp.float32)
        if clamp_to is not None:
            estimate = nearest_embedding(estimate, clamp_to)[1]
        target = x_start_mean
        if variance != "matched":
            target = jnp.where((t_row == 0)[:, None, None], x_start_mean, x_start)
        return None, _sum(_step_kl(tables, t_row, target, estimate, x_t), noise_mask)

    return jax.lax.scan(one_row, None, (jnp.arange(t.shape[0]), t, q_noise))[1]


def summarize(terms: LikelihoodTerms) -> LikelihoodSummary:
    """Average the terms of N sentences (arrays [N], at least two) on the host.

    Per token is the sum of nats over the sum of tokens; its standard error is that of a ratio.

    Raises:
        UserError: fewer than two sentences, or no tokens.
    """
    total, tokens = (np.asarray(a, np.float64) for a in (terms.total(), terms.num_tokens))
    if total.size < 2 or tokens.sum() == 0:
        raise UserError(
            f"a bound with a standard error needs at least 2 sentences and 1 token, "
            f"not {total.size} and {int(tokens.sum())}"
        )
    per_token = total.sum() / tokens.sum()

    def error_of_mean(values: np.ndarray) -> float:
        return float(values.std(ddof=1) / np.sqrt(values.size))

    def part(values: jax.Array) -> float:
        return float(np.asarray(values, np.float64).sum() / tokens.sum())

    return LikelihoodSummary(
        nats_per_sentence=float(total.mean()),
        nats_per_sentence_error=error_of_mean(total),
        nats_per_token=float(per_token),
        nats_per_token_error=error_of_mean(total - per_token * tokens) / float(tokens.mean()),
        prior_per_token=part(terms.prior),
        diffusion_per_token=part(terms.diffusion),
        rounding_nll_per_token=part(terms.rounding_nll),
    )


def _move(denoise: DenoiseFn, centre: jax.Array) -> DenoiseFn:
    """Return the network as it looks to latents and estimates that are less by ``centre``."""

    def moved(x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None) -> jax.Array:
        return denoise(x_t + centre, time, self_cond) - centre

    return moved


def _check_variance(variance: str) -> None:
    if variance not in get_args(Variance):
        raise UserError(
            f"unknown variance {variance!r}; use one of {', '.join(get_args(Variance))}"
        )


def _timesteps(
    key: jax.Array, total: int, count: int | None, batch_size: int
) -> tuple[jax.Array, float]:
    """Return timesteps [N, B] and the weight of each that makes their sum unbiased."""
    if count is None:
        return jnp.broadcast_to(jnp.arange(total)[:, None], (total, batch_size)), 1.0
    if not 1 <= count <= total:
        raise UserError(f"num_timesteps={count} is not allowed; use 1 to {total}, or None for all")
    offsets = jax.random.uniform(stream(key, "timesteps"), (count, batch_size))
    t = jnp.floor((jnp.arange(count)[:, None] + offsets) * (total / count))
    return jnp.minimum(t.astype(jnp.int32), total - 1), total / count


def _draw_x_start(
    key: jax.Array, schedule: NoiseSchedule, x_start_mean: jax.Array, draws: BoundDraws | None
) -> jax.Array:
    if draws is not None:
        return sample_x_start(None, schedule, x_start_mean, noise=draws.x_start_noise)
    return sample_x_start(stream(key, "x_start"), schedule, x_start_mean)


def _step_tables(schedule: NoiseSchedule, variance: Variance) -> _StepTables:
    if variance == "matched":
        return _matched_tables(schedule)
    first_variance = 1.0 - schedule.alphas_cumprod[0]
    from_target, from_x_t = schedule.posterior_mean_coef1, schedule.posterior_mean_coef2
    q_log_variance = schedule.posterior_log_variance_clipped.copy()
    q_log_variance[0] = np.log(first_variance)
    p_log_variance = schedule.posterior_log_variance_clipped
    if variance == "fixed_large":
        p_log_variance = np.log(schedule.fixed_large_variance)
    return _StepTables(from_target, from_x_t, q_log_variance, from_target, from_x_t, p_log_variance)


def _matched_tables(schedule: NoiseSchedule) -> _StepTables:
    alpha_bar, alpha_bar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    # Variances of q(x_t | w) and q(x_{t-1} | w); the latter is s0^2 at t = 0.
    first_variance = 1.0 - alpha_bar[0]
    marginal = alpha_bar * first_variance + 1.0 - alpha_bar
    marginal_prev = alpha_bar_prev * first_variance + 1.0 - alpha_bar_prev
    from_target = schedule.betas * np.sqrt(alpha_bar_prev) / marginal
    from_x_t = marginal_prev * np.sqrt(1.0 - schedule.betas) / marginal
    log_variance = np.log(marginal_prev * schedule.betas / marginal)

    p_from_target, p_from_x_t = (
        np.concatenate([ours[:1], samplers[1:]])
        for ours, samplers in (
            (from_target, schedule.posterior_mean_coef1),
            (from_x_t, schedule.posterior_mean_coef2),
        )
    )
    return _StepTables(from_target, from_x_t, log_variance, p_from_target, p_from_x_t, log_variance)


def _step_kl(
    tables: _StepTables, t: jax.Array, target: jax.Array, pred_x_start: jax.Array, x_t: jax.Array
) -> jax.Array:
    at_t = _StepTables(*(extract(table, t, 3) for table in tables))
    return _gaussian_kl(
        at_t.q_from_target * target + at_t.q_from_x_t * x_t,
        at_t.q_log_variance,
        at_t.p_from_target * pred_x_start + at_t.p_from_x_t * x_t,
        at_t.p_log_variance,
    )


def _prior_kl(schedule: NoiseSchedule, mean: jax.Array, variance: Variance) -> jax.Array:
    alpha_bar = float(schedule.alphas_cumprod[-1])
    spread = 1.0 - alpha_bar
    if variance == "matched":
        spread += alpha_bar * (1.0 - float(schedule.alphas_cumprod[0]))
    zero = jnp.zeros(())
    return _gaussian_kl(np.sqrt(alpha_bar) * mean, jnp.log(spread), zero, zero)


def _gaussian_kl(
    mean1: jax.Array, log_variance1: jax.Array, mean2: jax.Array, log_variance2: jax.Array
) -> jax.Array:
    """Return KL(N(mean1, variance1) || N(mean2, variance2)) elementwise, in nats."""
    log_ratio = log_variance1 - log_variance2
    distance = jnp.square(mean1 - mean2) * jnp.exp(-log_variance2)
    return 0.5 * (jnp.exp(log_ratio) - 1.0 - log_ratio + distance)


def _sum(per_dimension: jax.Array, noise_mask: jax.Array) -> jax.Array:
    """Sum [B, L, E] over the generated positions to [B]."""
    return jnp.sum(jnp.where(noise_mask[..., None], per_dimension, 0.0), axis=(1, 2))
