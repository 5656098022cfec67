"""Control of attributes (semantic content), from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/attribute.py runs/e2e -o out.json
Data: the run's held-out texts with labels (--data), the grammar's test split, or published
    targets (--targets target_attribute.json).
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: 81.2% of outputs contain the value / lm-score 2.55 (FUDGE 69.9 / 2.83, fine-tuned GPT-2
    72.5 / 2.87); lr 0.1, lambda 0.01.
    50 samples per target, 200 DDIM steps with eta 1 and rounding, K = 3 updates, none for t < 10.

Without --classifier, one is trained first, into CHECKPOINT-attribute-state, and found there again.
Any option of `diffusion-jax evaluate-control` can be added, and wins over the published one.
"""

import sys

from diffusion_jax.cli.published_control import measure

PUBLISHED = (
    "--guidance.method",
    "adagrad",
    "--guidance.learning-rate",
    "0.1",
    "--guidance.fluency-weight",
    "0.01",
)

if __name__ == "__main__":
    sys.exit(measure("attribute", "--train-missing", *PUBLISHED))
