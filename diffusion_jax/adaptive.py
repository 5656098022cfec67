"""A noise schedule of its own for every position of the target, learned while training.

SeqDiffuSeq (Yuan et al. 2022, arXiv:2212.10325, section 3.3): from time to time the schedule of a
position is moved so that the loss of that position, as it was measured, rises linearly with t.
Positions count from the start of the target; position 0 is START and keeps the named schedule.

Dimensions: B batch, L length, P positions, T timesteps, K bins of t.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.schedules import NoiseSchedule, schedule_from_betas
from diffusion_jax.types import check_shape

BINS = 100
# As published: no update before this many times the stride, and the least rise of loss per bin.
_FIRST_UPDATE = 3
_LEAST_RISE = 1e-5


class PositionSchedules(NamedTuple):
    """The schedules, and the losses since they were last moved.

    Attributes:
        alphas_cumprod: float32 [T, P].
        losses: float32 [K, P], summed.
        counts: float32 [K, P], how many were summed.
        steps: int32 scalar, training steps seen.
    """

    alphas_cumprod: jax.Array
    losses: jax.Array
    counts: jax.Array
    steps: jax.Array


def init_position_schedules(schedule: NoiseSchedule, positions: int) -> PositionSchedules:
    """Give every position the named schedule, and a first guess of losses that rise with t."""
    table = jnp.asarray(schedule.alphas_cumprod, jnp.float32)
    losses, counts = _empty_history(min(BINS, schedule.num_timesteps), positions)
    return PositionSchedules(
        jnp.broadcast_to(table[:, None], (table.shape[0], positions)),
        losses,
        counts,
        jnp.zeros((), jnp.int32),
    )


def positions_in_target(noise_mask: jax.Array) -> jax.Array:
    """Return each position's place in the target, int32 [B, L]; 0 before it.

    Args:
        noise_mask: bool [B, L], the first True of a row is where its target starts.
    """
    check_shape("noise_mask", noise_mask, (None, None))
    start = jnp.argmax(noise_mask, axis=-1)
    return jnp.maximum(jnp.arange(noise_mask.shape[1])[None, :] - start[:, None], 0)


def levels(state: PositionSchedules, t: jax.Array, noise_mask: jax.Array) -> jax.Array:
    """Return the share of signal variance at every position, float32 [B, L].

    Args:
        state: the schedules.
        t: int32 [B].
        noise_mask: bool [B, L].
    """
    return state.alphas_cumprod[t[:, None], positions_in_target(noise_mask)]


def observe(
    state: PositionSchedules,
    t: jax.Array,
    losses: jax.Array,
    noise_mask: jax.Array,
    *,
    adapt_every: int,
) -> PositionSchedules:
    """Record the losses of one training step, and move the schedules where that is due.

    Args:
        state: what was known before.
        t: int32 [B].
        losses: float32 [B, L], of every position.
        noise_mask: bool [B, L]; given positions are not counted.
        adapt_every: stride of the updates in training steps; the first comes after three strides.
    """
    check_shape("losses", losses, noise_mask.shape)
    bins, _ = state.losses.shape
    row = (bins * t // state.alphas_cumprod.shape[0])[:, None]
    column = positions_in_target(noise_mask)
    counted = noise_mask.astype(jnp.float32)
    seen = state._replace(
        losses=state.losses.at[row, column].add(losses * counted),
        counts=state.counts.at[row, column].add(counted),
        steps=state.steps + 1,
    )
    due = (seen.steps >= _FIRST_UPDATE * adapt_every) & (seen.steps % adapt_every == 0)
    return jax.lax.cond(due, _moved, lambda state: state, seen)


def _moved(state: PositionSchedules) -> PositionSchedules:
    """Return schedules along which the measured losses rise linearly, and an empty history."""
    table = state.alphas_cumprod
    num_timesteps, positions = table.shape
    bins = state.losses.shape[0]
    # Strictly rising, so that it can be inverted.
    ramp = _LEAST_RISE * jnp.arange(bins)[:, None]
    mean = jax.lax.cummax(state.losses / state.counts - ramp, axis=0) + ramp
    first = mean[:1] - 0.5 * (mean[1:2] - mean[:1])
    last = mean[-1:] + 0.5 * (mean[-1:] - mean[-2:-1])
    knots = jnp.concatenate([first, mean, last])
    ends = jnp.ones((2, positions)) * jnp.stack([jnp.max(table), jnp.min(table)])[:, None]
    values = jnp.concatenate([ends[:1], _bin_means(table, bins), ends[1:]])

    def moved_column(knots: jax.Array, values: jax.Array) -> jax.Array:
        points = jnp.linspace(knots[0] - _LEAST_RISE, knots[-1] + _LEAST_RISE, num_timesteps)
        return jnp.interp(points, knots, values)

    moved = jax.vmap(moved_column, in_axes=1, out_axes=1)(knots, values)
    losses, counts = _empty_history(bins, positions)
    return PositionSchedules(moved.at[:, 0].set(table[:, 0]), losses, counts, state.steps)


def _bin_means(table: jax.Array, bins: int) -> jax.Array:
    """Average [T, P] over the timesteps of every bin: [K, P]."""
    num_timesteps = table.shape[0]
    bin_of_t = bins * jnp.arange(num_timesteps) // num_timesteps
    member = (bin_of_t[None, :] == jnp.arange(bins)[:, None]).astype(table.dtype)
    return (member @ table) / jnp.sum(member, axis=1, keepdims=True)


def _empty_history(bins: int, positions: int) -> tuple[jax.Array, jax.Array]:
    guess = jnp.linspace(0.0, 0.5, bins)[:, None]
    return jnp.broadcast_to(guess, (bins, positions)), jnp.ones((bins, positions))


def to_noise_schedule(state: PositionSchedules, named: NoiseSchedule) -> NoiseSchedule:
    """Return the schedules as tables [T, P] on the host; the time labels are the named one's."""
    alphas_cumprod = np.asarray(state.alphas_cumprod, np.float64)
    # Noise must grow at every step, also where float32 saw none.
    falls = np.cumsum(np.full_like(alphas_cumprod, -1e-7), axis=0)
    alphas_cumprod = np.exp(np.minimum.accumulate(np.log(alphas_cumprod) - falls) + falls)
    previous = np.concatenate([np.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    return schedule_from_betas(1.0 - alphas_cumprod / previous, named.model_timesteps)
