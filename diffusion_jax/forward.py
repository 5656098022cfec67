"""The forward process q: from embeddings to noise, over all positions or over some.

    x_start ~ N(x_start_mean, sigma_0^2 I),              sigma_0^2 = 1 - alphas_cumprod[0]
    x_t     = sqrt(abar_t) x_start + sqrt(1 - abar_t) noise

(Diffusion-LM, arXiv:2205.14217, section 4.1; Ho et al. 2020, arXiv:2006.11239, equation 4.) A
``noise_mask`` restricts the second line to some positions: DiffuSeq's partial noising
(arXiv:2210.08933, section 3). Dimensions: B batch, L length, E embedding width.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.schedules import NoiseSchedule, extract
from diffusion_jax.types import check_shape


def sample_x_start(
    key: jax.Array | None,
    schedule: NoiseSchedule,
    x_start_mean: jax.Array,
    *,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Draw ``x_start`` around the embeddings, with the noise level of timestep 0.

    Args:
        key: typed key; None where ``noise`` is given.
        schedule: the active process; a respaced one has another sigma_0.
        x_start_mean: float32 [B, L, E], the clean embeddings.
        noise: standard normal [B, L, E] to use instead of drawing it.

    Returns:
        float32 [B, L, E].
    """
    check_shape("x_start_mean", x_start_mean, (None, None, None))
    noise = _standard_normal(key, noise, x_start_mean)
    first = jnp.zeros(x_start_mean.shape[:1], jnp.int32)
    return x_start_mean + extract(schedule.sqrt_one_minus_alphas_cumprod, first, 3) * noise


def q_sample(
    key: jax.Array | None,
    schedule: NoiseSchedule,
    x_start: jax.Array,
    t: jax.Array,
    noise_mask: jax.Array | None = None,
    *,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Draw ``x_t`` from q(x_t | x_start), leaving positions outside the noise mask as they are.

    Args:
        key: typed key; None where ``noise`` is given.
        schedule: the noise schedule.
        x_start: float32 [B, L, E].
        t: int32 [B], in [0, T).
        noise_mask: bool [B, L], True where a position is noised; None noises all.
        noise: standard normal [B, L, E] to use instead of drawing it.

    Returns:
        float32 [B, L, E].
    """
    _check_latent(x_start, t, noise_mask)
    noise = _standard_normal(key, noise, x_start)
    mean, std = _marginal(schedule, x_start, t)
    return _where_noised(noise_mask, mean + std * noise, x_start)


def q_sample_at(
    x_start: jax.Array, alpha_bar: jax.Array, noise_mask: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return ``x_t`` with a noise level of its own at every position (arXiv:2212.10325).

    Args:
        x_start: float32 [B, L, E].
        alpha_bar: float32 [B, L], the share of signal variance.
        noise_mask: bool [B, L], True where a position is noised.
        noise: standard normal [B, L, E].

    Returns:
        float32 [B, L, E].
    """
    check_shape("alpha_bar", alpha_bar, x_start.shape[:2])
    scale = alpha_bar[..., None]
    noised = jnp.sqrt(scale) * x_start + jnp.sqrt(1.0 - scale) * noise
    return _where_noised(noise_mask, noised, x_start)


def q_sample_soft_absorbing(
    key: jax.Array | None,
    schedule: NoiseSchedule,
    x_start: jax.Array,
    t: jax.Array,
    noise_mask: jax.Array,
    mean_embed: jax.Array,
    absorb_mask: jax.Array | None = None,
    *,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Draw ``x_t`` of DiffuSeq-v2, whose noise gathers around a learned absorbing state.

    ``x_t - mean_embed`` follows the ordinary process, so ``x_T`` is N(mean_embed, I); tokens of
    ``absorb_mask`` become ``mean_embed`` exactly (arXiv:2310.05793, section 3.1).

    Args:
        key: typed key; None where ``noise`` is given.
        schedule: the noise schedule.
        x_start: float32 [B, L, E].
        t: int32 [B], in [0, T).
        noise_mask: bool [B, L], True where a position is noised.
        mean_embed: float32 [E], the absorbing state.
        absorb_mask: bool [B, L] from ``sample_absorb_mask``; None absorbs nothing. It has no
            effect outside the noise mask.
        noise: standard normal [B, L, E] to use instead of drawing it.

    Returns:
        float32 [B, L, E].
    """
    _check_latent(x_start, t, noise_mask)
    check_shape("mean_embed", mean_embed, x_start.shape[-1:])
    noise = _standard_normal(key, noise, x_start)
    centre = mean_embed[None, None, :]
    mean, std = _marginal(schedule, x_start - centre, t)
    x_t = mean + std * noise + centre
    if absorb_mask is not None:
        check_shape("absorb_mask", absorb_mask, x_start.shape[:2])
        x_t = jnp.where(absorb_mask[..., None], centre, x_t)
    return _where_noised(noise_mask, x_t, x_start)


def sample_absorb_mask(
    key: jax.Array, schedule: NoiseSchedule, t: jax.Array, length: int, rate: float
) -> jax.Array:
    """Draw which tokens are absorbed at ``t``: each with probability ``rate * sqrt(1 - abar_t)``.

    Args:
        key: typed key.
        schedule: the noise schedule.
        t: int32 [B].
        length: L.
        rate: in [0, 1]; DiffuSeq-v2's published runs use 0.5.

    Returns:
        bool [B, L].
    """
    probability = rate * extract(schedule.sqrt_one_minus_alphas_cumprod, t, 2)
    return jax.random.bernoulli(key, probability, (t.shape[0], length))


def sample_given_mask(key: jax.Array, input_ids: jax.Array, pad_id: int, rate: float) -> jax.Array:
    """Draw what a model of single texts is given in training, as users of infilling give it.

    A share ``rate`` of the rows is given something. Of these, one in four leaves its length open;
    the others are given their first token, their last one and all padding. Of the words, one row
    in three is given none, one in three each with a probability of its own, uniform in [0, 1), and
    one in three all but one stretch of any place and length.

    Args:
        key: typed key.
        input_ids: int32 [B, L].
        pad_id: id of padding.
        rate: in [0, 1].

    Returns:
        bool [B, L], True where the token is given.
    """
    batch_size, length = input_ids.shape
    rows, kind, open_end, share, words, hole = jax.random.split(key, 6)
    position = jnp.arange(length)[None, :]
    is_pad = input_ids == pad_id
    last = jnp.max(jnp.where(is_pad, 0, position), axis=1, keepdims=True)
    ends = is_pad | (position == 0) | (position == last)
    kind = jax.random.randint(kind, (batch_size, 1), 0, 3)
    scattered = jax.random.uniform(words, (batch_size, length)) < jax.random.uniform(
        share, (batch_size, 1)
    )
    # Two places among the words; what lies between them, both included, is the hole.
    places = 1 + jax.random.uniform(hole, (batch_size, 2)) * (last - 1)
    first, final = (jnp.floor(edge) for edge in (places.min(axis=1), places.max(axis=1)))
    around = (position < first[:, None]) | (position > final[:, None])
    inner = jnp.where(kind == 0, False, jnp.where(kind == 1, scattered, around))
    has_end = jax.random.bernoulli(open_end, 0.75, (batch_size, 1))
    given = jnp.where(ends, has_end, inner)
    return given & jax.random.bernoulli(rows, rate, (batch_size, 1))


def q_mean_variance(
    schedule: NoiseSchedule, x_start: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return mean [B, L, E] and variance [B, 1, 1] of q(x_t | x_start)."""
    _check_latent(x_start, t)
    mean, _ = _marginal(schedule, x_start, t)
    return mean, extract(schedule.one_minus_alphas_cumprod, t, x_start.ndim)


def q_posterior(
    schedule: NoiseSchedule,
    x_start: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    t_prev: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Compute mean and variance of q(x_{t_prev} | x_t, x_start) for any earlier timestep.

    With beta = 1 - abar_t / abar_prev (Ho et al. 2020, equations 6 and 7)::

        mean     = beta sqrt(abar_prev) / (1 - abar_t) x_start
                 + (1 - abar_prev) sqrt(1 - beta) / (1 - abar_t) x_t
        variance = beta (1 - abar_prev) / (1 - abar_t)

    Args:
        schedule: the noise schedule.
        x_start: float32 [B, L, E].
        x_t: float32 [B, L, E].
        t: int32 [B], in [0, T).
        t_prev: int32 [B], in [-1, t); -1 is the clean latent, where the mean is ``x_start`` and
            the variance 0.

    Returns:
        Mean [B, L, E] and variance [B, 1, 1]. At ``t_prev = t - 1`` they are the schedule's tables.
    """
    _check_latent(x_start, t)
    check_shape("x_t", x_t, x_start.shape)
    check_shape("t_prev", t_prev, t.shape)
    ndim = x_start.ndim
    is_clean = t_prev.reshape((-1,) + (1,) * (ndim - 1)) < 0
    previous = jnp.maximum(t_prev, 0)

    log_prev_high, log_prev_low = (
        jnp.where(is_clean, 0.0, part) for part in _extract_log(schedule, previous, ndim)
    )
    log_high, log_low = _extract_log(schedule, t, ndim)
    log_ratio = (log_high - log_prev_high) + (log_low - log_prev_low)  # log(abar_t / abar_prev)
    beta = -jnp.expm1(log_ratio)
    noise_t = extract(schedule.one_minus_alphas_cumprod, t, ndim)
    noise_prev = jnp.where(
        is_clean, 0.0, extract(schedule.one_minus_alphas_cumprod, previous, ndim)
    )

    x_start_weight = beta * jnp.exp(0.5 * (log_prev_high + log_prev_low)) / noise_t
    # Rounding must not leave a trace of x_t in a clean latent, nor scale x_start.
    x_start_weight = jnp.where(is_clean, 1.0, x_start_weight)
    x_t_weight = noise_prev * jnp.exp(0.5 * log_ratio) / noise_t
    return x_start_weight * x_start + x_t_weight * x_t, beta * noise_prev / noise_t


def eps_from_x_start(
    schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, x_start: jax.Array
) -> jax.Array:
    """Return the noise [B, L, E] that ``x_t`` implies where ``x_start`` is the truth."""
    _check_latent(x_start, t)
    check_shape("x_t", x_t, x_start.shape)
    mean, std = _marginal(schedule, x_start, t)
    return (x_t - mean) / std


def x_start_from_eps(
    schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """Return the ``x_start`` [B, L, E] that ``x_t`` implies where ``eps`` is its noise."""
    check_shape("eps", eps, x_t.shape)
    scale = extract(schedule.sqrt_alphas_cumprod, t, x_t.ndim)
    return (x_t - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t.ndim) * eps) / scale


def _marginal(
    schedule: NoiseSchedule, x_start: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return mean [B, L, E] and standard deviation [B, 1, 1] of q(x_t | x_start)."""
    mean = extract(schedule.sqrt_alphas_cumprod, t, x_start.ndim) * x_start
    return mean, extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_start.ndim)


def _extract_log(schedule: NoiseSchedule, t: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """Look up ``log(abar_t)`` as the sum of two float32 numbers.

    Neighbouring entries differ in the fourth digit, so that their difference in one float32 would
    have an error of 1e-4; the second number carries the digits that the first one drops.
    """
    table = schedule.log_alphas_cumprod
    high = table.astype("float32")
    return extract(high, t, ndim), extract(table - high, t, ndim)


def _where_noised(noise_mask: jax.Array | None, noised: jax.Array, x_start: jax.Array) -> jax.Array:
    return noised if noise_mask is None else jnp.where(noise_mask[..., None], noised, x_start)


def _standard_normal(key: jax.Array | None, noise: jax.Array | None, like: jax.Array) -> jax.Array:
    if noise is not None and key is None:
        check_shape("noise", noise, like.shape)
        return noise
    if key is None or noise is not None:
        raise ValueError("give either a key or the noise itself, not both and not neither")
    return jax.random.normal(key, like.shape, like.dtype)


def _check_latent(x_start: jax.Array, t: jax.Array, noise_mask: jax.Array | None = None) -> None:
    check_shape("x_start", x_start, (None, None, None))
    check_shape("t", t, x_start.shape[:1])
    if noise_mask is not None:
        check_shape("noise_mask", noise_mask, x_start.shape[:2])
