"""Infilling of stories, aNLG (arXiv 2205.14217, section 6): the sentence between two others.

Command: diffusion-jax train experiments/anlg_infill.py --workdir runs/stories
    --data.corpus roc_train.txt --data.validation roc_valid.txt [--scale small]
    then, from checkpoint to table:
    python experiments/anlg_infill.py runs/stories --data anlg_dev.jsonl --output anlg
Data: ROCStories to train (handed out on registration by its authors) and aNLG's lines
    {"obs1", "obs2", "hyps": [...]}, tokenised with spaces, to infill; 1,780 are in the original's
    dev set, 3,561 in its test set. Lines with words outside the vocabulary are counted, left out.
    Of the hyps of a line, which are its references, the nearest counts.
Hardware: full: one A100-class GPU or a TPU host. small: two CPU cores.
Time: full: training about 20 hours on one A100 in the original. small: 30 minutes on two cores.
Published: BLEU-4 7.1, ROUGE-L 28.3, CIDEr 30.7, BERTScore 89.0 (autoregressive 6.7 / 27.0 / 26.9 /
    89.0; COLD 1.8 / 19.5 / 10.7 / 42.7; DELOREAN 1.6 / 19.1 / 7.9 / 41.7). 50 samples, MBR; a hole
    of exactly 10 tokens, which PAD may end early; T = 2000 ancestral steps, fixed small variance,
    rounding at all t; the model is experiments/roc.py's (E = 128, 800,000 steps).
    CIDEr is not computed here; BERTScore by `evaluate --bertscore MODEL` on the files of --output.
    Here a hole of 10 words has 10 words: give --holes 4 10 to let the model choose the length.
"""

import argparse
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.cli import fail
from diffusion_jax.cli import main as run_command
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target, make_target
from diffusion_jax.text.readers import read_jsonl


def config(scale: str = "full") -> ExperimentConfig:
    return runpy.run_path(str(Path(__file__).with_name("roc.py")))["config"](scale)


class Story(NamedTuple):
    """A line of aNLG: two sentences, and those that people wrote between them."""

    line: str
    first: str
    last: str
    hyps: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Infill aNLG and score the choice.")
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="directory, new")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--num", type=int, default=50)
    parser.add_argument("--holes", type=int, nargs=2, default=(10, 10))
    try:
        return infill(parser.parse_args(arguments))
    except (Exception, KeyboardInterrupt) as error:
        return fail(error)


def infill(options: argparse.Namespace) -> int:
    """Write all candidates and references into the output directory, and score them."""
    check(options)
    stories = read_stories(options.data)
    from diffusion_jax.control.layouts import Holes
    from diffusion_jax.control.steer import Controller

    smallest, largest = options.holes
    controller = Controller.from_checkpoint(
        options.checkpoint,
        holes=Holes(min_hole=smallest, max_hole=largest),
        sampler="ddpm",
        steps=options.steps,
        clamp="all",
    )
    targets = known_targets(controller, stories, options.data)
    options.output.mkdir()
    written, wanted = options.output / "written.jsonl", options.output / "references.jsonl"
    with written.open("w", encoding="utf-8") as out, wanted.open("w", encoding="utf-8") as ref:
        for number, candidates in zip(targets, controller.write([*targets.values()], options.num)):
            story = stories[number]
            first, last = len(story.first.split()), len(story.last.split())
            words = [candidate.text.split() for candidate in candidates]
            texts = [" ".join(text[first : len(text) - last]) for text in words]
            source = f"{story.first} {story.last}"
            print(json.dumps({"id": number, "source": source, "candidates": texts}), file=out)
            print(json.dumps({"id": number, "trg": story.hyps}), file=ref)
    return run_command(
        ["evaluate", "--hypotheses", str(written), "--references", str(wanted), "--mbr"]
    )


def check(options: argparse.Namespace) -> None:
    """Raise UserError for an option that would be refused after hours."""
    if options.output.exists():
        raise UserError(f"{options.output} exists; choose another --output, it is not overwritten")
    if not options.output.parent.is_dir():
        raise UserError(f"the directory of {options.output} does not exist; create it first")
    if options.num < 2:
        raise UserError(
            f"--num is {options.num}; one is chosen among the candidates: give 2 or more"
        )
    smallest, largest = options.holes
    if not 1 <= smallest <= largest:
        raise UserError(
            f"--holes {smallest} {largest}: give at least 1, the second no less than the first"
        )


def read_stories(data: Path) -> list[Story]:
    """Return the lines of the file; raises UserError for one that is none of aNLG's."""
    stories = []
    for example in read_jsonl(data, {"src": "obs1", "trg": "obs2"}, {}):
        hyps = example.fields.get("hyps")
        texts = isinstance(hyps, list) and all(isinstance(h, str) and h.strip() for h in hyps)
        if not texts or not hyps:
            raise UserError(
                f'{data}, line {example.id}: "hyps" must be a list of one or more texts'
            )
        stories.append(Story(example.id, example.src or "", example.trg or "", hyps))
    return stories


def known_targets(controller: Any, stories: Sequence[Story], data: Path) -> dict[int, Target]:
    """Return index of a line -> target, without the lines that the model cannot infill."""
    targets = {}
    for number, story in enumerate(stories):
        target = make_target(keep=f"{story.first} ___ {story.last}")
        try:
            controller.check([target])
        except UserError as error:
            print(f"left out: line {story.line}: {error}", file=sys.stderr)
            continue
        targets[number] = target
    print(f"{len(targets)} of {len(stories)} lines can be infilled", file=sys.stderr)
    if not targets:
        raise UserError(
            f"{data}: no line can be infilled; give lines of words that the model was trained on"
        )
    return targets


if __name__ == "__main__":
    sys.exit(main())
