"""What classifiers predict: label sets, and labels put where the tokens of a packed row are.

Three tasks (Li et al. 2022): a value for each field of a text ("attribute"), a Universal POS tag
for each position ("pos"), a label for each span of positions ("tree"). Labels are integers;
``FREE`` marks what is not said.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Example, words_of
from diffusion_jax.text.trees import (
    Span,
    check_nested,
    join_spans,
    parse_tree,
    span_of,
    without_line_ends,
)

FREE = -1
ABSENT = "absent"
NO_SPAN = "-"
NEWLINE_TAG = "X"
"""The tag of a line end that is kept as a word; a tagger has none for it."""
SPECIAL_TAGS = ("START", "END", "UNK", "PAD")
UNIVERSAL_TAGS = (
    *("ADJ", "ADV", "INTJ", "NOUN", "PROPN", "VERB", "ADP", "AUX", "CCONJ"),
    *("DET", "NUM", "PART", "PRON", "SCONJ", "PUNCT", "SYM", "X"),
)
TAGS = SPECIAL_TAGS + UNIVERSAL_TAGS
_MAX_VALUES = 1000


def lookup(name: str, names: Sequence[str], what: str) -> int:
    """Return the index of a name; raises UserError that suggests the nearest."""
    if name in names:
        return names.index(name)
    # Whatever the case: "det" is near to "DET".
    folded = {known.casefold(): known for known in names}
    near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=1)]
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    raise UserError(f"there is no {what} {name!r}; {hint}choose from: {shown}")


@dataclass(frozen=True)
class AttributeLabels:
    """Fields and their values; every field also has the value ``absent``, which comes first.

    Attributes:
        fields: name -> values.
    """

    task: ClassVar[str] = "attribute"
    fields: Mapping[str, tuple[str, ...]]

    @property
    def num_classes(self) -> int:
        """Values of all fields together."""
        return sum(map(len, self.fields.values()))

    @property
    def slices(self) -> dict[str, slice]:
        """Which logits belong to which field."""
        slices, start = {}, 0
        for name, values in self.fields.items():
            slices[name] = slice(start, start + len(values))
            start += len(values)
        return slices

    def index(self, field: str, value: str) -> int:
        """Return the number of a value within its field.

        Raises:
            UserError: unknown field or value; the nearest is named.
        """
        lookup(field, list(self.fields), "field")
        return lookup(value, self.fields[field], f"value of {field}")

    def encode(self, attributes: Mapping[str, str], *, rest: str | None = None) -> np.ndarray:
        """Return int32 [F], one label per field.

        Args:
            attributes: field -> value.
            rest: value of the fields that are not named, e.g. ``ABSENT``; None leaves them FREE.

        Raises:
            UserError: unknown field or value.
        """
        for name in attributes:
            lookup(name, list(self.fields), "field")
        missing = FREE if rest is None else 0
        return np.asarray(
            [
                self.index(name, attributes[name]) if name in attributes else missing
                for name in self.fields
            ],
            np.int32,
        )


@dataclass(frozen=True)
class TagLabels:
    """Part-of-speech tags: those of the special tokens, then Universal POS.

    Attributes:
        tags: in the order of their numbers (Diffusion-LM's order).
    """

    task: ClassVar[str] = "pos"
    tags: tuple[str, ...] = TAGS

    @property
    def num_classes(self) -> int:
        """Number of tags."""
        return len(self.tags)

    def encode(self, tags: Sequence[str], length: int, *, end: bool = True) -> np.ndarray:
        """Return int32 [L]: START, the tags, then END and PAD to the end of the row.

        Args:
            tags: one for each token; ``"*"`` leaves a position free.
            length: L.
            end: whether the text ends after the tags; otherwise what follows is FREE.

        Raises:
            UserError: unknown tag (the nearest is named), or more tags than the row has room for.
        """
        if len(tags) + 2 > length:
            raise UserError(
                f"{len(tags)} tags do not fit rows of {length} positions, two of which are START "
                "and END"
            )
        row = np.full(length, FREE, np.int32)
        row[0] = self.tags.index("START")
        for i, tag in enumerate(tags, start=1):
            row[i] = FREE if tag == "*" else lookup(tag, self.tags, "tag")
        if end:
            row[len(tags) + 1] = self.tags.index("END")
            row[len(tags) + 2 :] = self.tags.index("PAD")
        return row


@dataclass(frozen=True)
class SpanLabels:
    """Labels of constituents; number 0 says that there is none.

    Attributes:
        labels: in the order of their numbers; the first is ``NO_SPAN``.
    """

    task: ClassVar[str] = "tree"
    labels: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of labels, ``NO_SPAN`` included."""
        return len(self.labels)

    def encode(
        self, spans: Iterable[Span], length: int, *, num_tokens: int | None = None
    ) -> np.ndarray:
        """Return a chart, int32 [L, L], of which cell [i, j] is the span from position i to j.

        Token 0 stands at position 1, behind START. Cells below the diagonal are FREE. With
        ``num_tokens`` the spans are a whole tree: every other cell says that there is none, also
        over START, END and PAD. Without it the spans are single wishes: every other cell is FREE.

        Raises:
            UserError: unknown label (the nearest is named), crossing spans, or one that does not
                fit.
        """
        spans = list(spans)
        room = length - 2
        check_nested(spans, room if num_tokens is None else min(num_tokens, room))
        chart = np.full((length, length), FREE, np.int32)
        if num_tokens is not None:
            chart[np.triu_indices(length)] = 0
        for start, end, label in spans:
            # No span has the first label, which says that there is none.
            number = 1 + lookup(label, self.labels[1:], "constituent")
            if chart[start + 1, end + 1] not in (FREE, 0, number):
                raise UserError(f"span {start}:{end} is given two labels")
            chart[start + 1, end + 1] = number
        return chart


LabelSet = AttributeLabels | TagLabels | SpanLabels


def labels_to_json(labels: LabelSet) -> dict[str, Any]:
    """Return a label set as JSON values."""
    if isinstance(labels, AttributeLabels):
        fields = {name: list(values) for name, values in labels.fields.items()}
        return {"task": labels.task, "fields": fields}
    if isinstance(labels, TagLabels):
        return {"task": labels.task, "tags": list(labels.tags)}
    return {"task": labels.task, "labels": list(labels.labels)}


def labels_from_json(values: Mapping[str, Any]) -> LabelSet:
    """Return what ``labels_to_json`` was given; raises UserError on anything else."""
    try:
        if values["task"] == "attribute":
            return AttributeLabels({n: tuple(v) for n, v in values["fields"].items()})
        if values["task"] == "pos":
            return TagLabels(tuple(values["tags"]))
        if values["task"] == "tree":
            return SpanLabels(tuple(values["labels"]))
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError("not a set of labels: it needs a task (attribute, pos, tree) and its labels")


def collect_labels(task: str, examples: Iterable[Example], where: str) -> LabelSet:
    """Return the labels that occur in examples; of "pos" all there are.

    Args:
        task: "attribute", "pos" or "tree".
        examples: read to their end ("pos": until one with tags was seen).
        where: name of the corpus, for messages.

    Raises:
        UserError: an example lacks what the task needs, or there is nothing to tell apart.
    """
    if task == "pos":
        for example in examples:
            read_tags(example, where)
            break
        return TagLabels()
    if task == "tree":
        names = {label for e in examples for *_, label in read_spans(e, where)[1]}
        if not names:
            raise UserError(f"{where}: no example has constituents")
        return SpanLabels((NO_SPAN, *sorted(names)))
    fields: dict[str, set[str]] = {}
    for example in examples:
        for name, value in read_attributes(example, where).items():
            # Every field has that value already; some corpora write it, others leave the field out.
            if value != ABSENT:
                fields.setdefault(name, set()).add(value)
    for name, values in fields.items():
        if len(values) > _MAX_VALUES:
            raise UserError(
                f"{where}: field {name!r} has {len(values)} values, more than the {_MAX_VALUES} "
                "that a classifier tells apart; is it an attribute?"
            )
    if not fields:
        raise UserError(f"{where}: no example has attributes")
    return AttributeLabels({name: (ABSENT, *sorted(fields[name])) for name in fields})


def read_attributes(example: Example, where: str) -> Mapping[str, str]:
    """Return the attributes of an example; raises UserError where it has none, or odd ones."""
    form = 'an object such as {"food": "thai"}'
    attributes = _field(example, where, "attributes", form)
    if not isinstance(attributes, Mapping):
        raise _odd(example, where, "attributes", form)
    for name, value in attributes.items():
        if isinstance(value, bool) or not isinstance(value, str | Real):
            raise UserError(
                f"{_place(example, where)}: the attribute {name!r} is {value!r}; it must be a text "
                'such as "thai" (what the text does not say is left out)'
            )
    return {str(name): str(value) for name, value in attributes.items()}


def read_tags(example: Example, where: str) -> Sequence[str]:
    """Return one tag per word of an example; raises UserError where it has none, or odd ones."""
    form = "a list of Universal POS tags, one for each word"
    tags = _field(example, where, "pos", form)
    if isinstance(tags, str):
        tags = tags.split()
    if not (isinstance(tags, list | tuple) and all(isinstance(tag, str) for tag in tags)):
        raise _odd(example, where, "pos", form)
    return list(tags)


def read_spans(example: Example, where: str) -> tuple[int | None, tuple[Span, ...]]:
    """Return the number of words that the tree counts (None if unknown), and its spans.

    Raises:
        UserError: the example has neither ``tree`` nor ``spans``, or they cannot be read: brackets
            that do not match, spans that cross, a label that says that there is none.
    """
    name = "spans" if example.fields.get("tree") is None and "spans" in example.fields else "tree"
    form = {
        "tree": "brackets such as (S (NP ...) (VP ...)), or give spans",
        "spans": 'a list of [start, end, label], for example [[3, 5, "PP"]]',
    }
    value, count = _field(example, where, name, form[name]), None
    try:
        if name == "tree" and isinstance(value, str):
            tree = parse_tree(value)
            count, spans = len(tree.tokens), tree.spans
        elif name == "spans" and isinstance(value, list | tuple):
            given = [span_of(item) for item in value]
            spans = join_spans(without_line_ends(given, words_of(example.text)))
        else:
            raise _odd(example, where, name, form[name])
        check_nested(spans)
        if any(label == NO_SPAN for *_, label in spans):
            raise UserError(
                f"a constituent is labelled {NO_SPAN!r}, which says that there is none; rename it"
            )
    except UserError as error:
        place = _place(example, where)
        raise UserError(str(error) if place in str(error) else f"{place}: {error}") from None
    return count, spans


def _field(example: Example, where: str, name: str, form: str) -> Any:
    """Return a field of an example; raises UserError where it is not there, or null."""
    value = example.fields.get(name)
    if value is None:
        present = [field for field, value in example.fields.items() if value is not None]
        raise UserError(
            f"{_place(example, where)}: no {name!r} in it (there is: "
            f"{', '.join(present) or 'nothing but text'}); it must be {form}"
        )
    return value


def _odd(example: Example, where: str, name: str, form: str) -> UserError:
    value = example.fields[name]
    return UserError(f"{_place(example, where)}: {name!r} is {value!r}; it must be {form}")


def _place(example: Example, where: str) -> str:
    return f"{where}, example {example.id}"
