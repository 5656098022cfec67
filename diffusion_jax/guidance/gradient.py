"""Classifier guidance without an optimiser (Dhariwal and Nichol 2021, algorithm 1).

    x_prev <- x_prev + scale * sigma^2 * grad log p(c | x) at x = mean

With scale 1 and the exact log p(c | x_t), the chain samples p(x_start | c) as its steps grow
finer. It shifts by the variance of the step, so it does nothing where a step adds no noise.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.guidance.base import (
    AnchorFn,
    Objective,
    check_window,
    inside_window,
    objective_gradient,
)
from diffusion_jax.types import Guidance, StepInfo, StepOutput


def gradient_guidance(
    objective: Objective,
    *,
    scale: float = 1.0,
    min_t: int | None = None,
    max_t: int | None = None,
    anchor: AnchorFn | None = None,
) -> Guidance:
    """Return the guide of Dhariwal and Nichol, for samplers that draw noise.

    Args:
        objective: log p(c | x) in nats.
        scale: factor of the gradient; 1 aims at the posterior, more sharpens it.
        min_t: lowest index t of a step that is guided, None for no bound.
        max_t: highest such index.
        anchor: positions that the chain keeps, the same value as is given to the driver.

    Raises:
        UserError: an argument out of range.
    """
    if not scale >= 0:
        raise UserError(f"scale={scale} is not allowed; use a number from 0")
    check_window(min_t, max_t)

    def init(x: jax.Array) -> Any:
        return ()

    def held_objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        return objective(x if anchor is None else anchor(x), info, output)

    def apply(
        keys: jax.Array, x: jax.Array, state: Any, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, Any]:
        def guide(x: jax.Array) -> jax.Array:
            gradient = objective_gradient(held_objective, output.mean, info, output)
            return x + scale * jnp.square(output.sigma) * gradient

        return jax.lax.cond(inside_window(info, min_t, max_t), guide, lambda x: x, x), state

    return Guidance(init, apply)
