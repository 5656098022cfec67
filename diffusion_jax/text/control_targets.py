"""What is asked of a text: attributes, length, parts of speech, tree, spans, given words, keywords.

A target is plain data. It comes from the command line, from JSON lines of our own

    {"attributes": {"food": "thai"}, "length": 9, "pos": "DET NOUN ...", "tree": "(S ...)",
     "spans": [[3, 5, "PP"]], "keep": "the pub ___ .", "keywords": ["cheap"]}

or from the files that Diffusion-LM publishes (Li et al. 2022), which hold one of these a line:

    ["food", ":", "Thai"]                                   an attribute
    {"pos": ["START", ..., "END"], "words_": [...]}         parts of speech
    {"spans": [[3, 5, "PP"]], "words_": [...]}              spans
    {"tree": "(TOP (S ...))", "padded_chart": ..., ...}     syntax trees
    {"pos": ..., "attr": ["food", ":", "Thai"], ...}        parts of speech and an attribute

The words of published texts end with a newline. Its published tag is whatever a tagger says of a
line end (PROPN, PUNCT, ...), and a constituent may end with it; here, as in what classifiers learn
and judges tell, its tag is X, and constituents end before it.

Positions count the tokens of the text from 0, without START; ends are inclusive; lengths are in
tokens, without START and END.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import NEWLINE
from diffusion_jax.text.files import json_value, read_lines
from diffusion_jax.text.labels import NEWLINE_TAG, UNIVERSAL_TAGS, lookup
from diffusion_jax.text.trees import Span, check_nested, parse_tree, span_of, without_line_ends

ANY_TAG = "*"
MASK = "___"
_FIELDS = ("attributes", "length", "pos", "tree", "spans", "keep", "keywords")
# What published targets hold besides, and records of others may: kept out of the way.
_PASSIVE = ("words_", "padded_chart", "attr", "id", "reference")


@dataclass(frozen=True)
class Target:
    """What one text shall be.

    Attributes:
        attributes: field -> value.
        length: tokens.
        pos: one Universal POS tag for each token, ``"*"`` for any.
        tree: brackets; the leaves count tokens, their words do not matter.
        spans: single constituents (start, end inclusive, label).
        keep: a template of words to keep, with holes, see ``text.templates``.
        keywords: words that must appear.
        reference: the text that a published target was made of; for people, never for the model.
    """

    attributes: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    pos: tuple[str, ...] | None = None
    tree: str | None = None
    spans: tuple[Span, ...] = ()
    keep: str | None = None
    keywords: tuple[str, ...] = ()
    reference: str | None = None

    def controls(self) -> tuple[str, ...]:
        """Return the names of the fields that ask for something."""
        return tuple(name for name in _FIELDS if getattr(self, name) not in (None, (), {}))

    def tree_spans(self) -> tuple[Span, ...]:
        """Return the constituents of the tree, () without one."""
        return parse_tree(self.tree).spans if self.tree is not None else ()

    def fixed_length(self) -> int | None:
        """Return the number of tokens that length, tags or tree ask for; None if none does."""
        if self.length is not None:
            return self.length
        if self.pos is not None:
            return len(self.pos)
        return len(parse_tree(self.tree).tokens) if self.tree is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return what is asked as JSON values, as ``target_from_json`` reads them."""
        record: dict[str, Any] = {name: getattr(self, name) for name in self.controls()}
        if "attributes" in record:
            record["attributes"] = dict(self.attributes)
        if "pos" in record:
            record["pos"] = " ".join(record["pos"])
        if "spans" in record:
            record["spans"] = [list(span) for span in self.spans]
        if "keywords" in record:
            record["keywords"] = list(self.keywords)
        return record


def parse_attributes(items: Iterable[str]) -> dict[str, str]:
    """Read ``food=Italian`` items; raises UserError for another form or two values of one field."""
    attributes: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name, value = name.strip(), value.strip()
        if not (name and equals and value):
            raise UserError(f"attribute {item!r} is not FIELD=VALUE, for example food=Italian")
        if attributes.setdefault(name, value) != value:
            raise UserError(
                f"contradictory controls: {name} cannot be both {attributes[name]!r} and {value!r}"
            )
    return attributes


def parse_tags(text: str | Sequence[str]) -> tuple[str, ...]:
    """Read Universal POS tags between spaces (``*``: any); raises UserError for another tag."""
    tags = tuple(text.split() if isinstance(text, str) else map(str, text))
    if not tags:
        raise UserError('no tag is given; write one for each token, for example "DET NOUN VERB"')
    for tag in tags:
        if tag != ANY_TAG:
            lookup(tag, UNIVERSAL_TAGS, "part of speech")
    return tags


def parse_span(item: str) -> Span:
    """Read ``3:5=PP``: a PP from token 3 to token 5, both included, counted from 0."""
    extent, equals, label = item.partition("=")
    start, colon, end = extent.partition(":")
    if not (
        equals and colon and label.strip() and start.strip().isdecimal() and end.strip().isdecimal()
    ):
        raise UserError(f"span {item!r} is not START:END=LABEL, for example 3:5=PP")
    return int(start), int(end), label.strip()


def make_target(
    *,
    attributes: Iterable[str] = (),
    length: int | None = None,
    pos: str | None = None,
    tree: str | None = None,
    spans: Iterable[str] = (),
    keep: str | None = None,
    keywords: Iterable[str] = (),
) -> Target:
    """Read a target as it is typed, and check it in itself; see ``check_target``."""
    target = Target(
        attributes=parse_attributes(attributes),
        length=length,
        pos=None if pos is None else parse_tags(pos),
        tree=tree,
        spans=tuple(map(parse_span, spans)),
        keep=keep,
        keywords=tuple(keywords),
    )
    check_target(target)
    return target


def read_targets(path: str | Path) -> list[Target]:
    """Read JSON lines of targets, ours or published; see the module.

    Raises:
        UserError: naming file and line: invalid JSON, an unknown field, or a target that
            contradicts itself.
    """
    targets = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        record = json_value(line, place)
        try:
            target = target_from_json(record)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        targets.append(target)
    if not targets:
        raise UserError(f"{path}: holds no target")
    return targets


def target_from_json(record: Any) -> Target:
    """Return the target of one line; raises UserError for what is none."""
    if isinstance(record, list):
        record = {"attr": record}
    if not isinstance(record, dict):
        raise UserError(f"a target is an object or a list, not {record!r}")
    for name in record:
        if name not in _PASSIVE:
            lookup(name, _FIELDS, "field of a target")
    attributes = {str(k): str(v) for k, v in _typed(record, "attributes", dict, {}).items()}
    if "attr" in record:
        attributes |= _published_attribute(record["attr"])
    pos = record.get("pos")
    if not (pos is None or isinstance(pos, str) or _all_texts(pos)):
        raise UserError(
            f'pos is {pos!r}; it must be a text, or a list of tags ["DET", "NOUN", ...]'
        )
    if isinstance(pos, list) and pos[:1] == ["START"]:
        pos = _without_specials(pos)
    words = _words(record)
    if isinstance(pos, list) and len(pos) == len(words):
        pos = [NEWLINE_TAG if word == NEWLINE else tag for tag, word in zip(pos, words)]
    spans = [span_of(value) for value in _typed(record, "spans", list, [])]
    # Before those that end before a line end are joined.
    _labels_of(spans)
    length = record.get("length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool)):
        raise UserError(f"length is {length!r}; it must be a whole number of tokens")
    target = Target(
        attributes=attributes,
        length=length,
        pos=None if pos is None else parse_tags(pos),
        tree=_typed(record, "tree", str, None),
        spans=without_line_ends(spans, words),
        keep=_typed(record, "keep", str, None),
        keywords=tuple(map(str, _typed(record, "keywords", list, []))),
        reference=" ".join(words) if words else record.get("reference"),
    )
    check_target(target)
    return target


def check_target(target: Target, max_length: int | None = None) -> None:
    """Raise UserError where a target contradicts itself or does not fit a model.

    Args:
        target: what is asked.
        max_length: the most tokens that the model writes; None does not look.
    """
    if not target.controls():
        raise UserError(
            "the target asks for nothing; give one of attribute, length, pos, tree, span, keep, "
            "keyword"
        )
    lengths = {"length": target.length, "pos": target.pos and len(target.pos)}
    if target.tree is not None:
        lengths["tree"] = len(parse_tree(target.tree).tokens)
    lengths = {name: number for name, number in lengths.items() if number is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} asks for {number}" for name, number in lengths.items())
        raise UserError(f"contradictory controls: {listed} tokens")
    for name, number in lengths.items():
        if number < 1 or (max_length is not None and number > max_length):
            room = "" if max_length is None else f" to {max_length}, what this model writes"
            raise UserError(f"{name} asks for {number} tokens; ask for 1{room}")
    _check_spans(target, next(iter(lengths.values()), max_length))


def _check_spans(target: Target, num_tokens: int | None) -> None:
    labels = _labels_of(target.spans)
    check_nested(target.spans, num_tokens)
    if target.tree is None:
        return
    tree = {(start, end): label for start, end, label in target.tree_spans()}
    for (start, end), label in labels.items():
        if tree.get((start, end)) != label:
            found = tree.get((start, end), "no constituent")
            raise UserError(
                f"contradictory controls: span {start}:{end}={label}, where the tree has {found}"
            )


def _labels_of(spans: Iterable[Span]) -> dict[tuple[int, int], str]:
    """Return extent -> label; raises UserError for two labels of one extent."""
    labels: dict[tuple[int, int], str] = {}
    for start, end, label in spans:
        if labels.setdefault((start, end), label) != label:
            raise UserError(
                f"contradictory controls: span {start}:{end} cannot be both "
                f"{labels[start, end]} and {label}"
            )
    return labels


def _typed(record: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = record.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "a text"}
        raise UserError(f"{name} is {value!r}; it must be {names[kind]}")
    return value


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _published_attribute(words: Any) -> dict[str, str]:
    """Read ``["customer", "rating", ":", "5", "out", "of", "5"]``."""
    if not _all_texts(words) or ":" not in words:
        raise UserError(f'attribute {words!r} is not ["field", ":", "value"]')
    colon = words.index(":")
    name, value = " ".join(words[:colon]), " ".join(words[colon + 1 :])
    if not (name and value):
        raise UserError(f'attribute {words!r} is not ["field", ":", "value"]')
    return {name: value}


def _words(record: Mapping[str, Any]) -> list[str]:
    """Return the words that a published target was made of, [] where it does not tell."""
    words = record.get("words_")
    if words is None:
        return []
    if not _all_texts(words):
        raise UserError(f"words_ is {words!r}; it must be a list of words")
    return _without_specials(words)


def _without_specials(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in ("START", "END", "PAD")]
