"""Controls as words before a text: what an autoregressive model is told, as a baseline."""

from dataclasses import replace
from random import Random

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Corpus, Example, linearise, words_of
from diffusion_jax.text.labels import read_attributes, read_spans, read_tags

PREFIXES = ("none", "attributes", "pos", "length", "tree")


def with_prefix(corpus: Corpus, prefix: str) -> Corpus:
    """Return pairs (control, text) made of a labelled corpus of single texts.

    Args:
        corpus: single texts with the labels that the control is made of.
        prefix: "attributes" (``name : golden fox | food : thai``; every second text tells but some
            of its own, since some are what is asked later), "pos" (tags), "length" (number of
            words, of which a line end that is kept is one), "tree" (``0 3 S 0 1 NP``: start, end
            and label of each constituent), or "none", which returns the corpus as it is.

    Raises:
        UserError: the corpus holds pairs, or (while it is read) an example lacks its labels.
    """
    if prefix == "none":
        return corpus
    if corpus.paired:
        raise UserError(f"{corpus.describe}: holds pairs; a control stands before single texts")

    def read():
        for number, example in enumerate(corpus.read()):
            told = example
            if prefix == "attributes" and number % 2:
                told = _some_attributes(example, number, corpus.describe)
            source = control_text(told, prefix, corpus.describe)
            yield replace(example, text="", src=source, trg=example.text)

    identity = {**corpus.identity, "prefix": prefix, "some": prefix == "attributes"}
    return replace(corpus, read=read, paired=True, identity=identity)


def _some_attributes(example: Example, number: int, where: str) -> Example:
    """Return the example with a random part of its attributes, at least one where it has any."""
    attributes = list(read_attributes(example, where).items())
    random = Random(number)
    count = random.randint(min(1, len(attributes)), len(attributes))
    kept = sorted(random.sample(range(len(attributes)), count))
    fields = {**example.fields, "attributes": dict(attributes[i] for i in kept)}
    return replace(example, fields=fields)


def control_text(example: Example, prefix: str, where: str) -> str:
    """Return what stands before the text of an example; raises UserError where it lacks labels."""
    if prefix == "attributes":
        return linearise(read_attributes(example, where))
    if prefix == "pos":
        return " ".join(read_tags(example, where))
    if prefix == "length":
        return str(len(words_of(example.text)))
    spans = read_spans(example, where)[1]
    return " ".join(f"{start} {end} {label}" for start, end, label in spans)
