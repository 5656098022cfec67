"""What is wanted of a sample: an objective, and how a plain log-probability becomes one."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.types import DenoiseFn, LogProbFn, StepInfo, StepOutput, check_shape

AnchorFn = Callable[[jax.Array], jax.Array]
"""x [B, L, E] -> x with the given positions put back; the ``Anchor`` of the samplers is one."""


class Objective(Protocol):
    """Say how well a candidate for the next state fits what is wanted, differentiably in ``x``.

    ``x`` is float32 [B, L, E], a candidate for the state at ``info.t_prev``; ``info`` and
    ``output`` describe the sampler's step that led there. Returns float32 [B], nats where the
    objective is a log-probability. Row b must depend on ``x[b]`` alone.
    """

    def __call__(self, x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        """Return one value per example."""
        ...


def on_latent(log_prob: LogProbFn) -> Objective:
    """Score the noisy state itself, as a noise-aware classifier does (Li et al. 2022, eq. 4).

    Args:
        log_prob: told the time label of the state, one step lower than the denoiser was.
    """

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        return log_prob(x, _labels(x, info.time_prev))

    return objective


def on_estimate(
    log_prob: LogProbFn,
    denoise: DenoiseFn,
    *,
    self_condition: bool = False,
    tell_time: bool = False,
) -> Objective:
    """Score the estimate of ``x_start`` and differentiate through the denoiser.

    Args:
        log_prob: of the estimate, and of a time label.
        denoise: the network of the chain.
        self_condition: give the network the estimate that the step used (after clamping).
        tell_time: tell ``log_prob`` the label of the state that the estimate is of, as a classifier
            of estimates wants; else 0, that of the least noisy state.
    """

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        pred_x_start = estimate(x, info.time_prev, output, denoise, self_condition)
        return log_prob(pred_x_start, _labels(x, info.time_prev if tell_time else 0.0))

    return objective


def weighted_sum(*terms: tuple[float, Objective]) -> Objective:
    """Return ``sum(weight * objective)``: independent wishes, composed.

    Args:
        terms: pairs (weight, objective), at least one.

    Raises:
        UserError: no terms.
    """
    if not terms:
        raise UserError("weighted_sum needs at least one pair (weight, objective)")

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        total = jnp.zeros(x.shape[:1])
        for weight, term in terms:
            total = total + weight * checked_values(term, x, info, output)
        return total

    return objective


def estimate(
    x: jax.Array, time: jax.Array, output: StepOutput, denoise: DenoiseFn, self_condition: bool
) -> jax.Array:
    """Return the estimate of ``x_start`` [B, L, E] at ``x``, with the scalar label ``time``."""
    self_cond = output.pred_x_start if self_condition else None
    return denoise(x, _labels(x, time), self_cond).astype(jnp.float32)


def objective_gradient(
    objective: Objective, x: jax.Array, info: StepInfo, output: StepOutput
) -> jax.Array:
    """Return the gradient of every example's value with respect to its own ``x``, [B, L, E]."""
    return jax.grad(lambda x: jnp.sum(checked_values(objective, x, info, output)))(x)


def checked_values(
    objective: Objective, x: jax.Array, info: StepInfo, output: StepOutput
) -> jax.Array:
    """Return ``objective(x, info, output)``; ValueError unless it is one value per example [B]."""
    values = objective(x, info, output)
    check_shape("the objective's result", values, x.shape[:1])
    return values


def check_window(min_t: int | None, max_t: int | None) -> None:
    """Raise UserError for a window of steps that holds none."""
    if min_t is not None and max_t is not None and min_t > max_t:
        raise UserError(f"guidance needs min_t <= max_t, not {min_t} and {max_t}")


def inside_window(info: StepInfo, min_t: int | None, max_t: int | None) -> jax.Array:
    """Return whether ``min_t <= info.t <= max_t``, a bool scalar; None is no bound."""
    inside = jnp.ones((), bool)
    if min_t is not None:
        inside &= info.t >= min_t
    if max_t is not None:
        inside &= info.t <= max_t
    return inside


def _labels(x: jax.Array, time: jax.Array | float) -> jax.Array:
    return jnp.full(x.shape[:1], time, jnp.float32)
