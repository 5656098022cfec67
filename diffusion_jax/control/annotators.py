"""Tags and trees of texts that no grammar parses: spaCy and benepar (extra ``annotate``)."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from diffusion_jax.control.judge import Annotation, Annotator
from diffusion_jax.errors import UserError
from diffusion_jax.text.labels import NEWLINE_TAG
from diffusion_jax.text.trees import Span, parse_tree


def spacy_annotator(tagger: str, parser: str | None = None) -> Annotator:
    """Return what tags texts, and parses them where a parser is named.

    Line ends are words of a text too, but neither package knows them: they are not shown any. Their
    tag is X, and no constituent begins or ends with one.

    Args:
        tagger: a spaCy pipeline that is installed, for example en_core_web_sm, or its directory.
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

    def annotate(words: Sequence[str]) -> Annotation:
        tags = [NEWLINE_TAG] * len(words)
        shown = [place for place, word in enumerate(words) if not word.isspace()]
        if not shown:
            return Annotation(tags, None if parser is None else ())
        # The words are ours: spaCy's own tokenizer would cut some of them.
        doc = spacy.tokens.Doc(pipeline.vocab, words=[words[place] for place in shown])
        for _, component in pipeline.pipeline:
            doc = component(doc)
        for place, token in zip(shown, doc):
            tags[place] = str(token.pos_)
        return Annotation(tags, None if parser is None else _spans(doc, shown))

    return annotate


def _spans(doc: Any, places: Sequence[int]) -> tuple[Span, ...]:
    """Return the constituents of all sentences, at the places in the text that the words have."""
    spans: list[Span] = []
    for sentence in doc.sents:
        for start, end, label in parse_tree(sentence._.parse_string).spans:
            spans.append((places[sentence.start + start], places[sentence.start + end], label))
    return tuple(spans)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed; it tags or parses texts: pip install diffusion-jax[annotate]"
        ) from error
