"""Control of syntax trees, from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/tree.py runs/small -o out.json
    python experiments/control/tree.py runs/e2e --classifier-corpus train.jsonl --data valid.jsonl
    --tagger en_core_web_sm --parser benepar_en3 -o out.json
Data: the grammar brings its labels. For E2E,
    `diffusion-jax label src1_train.txt -o train.jsonl --tagger en_core_web_sm --parser benepar_en3`
    labels the texts that the classifier learns from (--classifier-corpus), and likewise those that
    targets are drawn from (--data); or take published ones (--targets target_tree.json). --tagger
    and --parser judge the outputs.
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: 86.0 F1 / lm-score 3.71 (FUDGE 17.9 / 3.39, fine-tuned GPT-2 64.8 / 5.72); lr 0.2,
    lambda 0.0005.
    50 samples per target, 200 DDIM steps with eta 1 and rounding, K = 3 updates, none for t < 10.

Without --classifier, one is trained first, into CHECKPOINT-tree-state, and found there again. Any
option of `diffusion-jax evaluate-control` can be added, and wins over the published one.
"""

import sys

from diffusion_jax.cli.published_control import measure

PUBLISHED = (
    "--guidance.method",
    "adagrad",
    "--guidance.learning-rate",
    "0.2",
    "--guidance.fluency-weight",
    "0.0005",
)

if __name__ == "__main__":
    sys.exit(measure("tree", "--train-missing", *PUBLISHED))
