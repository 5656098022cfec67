"""The parts that losses are made of: their terms, their randomness, their averages.

Dimensions: B batch, L length, E embedding width, T timesteps.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_mean_variance, sample_absorb_mask
from diffusion_jax.schedules import NoiseSchedule, extract


class LossTerms(NamedTuple):
    """The published objective, one float32 number per example and term, all [B].

    Attributes:
        mse: squared error of the network.
        prior: squared mean of ``x_T`` (``tT`` in the originals).
        rounding_nll: negative log-likelihood of the words, nats per token (``decoder_nll``).
        penalty: penalty on the norm of the soft absorbing state; 0 without one.
    """

    mse: jax.Array
    prior: jax.Array
    rounding_nll: jax.Array
    penalty: jax.Array

    def total(self) -> jax.Array:
        """Return the sum of the terms [B], which is what training minimises."""
        return self.mse + self.prior + self.rounding_nll + self.penalty


class PosteriorTerms(NamedTuple):
    """The objective of models that predict a token posterior, one float32 number per example: [B].

    Attributes:
        cross_entropy: negative log-likelihood of the words given ``x_t``, nats per token.
        prior: squared mean of ``x_T``.
        penalty: penalty on the norm of the soft absorbing state; 0 without one.
    """

    cross_entropy: jax.Array
    prior: jax.Array
    penalty: jax.Array

    def total(self) -> jax.Array:
        """Return the sum of the terms [B], which is what training minimises."""
        return self.cross_entropy + self.prior + self.penalty


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByPosition:
    """The terms of an objective, and how its first one came about.

    Attributes:
        terms: a NamedTuple of [B] arrays with ``total``.
        by_position: float32 [B, L], the network's error (squared, or cross-entropy) everywhere.
    """

    terms: Any
    by_position: jax.Array

    def total(self) -> jax.Array:
        """Return the sum of the terms [B]."""
        return self.terms.total()

    def _asdict(self) -> dict[str, jax.Array]:
        return self.terms._asdict()


class BoundTerms(NamedTuple):
    """The variational bound, in bits per dimension times T, all [B].

    Attributes:
        kl: KL(q(x_{t-1} | x_t, x_start) || p(x_{t-1} | x_t)) at the drawn t.
        prior: KL(q(x_T | x_start) || N(0, I)).
        rounding_nll: negative log-likelihood of the words.
    """

    kl: jax.Array
    prior: jax.Array
    rounding_nll: jax.Array

    def total(self) -> jax.Array:
        """Return the sum of the terms [B]."""
        return self.kl + self.prior + self.rounding_nll


class Draws(NamedTuple):
    """All randomness of a loss but dropout, so that recorded numbers can stand in for it.

    Attributes:
        x_start_noise: standard normal [B, L, E], what separates ``x_start`` from the embeddings.
        q_noise: standard normal [B, L, E], the noise in ``x_t``.
        absorb_mask: bool [B, L], tokens replaced by the soft absorbing state; None without one.
        self_cond_mask: bool [B], examples that see their own estimate; None if none does.
        source_drop_mask: bool [B], examples whose given positions are hidden; None if none are.
    """

    x_start_noise: jax.Array
    q_noise: jax.Array
    absorb_mask: jax.Array | None = None
    self_cond_mask: jax.Array | None = None
    source_drop_mask: jax.Array | None = None


def resolve_draws(
    key: jax.Array | None,
    draws: Draws | None,
    schedule: NoiseSchedule,
    like: jax.Array,
    t: jax.Array,
    *,
    absorb_rate: float = 0.0,
    self_cond_rate: float = 0.0,
    source_drop_rate: float = 0.0,
) -> Draws:
    """Return the draws that were given, or make them from the key for latents ``like`` [B, L, E].

    Raises:
        ValueError: both or neither of key and draws were given.
    """
    if draws is not None and key is None:
        return draws
    if key is None or draws is not None:
        raise ValueError("give either a key or the draws, not both and not neither")
    # A stream beside the others, which do not move when it is drawn from.
    drop_key = jax.random.fold_in(key, 4)
    x_start_key, q_key, absorb_key, self_cond_key = jax.random.split(key, 4)
    batch_size, length, _ = like.shape
    absorb_mask, self_cond_mask, source_drop_mask = None, None, None
    if absorb_rate > 0.0:
        absorb_mask = sample_absorb_mask(absorb_key, schedule, t, length, absorb_rate)
    if self_cond_rate > 0.0:
        # One coin for all, as published: a batch that does not condition saves the first pass.
        coin = jax.random.bernoulli(self_cond_key, self_cond_rate)
        self_cond_mask = jnp.broadcast_to(coin, (batch_size,))
    if source_drop_rate > 0.0:
        source_drop_mask = jax.random.bernoulli(drop_key, source_drop_rate, (batch_size,))
    return Draws(
        x_start_noise=jax.random.normal(x_start_key, like.shape, like.dtype),
        q_noise=jax.random.normal(q_key, like.shape, like.dtype),
        absorb_mask=absorb_mask,
        self_cond_mask=self_cond_mask,
        source_drop_mask=source_drop_mask,
    )


def squared_error(target: jax.Array, output: jax.Array) -> jax.Array:
    """Average the squared difference over coordinates: [B, L, E] -> [B, L]."""
    return jnp.mean((target - output) ** 2, axis=-1)


def prior_term(schedule: NoiseSchedule, x_start: jax.Array) -> jax.Array:
    """Return the squared mean of q(x_T | x_start), averaged over coordinates: [B, L]."""
    mean, _ = q_mean_variance(schedule, x_start, last_timestep(schedule, x_start))
    return jnp.mean(mean**2, axis=-1)


def gaussian_kl(
    mean: jax.Array,
    log_variance: jax.Array,
    other_mean: jax.Array | float,
    other_log_variance: jax.Array | float,
) -> jax.Array:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) per coordinate, in nats."""
    log_ratio = log_variance - other_log_variance
    squared = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (jnp.exp(log_ratio) - 1.0 - log_ratio + squared)


def penalty_term(mean_embed: jax.Array | None, weight: float, t: jax.Array) -> jax.Array:
    """Return ``weight * |mean_embed|`` for every example of ``t`` [B]; 0 without the vector."""
    if mean_embed is None:
        return jnp.zeros(t.shape)
    # The plain norm has no gradient at zero.
    return jnp.full(t.shape, weight * optax.safe_norm(mean_embed, 1e-12))


def mean_over_positions(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Average [B, L] to [B], over all positions or those of a mask (0 where it has none)."""
    if mask is None:
        return jnp.mean(values, axis=-1)
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)


def time_label(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """Return what the network is told instead of ``t``: float32 [B]."""
    return extract(schedule.model_timesteps, t, 1)


def last_timestep(schedule: NoiseSchedule, x_start: jax.Array) -> jax.Array:
    """Return T - 1 for every example of ``x_start`` [B, L, E]: int32 [B]."""
    return jnp.full(x_start.shape[:1], schedule.num_timesteps - 1, jnp.int32)


def require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UserError unless the value is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}")
