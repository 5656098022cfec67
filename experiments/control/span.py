"""Control of single syntax spans, from checkpoint to table (arXiv 2205.14217).

Command: python experiments/control/span.py runs/small -o out.json
    python experiments/control/span.py runs/e2e --classifier-corpus train.jsonl --data valid.jsonl
    --tagger en_core_web_sm --parser benepar_en3 -o out.json
Data: the grammar brings its labels. For E2E,
    `diffusion-jax label src1_train.txt -o train.jsonl --tagger en_core_web_sm --parser benepar_en3`
    labels the texts that the classifier learns from (--classifier-corpus), and likewise those that
    targets are drawn from (--data); or take published ones (--targets target_spans.json). --tagger
    and --parser judge the outputs.
Hardware: full: one A100-class GPU. On the small grammar: two CPU cores.
Time: published: about 80 seconds for the 50 samples of a target (A100). On the small grammar:
    benchmarks/results/control.md.
Published: 93.8% exact spans / lm-score 2.53 (FUDGE 54.2 / 4.03, fine-tuned GPT-2 26.3 / 2.88);
    lr 0.15, lambda 0.1.
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
    "0.15",
    "--guidance.fluency-weight",
    "0.1",
)

if __name__ == "__main__":
    sys.exit(measure("span", "--train-missing", *PUBLISHED))
