"""Infilling of stories, aNLG (arXiv 2205.14217, section 6): the sentence between two others.

Command: diffusion-jax train experiments/anlg_infill.py --workdir runs/stories
    --data.corpus roc_train.txt --data.validation roc_valid.txt [--scale small]
    then, from checkpoint to table:
    python experiments/anlg_infill.py runs/stories --data anlg_dev.jsonl --output anlg
Data: ROCStories to train (handed out on registration by its authors) and aNLG's lines
    {"obs1", "obs2", "hyps": [...]}, tokenised with spaces, to infill; 1,780 are in the original's
    dev set, 3,561 in its test set. Lines with words outside the vocabulary are counted, left out.
Hardware: full: one A100-class GPU or a TPU host. small: two CPU cores.
Time: full: training about 20 hours on one A100 in the original. small: 30 minutes on two cores.
Published: BLEU-4 7.1, ROUGE-L 28.3, CIDEr 30.7, BERTScore 89.0 (autoregressive 6.7 / 27.0 / 26.9 /
    89.0; COLD 1.8 / 19.5 / 10.7 / 42.7; DELOREAN 1.6 / 19.1 / 7.9 / 41.7). 50 samples, MBR; a hole
    of exactly 10 tokens, which PAD may end early; T = 2000 ancestral steps, fixed small variance,
    rounding at all t; the model is experiments/roc.py's (E = 128, 800,000 steps).
    Here a hole of 10 words has 10 words: give --holes 4 10 to let the model choose the length.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path

from diffusion_jax.cli import main as run_command
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError


def config(scale: str = "full") -> ExperimentConfig:
    return runpy.run_path(str(Path(__file__).with_name("roc.py")))["config"](scale)


def main() -> int:
    from diffusion_jax.control.steer import Controller, Holes
    from diffusion_jax.text.control_targets import make_target

    parser = argparse.ArgumentParser(description="Infill aNLG and score the choice.")
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="directory, new")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--num", type=int, default=50)
    parser.add_argument("--holes", type=int, nargs=2, default=(10, 10))
    options = parser.parse_args()
    smallest, largest = options.holes
    controller = Controller.from_checkpoint(
        options.checkpoint,
        holes=Holes(min_hole=smallest, max_hole=largest),
        sampler="ddpm",
        steps=options.steps,
        clamp="all",
    )
    lines = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    targets, kept = [], []
    for line in lines:
        target = make_target(keep=f"{line['obs1']} ___ {line['obs2']}")
        try:
            controller.check([target])
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        targets.append(target)
        kept.append(line)
    print(f"{len(kept)} of {len(lines)} lines can be infilled", file=sys.stderr)
    options.output.mkdir()
    written = options.output / "written.jsonl"
    references = options.output / "references.jsonl"
    with written.open("w", encoding="utf-8") as out, references.open("w", encoding="utf-8") as ref:
        for number, candidates in enumerate(controller.write(targets, options.num)):
            line = kept[number]
            first, last = len(line["obs1"].split()), len(line["obs2"].split())
            texts = [
                " ".join(c.text.split()[first : len(c.text.split()) - last]) for c in candidates
            ]
            source = f"{line['obs1']} {line['obs2']}"
            print(json.dumps({"id": number, "source": source, "candidates": texts}), file=out)
            print(json.dumps({"id": number, "trg": line["hyps"][0]}), file=ref)
    return run_command(
        ["evaluate", "--hypotheses", str(written), "--references", str(references), "--mbr"]
    )


if __name__ == "__main__":
    sys.exit(main())
