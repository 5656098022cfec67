"""Classifier-free guidance (Ho and Salimans 2022, eq. 6), as a denoiser made of two."""

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.types import DenoiseFn


def classifier_free(conditional: DenoiseFn, unconditional: DenoiseFn, scale: float) -> DenoiseFn:
    """Return ``unconditional + scale * (conditional - unconditional)``, in ``x_start``.

    The estimate of the noise is affine in that of ``x_start`` at a fixed x_t, so mixing either is
    the same. Being a denoiser, the mixture goes with any sampler and with any guide.

    Args:
        conditional: the network told the condition.
        unconditional: the network told nothing.
        scale: 0 ignores the condition, 1 is the conditional network, more exaggerates it
            (``1 + w`` of the paper).

    Raises:
        UserError: a negative scale.
    """
    if not scale >= 0:
        raise UserError(f"scale={scale} is not allowed; use a number from 0")

    def denoise(x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None) -> jax.Array:
        base = unconditional(x_t, time, self_cond)
        return base + scale * (conditional(x_t, time, self_cond) - base)

    return denoise
