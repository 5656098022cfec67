"""Several guides on one chain."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.types import Guidance, StepInfo, StepOutput


def for_rows(guide: Guidance, active: jax.Array) -> Guidance:
    """Return a guide that moves some rows of a batch and leaves the others as they are.

    Args:
        guide: any.
        active: bool [B], which rows it moves.
    """

    def apply(
        keys: jax.Array, x: jax.Array, state: Any, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, Any]:
        moved, state = guide.apply(keys, x, state, info, output)
        return jnp.where(active[:, None, None], moved, x), state

    return Guidance(guide.init, apply)


def in_turn(*guides: Guidance) -> Guidance:
    """Return a guide that lets each of several move the state, one after the other.

    Each sees the step's mean as the sampler made it, and the state as the one before left it.

    Args:
        guides: at least one. One alone is returned as it is.

    Raises:
        UserError: no guides.
    """
    if not guides:
        raise UserError("in_turn needs at least one guide")
    if len(guides) == 1:
        return guides[0]

    def init(x: jax.Array) -> Any:
        return tuple(guide.init(x) for guide in guides)

    def apply(
        keys: jax.Array, x: jax.Array, states: Any, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, Any]:
        moved = []
        for number, (guide, state) in enumerate(zip(guides, states)):
            own_keys = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            x, state = guide.apply(own_keys, x, state, info, output)
            moved.append(state)
        return x, tuple(moved)

    return Guidance(init, apply)
