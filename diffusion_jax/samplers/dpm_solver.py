"""DPM-Solver++: fast solvers of the diffusion ODE (Lu et al. 2022, arXiv:2211.01095).

Write alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma), and for a
step from s to t  h = lambda_t - lambda_s. The exact solution with an estimate m of x_start is

    x_t = sigma_t / sigma_s x_s + alpha_t int_0^h e^{u - h} m(lambda_s + u) du

and the solvers replace m by a polynomial through known estimates. With a constant it is DDIM
(order 1). **Multistep** solvers take it through the estimates of earlier steps, one network call a
step, with lower orders until there are enough of them (algorithm 2 and the third order of the
authors' code). **Singlestep** solvers make two or three calls between s and t (algorithm 1 and its
third order); on a ``singlestep_grid`` each call is a step of the driver, the inner ones going to an
intermediate state, so that clamp, anchor, self-conditioning and guidance act at every call.

How many earlier estimates a step uses is ``StepInfo.history``. The step to clean data is of order
1: it returns the estimate itself.

The differences 1 - e^{-h} and h come from ``beta`` and ``1 - alpha_bar``, which the grid has formed
in float64, as float32 loses them where alpha_bar is close to 0 or 1.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.samplers.base import Sampler
from diffusion_jax.samplers.grid import check_order
from diffusion_jax.types import StepInfo, StepOutput

Method = Literal["multistep", "singlestep"]
SecondOrder = Literal["midpoint", "taylor"]


def dpm_solver(
    *,
    order: int = 2,
    method: Method = "multistep",
    second_order: SecondOrder = "midpoint",
    faithful_v2: bool = False,
) -> Sampler:
    """Return a DPM-Solver++ sampler.

    Args:
        order: 1, 2 or 3.
        method: ``"multistep"`` on any grid, ``"singlestep"`` on a ``singlestep_grid`` of the same
            order.
        second_order: which of two formulas of order 2: the published one, or the one that
            integrates the line exactly (``solver_type="taylor"`` in the authors' code).
        faithful_v2: as DiffuSeq-v2 runs it, on ``diffuseq_v2_grid``: the state is replaced by the
            estimate before every update, which refines estimates and solves no ODE. For published
            numbers only.

    Raises:
        UserError: an argument that is not allowed, or that another one excludes.
    """
    check_order(order)
    for name, value, allowed in (
        ("method", method, get_args(Method)),
        ("second_order", second_order, get_args(SecondOrder)),
    ):
        if value not in allowed:
            raise UserError(f"unknown {name} {value!r}; use one of {', '.join(allowed)}")
    if order != 2 and second_order != "midpoint":
        raise UserError(f"second_order={second_order!r} has no effect on order={order}")
    if method == "multistep":
        return _multistep(order, second_order, faithful_v2)
    if faithful_v2:
        raise UserError("faithful_v2 is the published multistep solver; use method='multistep'")
    return _singlestep(order, second_order)


class MultistepState(NamedTuple):
    """The state of a multistep solver.

    Attributes:
        x_t: float32 [B, L, E], the latent.
        estimates: ``order - 1`` estimates of x_start [B, L, E], newest first; zeros before there
            are any.
        spans: the lengths h of the steps that began there, float32 scalars.
    """

    x_t: jax.Array
    estimates: tuple[jax.Array, ...]
    spans: tuple[jax.Array, ...]


class SinglestepState(NamedTuple):
    """The state of a singlestep solver.

    Attributes:
        x_t: float32 [B, L, E], the latent: inside a block, the intermediate one.
        x_block: float32 [B, L, E], the latent at the start of the block.
        estimate: float32 [B, L, E], the estimate made there.
        noise: float32 scalar, 1 - alpha_bar there.
        span: float32 scalar, lambda from there to ``x_t``.
    """

    x_t: jax.Array
    x_block: jax.Array
    estimate: jax.Array
    noise: jax.Array
    span: jax.Array


def _multistep(order: int, second_order: SecondOrder, faithful_v2: bool) -> Sampler:
    def init(x: jax.Array) -> MultistepState:
        # Spans of 1, not 0: steps that may not use them yet still divide by them.
        count = order - 1
        return MultistepState(x, (jnp.zeros_like(x),) * count, (jnp.ones(()),) * count)

    def step(
        state: MultistepState, pred_x_start: jax.Array, info: StepInfo, noise: jax.Array | None
    ) -> tuple[MultistepState, StepOutput]:
        x_t = pred_x_start if faithful_v2 else state.x_t
        history = jnp.minimum(info.history, order - 1)
        span = _span(info)
        # Infinite at the step to clean data, which uses no history.
        h = jnp.where(history > 0, span, 1.0)
        estimates, spans = (pred_x_start, *state.estimates), (span, *state.spans)
        slopes = [
            (newer - older) * (h / length)
            for newer, older, length in zip(estimates, estimates[1:], spans[1:])
        ]
        weights = _slope_weights(h, [length / h for length in spans[1:]], history, second_order)
        mean = _kept_noise(info) * x_t + _share_of_estimate(info) * pred_x_start
        for weight, slope in zip(weights, slopes):
            mean = mean + jnp.sqrt(info.alpha_bar_prev) * weight * slope
        state = MultistepState(mean, estimates[:-1], spans[:-1])
        return state, StepOutput(pred_x_start, mean, jnp.zeros(()))

    return Sampler(init=init, step=step, needs_noise=False)


def _slope_weights(
    h: jax.Array, ratios: list[jax.Array], history: jax.Array, second_order: SecondOrder
) -> list[jax.Array]:
    """Return the factors of the slopes (m_0 - m_1) / r_0 and (m_1 - m_2) / r_1, over alpha_t."""
    if not ratios:
        return []
    phi_1, phi_2, phi_3 = _phi(h)
    second = 0.5 * phi_1 if second_order == "midpoint" else phi_2
    if len(ratios) == 1:
        return [jnp.where(history > 0, second, 0.0)]
    # The slope at s, and the curvature, of the parabola through three estimates.
    share, width = ratios[0] / (ratios[0] + ratios[1]), ratios[0] + ratios[1]
    curved = phi_2 * share + phi_3 / width
    newer = jnp.where(history > 1, phi_2 + curved, second)
    return [jnp.where(history > 0, newer, 0.0), jnp.where(history > 1, -curved, 0.0)]


def _singlestep(order: int, second_order: SecondOrder) -> Sampler:
    def init(x: jax.Array) -> SinglestepState:
        return SinglestepState(x, x, x, jnp.ones(()), jnp.ones(()))

    def step(
        state: SinglestepState, pred_x_start: jax.Array, info: StepInfo, noise: jax.Array | None
    ) -> tuple[SinglestepState, StepOutput]:
        begins = info.history == 0
        x_block = jnp.where(begins, state.x_t, state.x_block)
        estimate = jnp.where(begins, pred_x_start, state.estimate)
        block_noise = jnp.where(begins, info.one_minus_alpha_bar, state.noise)
        travelled = jnp.where(begins, 0.0, state.span)
        span = travelled + _span(info)
        share = -jnp.expm1(-span)
        h = jnp.where(begins, 1.0, span)
        phi_1, phi_2, _ = _phi(h)
        # In blocks of three the intermediate state must be exact for a line.
        weight = 0.5 * phi_1 if order == 2 and second_order == "midpoint" else phi_2
        weight = jnp.where(begins, 0.0, weight * h / jnp.where(begins, 1.0, travelled))
        mean = (
            jnp.sqrt(info.one_minus_alpha_bar_prev / block_noise) * x_block
            + jnp.sqrt(info.alpha_bar_prev) * share * estimate
            + jnp.sqrt(info.alpha_bar_prev) * weight * (pred_x_start - estimate)
        )
        state = SinglestepState(mean, x_block, estimate, block_noise, span)
        return state, StepOutput(pred_x_start, mean, jnp.zeros(()))

    def check_grid(grid: StepInfo) -> None:
        history = np.asarray(grid.history)
        follows = np.append(0, history[:-1] + 1)
        if np.any((history != 0) & (history != follows)) or history.max() >= order:
            raise UserError(
                f"a singlestep solver of order {order} needs a grid of blocks; build it with "
                f"singlestep_grid(schedule, num_steps, order={order})"
            )

    return Sampler(init=init, step=step, needs_noise=False, check_grid=check_grid)


def _kept_noise(info: StepInfo) -> jax.Array:
    """Return sigma_t / sigma_s."""
    return jnp.sqrt(info.one_minus_alpha_bar_prev / info.one_minus_alpha_bar)


def _decay(info: StepInfo) -> tuple[jax.Array, jax.Array]:
    """Return e^{-2h} and 1 - e^{-2h}, neither as a difference from 1."""
    ratio = info.alpha_bar / info.alpha_bar_prev
    kept = ratio * info.one_minus_alpha_bar_prev / info.one_minus_alpha_bar
    return kept, info.beta / info.one_minus_alpha_bar


def _share_of_estimate(info: StepInfo) -> jax.Array:
    """Return alpha_t (1 - e^{-h})."""
    kept, lost = _decay(info)
    return jnp.sqrt(info.alpha_bar_prev) * lost / (1.0 + jnp.sqrt(kept))


def _span(info: StepInfo) -> jax.Array:
    """Return h, infinite at a step to clean data."""
    kept, lost = _decay(info)
    near = jnp.log1p(-jnp.minimum(lost, 0.5))
    return -0.5 * jnp.where(lost < 0.5, near, jnp.log(kept))


def _phi(h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the integrals of e^{u-h} u^k / (k! h^k) over [0, h] for k = 0, 1, 2.

    The formulas of the last two cancel for small h, where series take their place.
    """
    phi_1 = -jnp.expm1(-h)
    small = jnp.abs(h) < 0.2
    safe = jnp.where(small, 1.0, h)
    series_2 = h / 2 * (1 - h / 3 * (1 - h / 4 * (1 - h / 5 * (1 - h / 6))))
    series_3 = h / 6 * (1 - h / 4 * (1 - h / 5 * (1 - h / 6)))
    phi_2 = jnp.where(small, series_2, 1.0 - phi_1 / safe)
    phi_3 = jnp.where(small, series_3, 0.5 - phi_2 / safe)
    return phi_1, phi_2, phi_3
