"""Control of infilling, from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/infill.py runs/e2e -o out.json
Data: the run's held-out texts, or the grammar's test split.
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: no table for E2E; for stories see experiments/anlg_infill.py. Without classifier:
    known words are put back after every step.
    50 samples per target, 200 DDIM steps with eta 1 and rounding.

Any option of `diffusion-jax evaluate-control` can be added, and wins over the published one.
"""

import sys

from diffusion_jax.cli.published_control import measure

if __name__ == "__main__":
    sys.exit(measure("infill"))
