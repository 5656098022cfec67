"""Control while sampling: objectives, and the guides that climb them."""

from diffusion_jax.guidance.adagrad import adagrad_guidance
from diffusion_jax.guidance.base import Objective, on_estimate, on_latent, weighted_sum
from diffusion_jax.guidance.classifier_free import classifier_free
from diffusion_jax.guidance.classifiers import attribute_log_prob, label_log_prob
from diffusion_jax.guidance.gradient import gradient_guidance
from diffusion_jax.guidance.objectives import (
    TokenPosterior,
    estimate_posterior,
    fixed_embeddings,
    fixed_length,
    fixed_words,
    keywords,
    latent_posterior,
)
from diffusion_jax.guidance.sequence import for_rows, in_turn

__all__ = [
    "Objective",
    "TokenPosterior",
    "adagrad_guidance",
    "attribute_log_prob",
    "classifier_free",
    "estimate_posterior",
    "fixed_embeddings",
    "fixed_length",
    "fixed_words",
    "for_rows",
    "gradient_guidance",
    "in_turn",
    "keywords",
    "label_log_prob",
    "latent_posterior",
    "on_estimate",
    "on_latent",
    "weighted_sum",
]
