"""Control of length, from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/length.py runs/e2e -o out.json
Data: the run's held-out texts, or the grammar's test split.
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: 99.9% within 2 tokens / lm-score 2.16 (FUDGE 46.9 / 3.11, fine-tuned GPT-2 98.1 / 3.84);
    lr 0.1, lambda 0.01, START and END by gradient through the denoiser: of squared distances to
    their embeddings. Here it is the gradient of the log-probability of END and the padding, and
    START is in place (the distances: `guidance.fixed_embeddings`).
    50 samples per target, 200 DDIM steps with eta 1 and rounding, K = 3 updates, none for t < 10.

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
    "--guidance.length-by",
    "gradient",
    "--guidance.through",
    "denoiser",
)

if __name__ == "__main__":
    sys.exit(measure("length", *PUBLISHED))
