"""What the driver does to estimates and states beside the sampler: clamp and anchor."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.rounding import VOCAB_BLOCK, nearest_embedding
from diffusion_jax.types import StepInfo, XStartTransform


def clamp_to_embeddings(
    embedding: jax.Array,
    *,
    min_t: int | None = None,
    max_t: int | None = None,
    block: int = VOCAB_BLOCK,
) -> XStartTransform:
    """Return the clamping trick: replace every estimated vector by its nearest embedding.

    Diffusion-LM, section 4.2 (Li et al. 2022). It acts where ``min_t <= t <= max_t``. DiffuSeq's
    ``clamp_first=True`` with ``clamp_step=a`` is ``min_t=a`` (the first steps of the chain), and
    ``clamp_first=False`` is ``max_t=a`` (the last ones).

    Args:
        embedding: float32 [V, E].
        min_t: lowest index t at which to clamp; None means no lower bound.
        max_t: highest such index; None means no upper bound.
        block: how many vocabulary rows are compared at a time, see ``nearest_embedding``.

    Raises:
        UserError: an empty window.
    """
    if min_t is not None and max_t is not None and min_t > max_t:
        raise UserError(f"clamping needs min_t <= max_t, not {min_t} and {max_t}")

    def nearest(pred_x_start: jax.Array) -> jax.Array:
        return nearest_embedding(pred_x_start, embedding, block=block)[1]

    def clamp(pred_x_start: jax.Array, info: StepInfo) -> jax.Array:
        if min_t is None and max_t is None:
            return nearest(pred_x_start)
        inside = jnp.ones((), bool)
        if min_t is not None:
            inside &= info.t >= min_t
        if max_t is not None:
            inside &= info.t <= max_t
        # A conditional, so that steps outside the window do not pay for the search.
        return jax.lax.cond(inside, nearest, lambda x: x, pred_x_start)

    return clamp


class Anchor(NamedTuple):
    """Positions that are given: the source of a pair, the known words of an infilling.

    Attributes:
        x_start: float32 [B, L, E], the clean embeddings to keep.
        noise_mask: bool [B, L], True where the chain generates, False where ``x_start`` is kept.
    """

    x_start: jax.Array
    noise_mask: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x`` [B, L, E] with the given positions put back."""
        return jnp.where(self.noise_mask[..., None], x, self.x_start)
