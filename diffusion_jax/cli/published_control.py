"""What the scripts of ``experiments/control`` share: from published settings to a table."""

import sys

from diffusion_jax import cli

SAMPLING = (
    *("--sampler", "ddim", "--eta", "1", "--steps", "200", "--spacing", "trailing"),
    *("--time-shift", "0", "--noise-scale", "1", "--noise-bound", "0"),
    *("--clamp", "all", "--rounding", "head", "-n", "50"),
)
"""How the original samples: 200 DDIM steps with eta 1, rounding at each, 50 texts a target.

All is settled here, whatever the run's own sampling is.
"""


def measure(task: str, *published: str) -> int:
    """Run ``evaluate-control`` with the words of the command line behind the published options.

    Args:
        task: what is measured, unless --targets are given.
        published: options; those of the command line win over them.

    Returns:
        The exit code.
    """
    given = sys.argv[1:]
    targets = any(word.partition("=")[0] == "--targets" for word in given)
    asked = () if targets else ("--task", task)
    return cli.entry(["evaluate-control", *asked, *SAMPLING, *published, *given])
