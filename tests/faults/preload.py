"""What the server of ``trainer`` imports, once for all trainers."""

import diffusion_jax.cli.train
import diffusion_jax.experiment
import diffusion_jax.scale.hosts  # noqa: F401
