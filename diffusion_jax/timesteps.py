"""Which timesteps a training batch sees, and the importance weights that keep its loss unbiased.

A sampler is three pure functions over a state (empty but for ``loss_aware``), so that the state can
live in the training state and in checkpoints.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.types import check_shape


class TimestepSampler(NamedTuple):
    """Draw timesteps, and learn from the losses that they gave.

    Attributes:
        init: () -> state.
        sample: (key, state, B) -> timesteps int32 [B] and importance weights [B], float32 (float64
            where x64 is enabled). The mean of ``weight * loss`` estimates the mean over all
            timesteps.
        update: (state, t int32 [B], losses [B]) -> state; losses are unweighted totals.
    """

    init: Callable[[], Any]
    sample: Callable[[jax.Array, Any, int], tuple[jax.Array, jax.Array]]
    update: Callable[[Any, jax.Array, jax.Array], Any]


class LossHistory(NamedTuple):
    """The latest losses of every timestep.

    Attributes:
        losses: [T, H], a ring: the i-th loss ever seen at t lies in column ``i % H``.
        counts: int32 [T], how many losses were ever seen.
    """

    losses: jax.Array
    counts: jax.Array


def make_timestep_sampler(name: str, num_timesteps: int) -> TimestepSampler:
    """Build a sampler by name: ``uniform``, ``stratified``, ``fixstep`` or ``loss_aware``.

    Raises:
        UserError: unknown name.
    """
    if name not in _SAMPLERS:
        raise UserError(f"unknown timestep sampler {name!r}; choose one of {', '.join(_SAMPLERS)}")
    return _SAMPLERS[name](num_timesteps)


def uniform(num_timesteps: int) -> TimestepSampler:
    """Draw every timestep of [0, T) with equal probability, independently."""
    _check_num_timesteps(num_timesteps)

    def sample(key: jax.Array, state: Any, batch_size: int) -> tuple[jax.Array, jax.Array]:
        t = jax.random.randint(key, (batch_size,), 0, num_timesteps)
        return t, jnp.ones((batch_size,))

    return TimestepSampler(init=tuple, sample=sample, update=_keep_state)


def stratified(num_timesteps: int) -> TimestepSampler:
    """Spread one batch evenly over [0, T), shifted by one uniform draw.

    Each timestep is still uniform, but the batch as a whole covers the range, which lowers the
    variance of the loss (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
    """
    _check_num_timesteps(num_timesteps)

    def sample(key: jax.Array, state: Any, batch_size: int) -> tuple[jax.Array, jax.Array]:
        points = (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0
        # A float just below 1 may be rounded up to T by the product.
        t = jnp.minimum((points * num_timesteps).astype(jnp.int32), num_timesteps - 1)
        return t, jnp.ones((batch_size,))

    return TimestepSampler(init=tuple, sample=sample, update=_keep_state)


def fixstep(num_timesteps: int) -> TimestepSampler:
    """Draw the first, less noisy half of the timesteps twice as often as the second (DiffuSeq)."""
    _check_num_timesteps(num_timesteps)

    def sample(key: jax.Array, state: Any, batch_size: int) -> tuple[jax.Array, jax.Array]:
        is_first_half = jnp.arange(num_timesteps) < num_timesteps // 2
        weights = jnp.where(is_first_half, 1.0, 0.5)
        return _importance_sample(key, weights / jnp.sum(weights), batch_size)

    return TimestepSampler(init=tuple, sample=sample, update=_keep_state)


def loss_aware(
    num_timesteps: int, *, history: int = 10, uniform_prob: float = 1e-3
) -> TimestepSampler:
    """Draw timesteps in proportion to the root mean square of their latest losses.

    Uniform until every timestep has ``history`` losses (Nichol & Dhariwal 2021, arXiv:2102.09672,
    equation 18; DiffuSeq's ``lossaware``).

    Args:
        num_timesteps: T.
        history: H, how many losses of a timestep are remembered.
        uniform_prob: share of the probability that is spread evenly, in [0, 1).

    Raises:
        UserError: a value out of range.
    """
    _check_num_timesteps(num_timesteps)
    if history < 1:
        raise UserError(f"history={history}; at least one loss per timestep must be remembered")
    if not 0.0 <= uniform_prob < 1.0:
        raise UserError(f"uniform_prob={uniform_prob} must be at least 0 and below 1")

    def init() -> LossHistory:
        return LossHistory(
            losses=jnp.zeros((num_timesteps, history)),
            counts=jnp.zeros((num_timesteps,), jnp.int32),
        )

    def sample(key: jax.Array, state: LossHistory, batch_size: int) -> tuple[jax.Array, jax.Array]:
        probabilities = loss_aware_probabilities(state, uniform_prob)
        return _importance_sample(key, probabilities, batch_size)

    return TimestepSampler(init=init, sample=sample, update=_record)


def loss_aware_probabilities(state: LossHistory, uniform_prob: float) -> jax.Array:
    """Return the probability of drawing each timestep [T]."""
    num_timesteps, history = state.losses.shape
    root_mean_square = jnp.sqrt(jnp.mean(state.losses**2, axis=1))
    weights = root_mean_square / jnp.sum(root_mean_square)
    weights = weights * (1.0 - uniform_prob) + uniform_prob / num_timesteps
    is_warm = jnp.all(state.counts >= history)
    return jnp.where(is_warm, weights, 1.0 / num_timesteps)


def _record(state: LossHistory, t: jax.Array, losses: jax.Array) -> LossHistory:
    """Append losses in the order of the batch, as if they came one after the other."""
    check_shape("t", t, (None,))
    check_shape("losses", losses, t.shape)
    num_timesteps, history = state.losses.shape
    same = t[:, None] == t[None, :]
    num_earlier = jnp.sum(jnp.tril(same, -1), axis=1)
    num_later = jnp.sum(jnp.triu(same, 1), axis=1)
    column = (state.counts[t] + num_earlier) % history
    # What the same batch would push out again is sent out of bounds, where "drop" ignores it.
    row = jnp.where(num_later < history, t, num_timesteps)
    return LossHistory(
        losses=state.losses.at[row, column].set(losses.astype(state.losses.dtype), mode="drop"),
        counts=state.counts.at[t].add(1),
    )


def _importance_sample(
    key: jax.Array, probabilities: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    t = _invert(probabilities, jax.random.uniform(key, (batch_size,)))
    return t, 1.0 / (probabilities.shape[0] * probabilities[t])


def _invert(probabilities: jax.Array, points: jax.Array) -> jax.Array:
    """Map uniform points in [0, 1) to indices by the inverse cumulative distribution."""
    cumulative = jnp.cumsum(probabilities)
    t = jnp.searchsorted(cumulative / cumulative[-1], points, side="right")
    return jnp.minimum(t, probabilities.shape[0] - 1).astype(jnp.int32)


def _keep_state(state: Any, t: jax.Array, losses: jax.Array) -> Any:
    return state


def _check_num_timesteps(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise UserError(f"num_timesteps={num_timesteps} must be at least 1")


_SAMPLERS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": uniform,
    "stratified": stratified,
    "fixstep": fixstep,
    "loss_aware": loss_aware,
}
