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


def in_turn(*guides: Guidance | None) -> Guidance:
    """Return a guide that lets each of several move the state, one after the other.

    Each sees the step's mean as the sampler made it, and the state as the one before left it.

    Args:
        guides: at least one. Their random numbers depend on their places, so that None can hold
            the place of one that is not needed this time.

    Raises:
        UserError: no guides.
    """
    present = [(number, guide) for number, guide in enumerate(guides) if guide is not None]
    if not present:
        raise UserError("in_turn needs at least one guide")

    def init(x: jax.Array) -> Any:
        return tuple(guide.init(x) for _, guide in present)

    def apply(
        keys: jax.Array, x: jax.Array, states: Any, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, Any]:
        moved = []
        for (number, guide), state in zip(present, states):
            own_keys = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            x, state = guide.apply(own_keys, x, state, info, output)
            moved.append(state)
        return x, tuple(moved)

    return Guidance(init, apply)
