"""Which controls a text obeys, and whether it is fluent: exact where a parser knows the language.

A judge reads the text alone, never the model. On the built-in grammar everything is read off the
parse, and a text outside the language obeys no control of content or structure. Elsewhere length,
given words and keywords are exact, attributes are matched (``slots``), and parts of speech, trees
and spans need an annotator (the extra ``annotate``); without one their verdict is None: unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from diffusion_jax.control.wishes import has_keywords
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate import trees
from diffusion_jax.text import slots
from diffusion_jax.text.control_targets import ANY_TAG, MASK, Target
from diffusion_jax.text.example import words_of
from diffusion_jax.text.grammar import Grammar, load_grammar
from diffusion_jax.text.grammar.sentence import Parse
from diffusion_jax.text.labelled import spans_of_tokens, tags_of_tokens, word_positions
from diffusion_jax.text.labels import ABSENT
from diffusion_jax.text.templates import keeps, parse_template
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.trees import Span, join_spans, parse_tree

# Log-probabilities closer than this are of one derivation.
_SAME = 1e-6


class Annotation(NamedTuple):
    """What is known of a text beside its words.

    Attributes:
        pos: Universal POS tag of each word (or token); None where nobody knows.
        spans: constituents, unary chains joined; None where nobody knows.
    """

    pos: Sequence[str] | None
    spans: Sequence[Span] | None


Annotator = Callable[[Sequence[str]], Annotation]
"""Words of a text -> its annotation."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says about one text.

    Attributes:
        holds: control -> whether it is obeyed; None where nobody knows.
        measures: finer figures in [0, 1]: ``tags`` (share of tags that are right), ``tree_f1``
            (labelled F1), ``attributes_substring``, ``length_within_2``.
        fluent: whether the text is a sentence of the language; None where nobody knows.
    """

    holds: dict[str, bool | None]
    measures: dict[str, float] = field(default_factory=dict)
    fluent: bool | None = None

    def all_hold(self) -> bool | None:
        """Return whether every control is obeyed; None if that is not known."""
        if False in self.holds.values():
            return False
        return None if None in self.holds.values() else True


class Judge(Protocol):
    """Says which controls of a target a text obeys."""

    def __call__(self, text: str, target: Target) -> Verdict:
        """Judge one text."""
        ...


def make_judge(
    corpus: str,
    tokenizer: Tokenizer,
    *,
    mask: str = MASK,
    annotator: Annotator | None = None,
    fields: Mapping[str, Sequence[str]] | None = None,
) -> Judge:
    """Return the judge of texts of a corpus.

    Args:
        corpus: as ``data.corpus``; ``grammar:...`` is judged by parsing.
        tokenizer: of the model.
        mask: what marks holes in templates.
        annotator: tags and parses other texts.
        fields: the attributes that other texts may have, with all their values; without them
            nobody knows there whether one is absent.
    """
    if corpus.startswith("grammar:"):
        size = corpus.removeprefix("grammar:").partition("/")[0]
        return GrammarJudge(load_grammar(size), tokenizer, mask)
    return TextJudge(tokenizer, mask, annotator, fields or {})


@dataclass(frozen=True)
class GrammarJudge:
    """Judge by parsing: exact.

    Attributes:
        grammar: the language.
        tokenizer: of the model.
        mask: of templates.
    """

    grammar: Grammar
    tokenizer: Tokenizer
    mask: str = MASK

    def __call__(self, text: str, target: Target) -> Verdict:
        """Judge one text."""
        parse = self.grammar.parse(text)
        verdict = _words_verdict(text, target, self.tokenizer, self.mask)
        holds, measures = verdict.holds, verdict.measures
        if target.attributes:
            holds["attributes"] = parse is not None and all(
                parse.best.attributes.get(name, ABSENT) == value
                for name, value in target.attributes.items()
            )
        pos = () if parse is None else parse.best.pos
        readings = [()] if parse is None else _readings(parse)
        wanted = target.tree_spans() or target.spans
        # What has two readings obeys when one of them does.
        spans = max(
            readings, key=lambda found: (labelled_f1(wanted, found), set(found) >= set(wanted))
        )
        _judge_structure(holds, measures, target, Annotation(pos, spans))
        return Verdict(holds, measures, parse is not None)


@dataclass(frozen=True)
class TextJudge:
    """Judge texts without a grammar.

    Attributes:
        tokenizer: of the model.
        mask: of templates.
        annotator: tags and parses; None leaves structure unknown.
        fields: attribute -> all its values; of others nobody knows whether they are absent.
    """

    tokenizer: Tokenizer
    mask: str = MASK
    annotator: Annotator | None = None
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __call__(self, text: str, target: Target) -> Verdict:
        """Judge one text."""
        verdict = _words_verdict(text, target, self.tokenizer, self.mask)
        holds, measures = verdict.holds, verdict.measures
        if target.attributes:
            holds["attributes"] = slots.says_all(text, target.attributes, self.fields)
            # Published success knows values that are said, not that none is.
            values = [value for value in target.attributes.values() if value != ABSENT]
            if values:
                found = all(slots.contains(text, value) for value in values)
                measures["attributes_substring"] = float(found)
        wants_structure = target.pos is not None or target.tree is not None or target.spans
        if wants_structure:
            _judge_structure(holds, measures, target, self._annotation(text))
        return Verdict(holds, measures)

    def _annotation(self, text: str) -> Annotation:
        """Return tags and spans of the text's tokens, which targets count."""
        if self.annotator is None:
            return Annotation(None, None)
        try:
            words = word_positions(text, self.tokenizer)
        except UserError:
            # Nobody can say which token has which tag, so none has the one that is asked.
            return Annotation((), ())
        found = self.annotator(words_of(text))
        return Annotation(
            None if found.pos is None else tags_of_tokens(found.pos, words),
            None if found.spans is None else spans_of_tokens(found.spans, words),
        )


def _words_verdict(text: str, target: Target, tokenizer: Tokenizer, mask: str) -> Verdict:
    """Judge what the words alone show: length, template, keywords."""
    holds: dict[str, bool | None] = {}
    measures: dict[str, float] = {}
    ids = tokenizer.encode(text)
    if target.length is not None:
        holds["length"] = len(ids) == target.length
        measures["length_within_2"] = float(abs(len(ids) - target.length) <= 2)
    if target.keep is not None:
        holds["keep"] = keeps(parse_template(target.keep, tokenizer, mask), ids)
    if target.keywords:
        holds["keywords"] = has_keywords(target, ids, tokenizer)
    return Verdict(holds, measures)


def _judge_structure(
    holds: dict[str, bool | None],
    measures: dict[str, float],
    target: Target,
    annotation: Annotation,
) -> None:
    """Judge tags, tree and spans of an annotated text; None where the annotation has none."""
    if target.pos is not None:
        holds["pos"] = None
        if annotation.pos is not None:
            measures["tags"] = tag_accuracy(target.pos, annotation.pos)
            same = len(target.pos) == len(annotation.pos)
            holds["pos"] = same and measures["tags"] == 1.0
    if target.tree is not None:
        holds["tree"] = None
        if annotation.spans is not None:
            wanted = parse_tree(target.tree).spans
            measures["tree_f1"] = labelled_f1(wanted, annotation.spans)
            holds["tree"] = set(wanted) == set(annotation.spans)
    if target.spans:
        found = annotation.spans
        holds["spans"] = None if found is None else set(target.spans) <= set(found)


def _readings(parse: Parse) -> list[tuple[Span, ...]]:
    """Return the constituents of every derivation.

    Sentences of the grammar are ambiguous in one way: ``serves thai food near the mill`` has its
    last PP in the VP or in an NP around both, with equal probability.
    """
    best = join_spans(parse.best.spans)
    if parse.log_prob - parse.best.log_prob < _SAME:
        return [best]
    other = set(best)
    for start, end, label in best:
        if label != "PP":
            continue
        for first, last, kind in best:
            if kind == "NP" and last == start - 1:
                outer = (first, end, "NP")
                other.symmetric_difference_update({outer})
                return [best, tuple(sorted(other, key=lambda s: (s[0], -s[1])))]
    return [best]


def tag_accuracy(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of wanted tags that stand where they shall; ``*`` is always right.

    A text that is too short loses its missing tags, as published; what is too long is not looked
    at.
    """
    padded = [*found, *[""] * len(wanted)]
    return sum(a in (ANY_TAG, b) for a, b in zip(wanted, padded)) / len(wanted)


def labelled_f1(wanted: Sequence[Span], found: Sequence[Span]) -> float:
    """Return the F1 of the labelled spans of one text, see ``evaluate.trees``."""
    return trees.labelled_f1([wanted], [found]).f1
