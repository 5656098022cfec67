"""Control by gradient steps on every intermediate latent (Li et al. 2022, section 5.1).

After every sampler step, K Adagrad updates (Duchi et al. 2011) of the new state x climb

    log p(c | x) - fluency_weight * sum((x - mean)^2) / sigma

where ``mean`` and ``sigma`` are those of the step: the second term keeps x where the diffusion
model expects it, which is what keeps the text fluent. It divides by sigma, not by sigma^2, as the
published program does.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.guidance.base import (
    AnchorFn,
    Objective,
    check_window,
    checked_values,
    inside_window,
    objective_gradient,
)
from diffusion_jax.keys import per_example_normal
from diffusion_jax.types import Guidance, StepInfo, StepOutput

Reset = Literal["update", "step", "never"]

# PyTorch's: the accumulator starts at 0 and this is added outside the root. With the usual
# defaults of JAX libraries (0.1, inside) a first step would be hundreds of times shorter.
_EPS = 1e-10


def adagrad_guidance(
    objective: Objective,
    *,
    learning_rate: float = 0.1,
    num_updates: int = 3,
    fluency_weight: float = 0.01,
    reset: Reset = "update",
    min_t: int | None = 10,
    max_t: int | None = None,
    noise_scale: float = 0.0,
    anchor: AnchorFn | None = None,
) -> Guidance:
    """Return a guide that moves every state by Adagrad, for any sampler.

    Args:
        objective: what is wanted; ``on_latent(log_prob)``, ``on_estimate(log_prob, denoise)``, ...
        learning_rate: Adagrad's step size.
        num_updates: K, updates per diffusion step; 0 is no guidance.
        fluency_weight: weight of the pull toward the step's mean. Published: 0.01 for attributes
            and lengths, 1e-4 for parts of speech, 5e-4 for trees, 0.1 for spans.
        reset: when the sum of squared gradients starts again from 0: before every ``"update"``
            (the published program; every coordinate then moves by ``learning_rate`` in the
            direction of its gradient's sign), before every diffusion ``"step"`` (the paper), or
            ``"never"`` within a chain.
        min_t: lowest index t of a step that is guided, None for no bound. Published: 10 of T=200;
            it is an index of the schedule, so scale it with T.
        max_t: highest such index.
        noise_scale: Langevin noise after every update, in units of the step's sigma. Published: 0.
        anchor: positions that the chain keeps, the same value as is given to the driver. The
            objective then sees them as they will be, and the updates leave them alone.

    Returns:
        A Guidance. An example is moved by its own objective alone, whatever else is in the batch.

    Raises:
        UserError: an argument out of range.
    """
    _check(learning_rate, num_updates, fluency_weight, reset, noise_scale)
    check_window(min_t, max_t)

    def init(x: jax.Array) -> Any:
        return jnp.zeros_like(x) if reset == "never" else ()

    def target(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        held = x if anchor is None else anchor(x)
        wanted = checked_values(objective, held, info, output)
        return wanted - fluency_weight * fluency_penalty(held, output)

    def apply(
        keys: jax.Array, x: jax.Array, state: Any, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, Any]:
        if num_updates == 0:
            return x, state

        def update(index: jax.Array, carry: tuple[jax.Array, jax.Array]):
            x, accumulator = carry
            gradient = objective_gradient(target, x, info, output)
            if reset == "update":
                accumulator = jnp.zeros_like(x)
            x, accumulator = adagrad_update(x, accumulator, gradient, learning_rate)
            if noise_scale > 0:
                noise = per_example_normal(keys, index, x.shape[1:])
                x = x + noise_scale * output.sigma * noise
            return x, accumulator

        def guide(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            accumulator = state if reset == "never" else jnp.zeros_like(x)
            x, accumulator = jax.lax.fori_loop(0, num_updates, update, (x, accumulator))
            return x, accumulator if reset == "never" else ()

        def leave(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            return x, state

        # A conditional, so that steps outside the window do not pay for gradients.
        return jax.lax.cond(inside_window(info, min_t, max_t), guide, leave, x, state)

    return Guidance(init, apply)


def adagrad_update(
    x: jax.Array, accumulator: jax.Array, gradient: jax.Array, learning_rate: float
) -> tuple[jax.Array, jax.Array]:
    """Climb one step: ``a += g^2; x += learning_rate * g / (sqrt(a) + 1e-10)``, as PyTorch does.

    Returns:
        The new ``x`` and accumulator, of the shape of ``x``.
    """
    accumulator = accumulator + jnp.square(gradient)
    return x + learning_rate * gradient / (jnp.sqrt(accumulator) + _EPS), accumulator


def fluency_penalty(x: jax.Array, output: StepOutput) -> jax.Array:
    """Return ``sum((x - mean)^2) / sigma`` per example [B], with 1 for a sigma of 0."""
    sigma = jnp.where(output.sigma == 0, 1.0, output.sigma)
    return jnp.sum(jnp.square(x - output.mean) / sigma, axis=(1, 2))


def _check(
    learning_rate: float, num_updates: int, fluency_weight: float, reset: str, noise_scale: float
) -> None:
    if not learning_rate > 0:
        raise UserError(f"learning_rate={learning_rate} is not allowed; use a positive number")
    if isinstance(num_updates, bool) or not isinstance(num_updates, int) or num_updates < 0:
        raise UserError(f"num_updates={num_updates!r} is not allowed; use an integer from 0")
    if not fluency_weight >= 0:
        raise UserError(f"fluency_weight={fluency_weight} is not allowed; use a number from 0")
    if reset not in get_args(Reset):
        raise UserError(f"unknown reset {reset!r}; use one of {', '.join(get_args(Reset))}")
    if not noise_scale >= 0:
        raise UserError(f"noise_scale={noise_scale} is not allowed; use a number from 0")
