"""Allow ``python -m diffusion_jax``."""

import sys

from diffusion_jax.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
