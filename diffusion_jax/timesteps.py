"""Which timesteps a training batch sees, and the importance weights that keep its loss unbiased.

A sampler is three pure functions over a state (empty but for ``loss_aware`` and ``time_warp``), so
that the state can live in the training state and in checkpoints.

Noise-scale clipping (DINOISER, Ye et al. 2023, arXiv:2302.10025) is no sampler of its own: what any
of them draws from [0, T) is moved to [lowest, T) by ``clip_timesteps``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.adaptive import (
    PositionSchedules,
    init_position_schedules,
    levels,
    observe,
    to_noise_schedule,
)
from diffusion_jax.errors import UserError
from diffusion_jax.rounding import mean_neighbour_distance
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.types import check_shape


class TimestepSampler(NamedTuple):
    """Draw timesteps, and learn from the losses that they gave.

    Attributes:
        init: () -> state.
        sample: (key, state, B) -> timesteps int32 [B] and importance weights [B], float32 (float64
            where x64 is enabled). The mean of ``weight * loss`` estimates the mean over all
            timesteps.
        update: (state, t int32 [B], losses [B]) -> state; losses are unweighted totals.
        warp: (state, quantiles [N] in [0, 1]) -> times in [0, 1], float64 [N], strictly increasing,
            on the host: where a chain stands that steps through the sampler's own measure of time.
            None: through t.
        levels: (state, t [B], noise_mask bool [B, L]) -> alphas_cumprod float32 [B, L] of every
            position; None where all positions have that of t.
        observe: (state, t [B], losses [B, L], noise_mask [B, L]) -> state; with ``levels``.
        schedule: (state) -> the schedules that chains run on, tables [T, P]; with ``levels``.
    """

    init: Callable[[], Any]
    sample: Callable[[jax.Array, Any, int], tuple[jax.Array, jax.Array]]
    update: Callable[[Any, jax.Array, jax.Array], Any]
    warp: Callable[[Any, np.ndarray], np.ndarray] | None = None
    levels: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None
    observe: Callable[[Any, jax.Array, jax.Array, jax.Array], Any] | None = None
    schedule: Callable[[Any], NoiseSchedule] | None = None

    @property
    def learns_path(self) -> bool:
        """Whether chains must know the state: the steps that they take depend on it."""
        return self.warp is not None or self.schedule is not None


class LossHistory(NamedTuple):
    """The latest losses of every timestep.

    Attributes:
        losses: [T, H], a ring: the i-th loss ever seen at t lies in column ``i % H``.
        counts: int32 [T], how many losses were ever seen.
    """

    losses: jax.Array
    counts: jax.Array


class WarpState(NamedTuple):
    """The loss as a function of t, in bins of equal width; sums that forget.

    Attributes:
        losses: [K], weighted sum of the losses seen in each bin.
        weights: [K], sum of their weights.
    """

    losses: jax.Array
    weights: jax.Array


def make_timestep_sampler(name: str, num_timesteps: int) -> TimestepSampler:
    """Build a sampler by the name of its function here: ``uniform``, ``stratified``, ...

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
        points = _spread_points(key, batch_size)
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


def time_warp(
    num_timesteps: int, *, bins: int = 100, memory: int = 100, uniform_prob: float = 0.1
) -> TimestepSampler:
    """Draw timesteps so that the expected loss is linear in the drawn quantile.

    Time warping (Dieleman et al. 2022, arXiv:2211.15089, section 4.2): the density of t follows the
    slope of the loss. Here the loss is a running mean in bins, made monotone, where the paper fits
    a piecewise linear function by gradient descent. The draws are stratified. Weights are 1: the
    warped time, not t, is what the loss is averaged over.

    Args:
        num_timesteps: T.
        bins: K, pieces that [0, T) is cut into; at most T are used.
        memory: losses of one bin that are remembered, about: each one that is seen makes the older
            ones count ``1 - 1 / memory`` times as much.
        uniform_prob: share of the probability that is spread evenly, in (0, 1].

    Raises:
        UserError: a value out of range.
    """
    _check_num_timesteps(num_timesteps)
    if bins < 3 or num_timesteps < 3:
        raise UserError(f"time_warp needs 3 bins and timesteps, not {bins} and {num_timesteps}")
    if memory < 1 or not 0.0 < uniform_prob <= 1.0:
        raise UserError(
            f"memory={memory} must be at least 1 and uniform_prob={uniform_prob} in (0, 1]"
        )
    bins = min(bins, num_timesteps)

    def init() -> WarpState:
        return WarpState(losses=jnp.zeros((bins,)), weights=jnp.zeros((bins,)))

    def sample(key: jax.Array, state: WarpState, batch_size: int) -> tuple[jax.Array, jax.Array]:
        cumulative = warp_cumulative(state, uniform_prob)
        quantiles = _spread_points(key, batch_size)
        points = jnp.interp(quantiles, cumulative, jnp.linspace(0.0, 1.0, bins + 1))
        t = jnp.minimum((points * num_timesteps).astype(jnp.int32), num_timesteps - 1)
        return t, jnp.ones((batch_size,))

    def update(state: WarpState, t: jax.Array, losses: jax.Array) -> WarpState:
        inside = (bins * t // num_timesteps)[:, None] == jnp.arange(bins)[None, :]
        counts = jnp.sum(inside, axis=0)
        kept = (1.0 - 1.0 / memory) ** counts
        seen = jnp.sum(jnp.where(inside, losses[:, None], 0.0), axis=0)
        return WarpState(state.losses * kept + seen, state.weights * kept + counts)

    def warp(state: WarpState, quantiles: np.ndarray) -> np.ndarray:
        cumulative = np.asarray(warp_cumulative(state, uniform_prob), np.float64)
        return np.interp(quantiles, cumulative, np.linspace(0.0, 1.0, bins + 1))

    return TimestepSampler(init, sample, update, warp)


class AdaptiveState(NamedTuple):
    """A sampler's own state, and the schedules of the positions."""

    sampler: Any
    positions: PositionSchedules


def adaptive_positions(
    sampler: TimestepSampler, schedule: NoiseSchedule, positions: int, *, adapt_every: int
) -> TimestepSampler:
    """Give a sampler learned noise schedules per position, see ``adaptive``.

    Args:
        sampler: draws t; one without ``warp``.
        schedule: the named schedule, where all positions start.
        positions: P, the most positions of a target.
        adapt_every: stride of the updates in training steps (published: 20,000).
    """

    def init() -> AdaptiveState:
        return AdaptiveState(sampler.init(), init_position_schedules(schedule, positions))

    def sample(key: jax.Array, state: AdaptiveState, batch_size: int):
        return sampler.sample(key, state.sampler, batch_size)

    def update(state: AdaptiveState, t: jax.Array, losses: jax.Array) -> AdaptiveState:
        return state._replace(sampler=sampler.update(state.sampler, t, losses))

    def learn(
        state: AdaptiveState, t: jax.Array, losses: jax.Array, noise_mask: jax.Array
    ) -> AdaptiveState:
        moved = observe(state.positions, t, losses, noise_mask, adapt_every=adapt_every)
        return state._replace(positions=moved)

    return TimestepSampler(
        init,
        sample,
        update,
        levels=lambda state, t, noise_mask: levels(state.positions, t, noise_mask),
        observe=learn,
        schedule=lambda state: to_noise_schedule(state.positions, schedule),
    )


def warp_cumulative(state: WarpState, uniform_prob: float) -> jax.Array:
    """Return the distribution function of t at the edges of the bins, [K + 1], from 0 to 1.

    It is uniform until every bin has seen a loss.
    """
    mean = jax.lax.cummax(state.losses / jnp.maximum(state.weights, 1e-6))
    # The loss at the edges: half-way between neighbours, and as far beyond the outer bins.
    inner = 0.5 * (mean[:-1] + mean[1:])
    edges = jnp.concatenate([2 * mean[:1] - inner[:1], inner, 2 * mean[-1:] - inner[-1:]])
    rise = jnp.diff(edges)
    bins = rise.shape[0]
    total = jnp.sum(rise)
    known = jnp.all(state.weights > 0) & (total > 0)
    share = jnp.where(known, rise / jnp.maximum(total, 1e-12), 1.0 / bins)
    cumulative = jnp.cumsum(share * (1.0 - uniform_prob) + uniform_prob / bins)
    return jnp.concatenate([jnp.zeros((1,)), cumulative / cumulative[-1]])


def clip_timesteps(t: jax.Array, lowest: jax.Array | int, num_timesteps: int) -> jax.Array:
    """Move timesteps int32 [B] from [0, T) to [lowest, T), monotonically."""
    lowest = jnp.asarray(lowest, jnp.int32)
    share = (num_timesteps - lowest) / num_timesteps
    moved = lowest + jnp.floor(t * share).astype(jnp.int32)
    return jnp.minimum(moved, num_timesteps - 1)


def lowest_timestep(schedule: NoiseSchedule, embedding: jax.Array) -> jax.Array:
    """Return the first timestep whose noise reaches from an embedding to its neighbours, int32.

    That is where (1 - alphas_cumprod) / alphas_cumprod, the noise variance of a coordinate relative
    to the signal, reaches the mean squared distance of nearest neighbours divided by E (DINOISER,
    arXiv:2302.10025, section 4.1). Below it, which word a vector was is told by the vector alone.

    Args:
        schedule: tables of shape [T].
        embedding: float32 [V, E]. No gradient flows to it.
    """
    variance = mean_neighbour_distance(embedding) / embedding.shape[1]
    ratio = schedule.one_minus_alphas_cumprod / schedule.alphas_cumprod
    t = jnp.searchsorted(jnp.asarray(ratio, jnp.float32), variance)
    # A schedule must be left, however far apart the words are.
    return jnp.minimum(t, schedule.num_timesteps - 2).astype(jnp.int32)


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


def _spread_points(key: jax.Array, batch_size: int) -> jax.Array:
    """Return B points evenly spread over [0, 1), shifted by one uniform draw."""
    return (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0


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
    "time_warp": time_warp,
}
