"""Reverse samplers as (init, step) pairs and the one scan that drives them."""

from diffusion_jax.samplers.base import Sampler
from diffusion_jax.samplers.ddim import ddim
from diffusion_jax.samplers.ddpm import ddpm
from diffusion_jax.samplers.driver import CollectFn, SampleResult, sample
from diffusion_jax.samplers.grid import inversion_grid, legacy_gap_grid, step_grid
from diffusion_jax.samplers.transforms import Anchor, clamp_to_embeddings

__all__ = [
    "Anchor",
    "CollectFn",
    "SampleResult",
    "Sampler",
    "clamp_to_embeddings",
    "ddim",
    "ddpm",
    "inversion_grid",
    "legacy_gap_grid",
    "sample",
    "step_grid",
]
