"""Tags and trees of texts that no grammar parses: spaCy and benepar (extra ``annotate``)."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from diffusion_jax.control.judge import Annotation, Annotator
from diffusion_jax.errors import UserError
from diffusion_jax.text.trees import Span, parse_tree

# What is no word of a tag set: spaCy's tag of line ends, under the name that our labels have.
_TAGS = {"SPACE": "X"}


def spacy_annotator(tagger: str, parser: str | None = None) -> Annotator:
    """Return what tags texts, and parses them where a parser is named.

    Args:
        tagger: a spaCy pipeline that is installed, for example en_core_web_sm.
        parser: a benepar model that is installed, for example benepar_en3.

    Raises:
        UserError: a package or a model is missing.
    """
    spacy = _package("spacy")
    try:
        pipeline = spacy.load(tagger)
    except OSError as error:
        raise UserError(
            f"the spaCy pipeline {tagger!r} is not installed: python -m spacy download {tagger}"
        ) from error
    if parser is not None:
        _package("benepar")
        try:
            pipeline.add_pipe("benepar", config={"model": parser})
        except (LookupError, ValueError, OSError) as error:
            raise UserError(f"the benepar model {parser!r} cannot be loaded: {error}") from error

    def annotate(tokens: Sequence[str]) -> Annotation:
        # The tokens are ours: spaCy's own tokenizer would cut some of them.
        doc = spacy.tokens.Doc(pipeline.vocab, words=list(tokens))
        for _, component in pipeline.pipeline:
            doc = component(doc)
        tags = [_TAGS.get(token.pos_, str(token.pos_)) for token in doc]
        return Annotation(tags, None if parser is None else _spans(doc))

    return annotate


def _spans(doc: Any) -> tuple[Span, ...]:
    """Return the constituents of all sentences, counted from the start of the text."""
    spans: list[Span] = []
    for sentence in doc.sents:
        found = parse_tree(sentence._.parse_string).spans
        spans += [
            (start + sentence.start, end + sentence.start, label) for start, end, label in found
        ]
    return tuple(spans)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed; it tags or parses texts: pip install diffusion-jax[annotate]"
        ) from error
