"""Control of parts of speech, from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/pos.py runs/small -o out.json
    python experiments/control/pos.py runs/e2e --classifier-corpus train.jsonl --data valid.jsonl
    --tagger en_core_web_sm -o out.json
Data: the grammar brings its labels. For E2E,
    `diffusion-jax label src1_train.txt -o train.jsonl --tagger en_core_web_sm`
    labels the texts that the classifier learns from (--classifier-corpus), and likewise those that
    targets are drawn from (--data); or take published ones (--targets target_pos.json). --tagger
    judges the outputs.
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: 90.0% of tags / lm-score 5.16 (FUDGE 27.0 / 7.96, fine-tuned GPT-2 89.5 / 4.72); lr 0.05,
    lambda 0.0005 (the released program has lr 0.1, lambda 0.0001).
    50 samples per target, 200 DDIM steps with eta 1 and rounding, K = 3 updates, none for t < 10.

Without --classifier, one is trained first, into CHECKPOINT-pos-state, and found there again. Any
option of `diffusion-jax evaluate-control` can be added, and wins over the published one.
"""

import sys

from diffusion_jax.cli.published_control import measure

PUBLISHED = (
    "--guidance.method",
    "adagrad",
    "--guidance.learning-rate",
    "0.05",
    "--guidance.fluency-weight",
    "0.0005",
)

if __name__ == "__main__":
    sys.exit(measure("pos", "--train-missing", *PUBLISHED))
