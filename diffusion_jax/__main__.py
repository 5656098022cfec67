"""Allow ``python -m diffusion_jax``."""

import sys

from diffusion_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
