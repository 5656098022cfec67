"""Many runs of one family: launched one after another, collected, and fitted by power laws."""

from diffusion_jax.sweep.collect import collect
from diffusion_jax.sweep.jobs import Job, load_jobs, part_of
from diffusion_jax.sweep.powerlaw import PowerLaw, fit_power_law, optimal_sizes

__all__ = [
    "Job",
    "PowerLaw",
    "collect",
    "fit_power_law",
    "load_jobs",
    "optimal_sizes",
    "part_of",
]
