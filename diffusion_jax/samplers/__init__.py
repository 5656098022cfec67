"""Reverse samplers as (init, step) pairs and the one scan that drives them."""

from diffusion_jax.samplers.base import Sampler
from diffusion_jax.samplers.ddim import ddim
from diffusion_jax.samplers.ddpm import ddpm
from diffusion_jax.samplers.dpm_solver import dpm_solver
from diffusion_jax.samplers.driver import CollectFn, SampleResult, sample
from diffusion_jax.samplers.grid import (
    SPACINGS,
    diffuseq_v2_grid,
    inversion_grid,
    legacy_gap_grid,
    shift_time,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.samplers.soft_absorbing import (
    absorb_after_step,
    around,
    diffuseq_v2_ancestral,
)
from diffusion_jax.samplers.transforms import Anchor, clamp_to_embeddings

__all__ = [
    "SPACINGS",
    "Anchor",
    "CollectFn",
    "SampleResult",
    "Sampler",
    "absorb_after_step",
    "around",
    "clamp_to_embeddings",
    "ddim",
    "ddpm",
    "diffuseq_v2_ancestral",
    "diffuseq_v2_grid",
    "dpm_solver",
    "inversion_grid",
    "legacy_gap_grid",
    "sample",
    "shift_time",
    "singlestep_grid",
    "step_grid",
]
