"""Text generation by continuous diffusion: Diffusion-LM and DiffuSeq in JAX and Flax."""

from diffusion_jax.version import __version__

__all__ = ["__version__"]
