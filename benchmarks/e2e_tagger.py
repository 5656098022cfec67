"""A spaCy pipeline that tags E2E texts, learned from published targets, where no model is at hand.

Command: python -m benchmarks.e2e_tagger TARGETS [TARGETS ...] --output DIRECTORY

TARGETS are Diffusion-LM's files of parts of speech: texts of E2E with the tags that the authors'
tagger gave them. The directory can be given wherever a spaCy pipeline is named:
``label --tagger DIRECTORY``, ``evaluate-control --tagger DIRECTORY``. What it gets right of texts
that it has not seen is printed first (cross-validation over texts): as a judge it is no better
than that. Needs spaCy (extra ``annotate``), and no model of its.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch

from diffusion_jax.text.control_targets import read_targets
from diffusion_jax.text.example import NEWLINE, words_of


class Tagged(NamedTuple):
    """A text with the tag of each word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_tagged(paths: Sequence[str]) -> list[Tagged]:
    """Return the texts of published targets, each once, without their line ends."""
    found = {}
    for path in paths:
        for target in read_targets(path):
            pairs = zip(words_of(target.reference or ""), target.pos or (), strict=True)
            words, tags = zip(*(pair for pair in pairs if pair[0] != NEWLINE))
            found[words] = Tagged(words, tags)
    return list(found.values())


def train_tagger(texts: Sequence[Tagged], epochs: int, seed: int) -> Any:
    """Return a pipeline that learned the tags of the texts."""
    fix_random_seed(seed)
    pipeline = spacy.blank("en")
    pipeline.add_pipe("morphologizer")
    examples = [
        Example.from_dict(Doc(pipeline.vocab, words=list(text.words)), {"pos": list(text.tags)})
        for text in texts
    ]
    optimizer = pipeline.initialize(lambda: examples)
    order = random.Random(seed)
    for _ in range(epochs):
        order.shuffle(examples)
        for batch in minibatch(examples, 8):
            pipeline.update(batch, sgd=optimizer, drop=0.2)
    return pipeline


def share_right(pipeline: Any, texts: Sequence[Tagged]) -> tuple[int, int]:
    """Return how many tags are right, and of how many."""
    right = total = 0
    for text in texts:
        doc = pipeline(Doc(pipeline.vocab, words=list(text.words)))
        right += sum(token.pos_ == tag for token, tag in zip(doc, text.tags))
        total += len(text.tags)
    return right, total


def main(argv: Sequence[str] | None = None) -> None:
    """Print what cross-validation finds, then train on everything and write the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", metavar="TARGETS", nargs="+")
    parser.add_argument("--output", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    texts = read_tagged(arguments.targets)
    random.Random(arguments.seed).shuffle(texts)
    right = total = 0
    for fold in range(arguments.folds):
        held_out = texts[fold :: arguments.folds]
        learned = [text for text in texts if text not in held_out]
        found = share_right(train_tagger(learned, arguments.epochs, arguments.seed), held_out)
        right, total = right + found[0], total + found[1]
    share = right / total
    print(f"{len(texts)} texts; {100 * share:.1f}% of {total} tags of texts not seen are right")
    train_tagger(texts, arguments.epochs, arguments.seed).to_disk(Path(arguments.output))
    print(f"trained on all of them: {arguments.output}")


if __name__ == "__main__":
    main()
