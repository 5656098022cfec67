"""Training losses: one function per term, and compositions that read like the papers."""

from diffusion_jax.losses.bound import prediction_nll_loss, variational_loss
from diffusion_jax.losses.diffusion import diffusion_loss
from diffusion_jax.losses.posterior import cross_entropy_loss
from diffusion_jax.losses.terms import (
    BoundTerms,
    ByPosition,
    Draws,
    LossTerms,
    PosteriorTerms,
    gaussian_kl,
    prior_term,
)

__all__ = [
    "BoundTerms",
    "ByPosition",
    "Draws",
    "LossTerms",
    "PosteriorTerms",
    "cross_entropy_loss",
    "diffusion_loss",
    "gaussian_kl",
    "prediction_nll_loss",
    "prior_term",
    "variational_loss",
]
