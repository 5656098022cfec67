"""Labelled rows: a corpus packed as for the denoiser, with the labels of a classifier beside it."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import NEWLINE, Corpus, Example, words_of
from diffusion_jax.text.labels import (
    ABSENT,
    FREE,
    NEWLINE_TAG,
    UNIVERSAL_TAGS,
    AttributeLabels,
    LabelSet,
    SpanLabels,
    TagLabels,
    lookup,
    read_attributes,
    read_spans,
    read_tags,
)
from diffusion_jax.text.packing import Row
from diffusion_jax.text.rows import CorpusPacker, Packing, PackingReport
from diffusion_jax.text.slots import said_attributes
from diffusion_jax.text.tokenizers.base import Tokenizer
from diffusion_jax.text.trees import Span


class LabelledRows:
    """A table of packed rows with labels, in memory; ``text.loader`` reads it.

    Attributes:
        labels: what the numbers mean.
        input_ids: int32 [N, L].
        targets: "attribute": int32 [N, F]; "pos": int32 [N, L]; "tree": one tuple of
            (first position, last position, label number) per row.
        report: what happened to the corpus.
    """

    def __init__(
        self,
        labels: LabelSet,
        input_ids: np.ndarray,
        targets: Any,
        report: PackingReport,
    ):
        self.labels = labels
        self.input_ids = input_ids
        self.targets = targets
        self.report = report

    @property
    def checksum(self) -> int:
        """CRC-32 of the rows and their labels: the same wherever the same rows are."""
        targets = self.targets
        written = targets.tobytes() if isinstance(targets, np.ndarray) else repr(targets).encode()
        return zlib.crc32(written, zlib.crc32(self.input_ids.tobytes()))

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the given rows.

        Returns:
            ``input_ids`` [B, L] int32, ``noise_mask`` [B, L] bool (all true) and ``targets`` int32:
            [B, F], [B, L] or [B, L, L]; ``FREE`` where there is nothing to learn.
        """
        ids = self.input_ids[indices]
        if isinstance(self.labels, SpanLabels):
            targets = np.stack([_chart(self.targets[i], ids.shape[1]) for i in indices])
        else:
            targets = np.asarray(self.targets)[indices]
        return {"input_ids": ids, "noise_mask": np.ones(ids.shape, np.bool_), "targets": targets}


def build_labelled(
    corpus: Corpus,
    tokenizer: Tokenizer,
    packing: Packing,
    labels: LabelSet,
    *,
    as_said: bool = False,
) -> LabelledRows:
    """Pack a labelled corpus in one pass.

    Args:
        corpus: single texts with ``attributes``, ``pos``, or ``tree`` (or ``spans``).
        tokenizer: of the run that the classifier is for.
        packing: as the run has it.
        labels: what to look for; a span label that is not in it is left out.
        as_said: of attributes, learn what the text says (``slots.said_attributes``) instead of
            what the corpus says that it was written for.

    Raises:
        UserError: an example lacks its labels or they do not fit its words, the corpus holds pairs,
            or no row results.
    """
    if corpus.paired:
        raise UserError(
            f"{corpus.describe}: holds pairs; a classifier is trained on single texts (task text)"
        )
    packer = CorpusPacker(corpus, tokenizer, packing)
    ids, targets = [], []
    for example, row in packer.with_examples():
        try:
            targets.append(_targets(example, row, tokenizer, labels, corpus.describe, as_said))
        except UserError as error:
            place = f"{corpus.describe}, example {example.id}"
            raise UserError(str(error) if place in str(error) else f"{place}: {error}") from None
        ids.append(row.input_ids)
    if not ids:
        raise UserError(f"{corpus.describe}: no row is left ({packer.report})")
    table = targets if isinstance(labels, SpanLabels) else np.stack(targets)
    return LabelledRows(labels, np.stack(ids), table, packer.report)


def _targets(
    example: Example, row: Row, tokenizer: Tokenizer, labels: LabelSet, where: str, as_said: bool
) -> np.ndarray | tuple[tuple[int, int, int], ...]:
    if isinstance(labels, AttributeLabels):
        given = read_attributes(example, where)
        said = said_attributes(example.text, given, labels.fields) if as_said else given
        return _field_values(said, labels)
    words = word_positions(example.text, tokenizer)
    if isinstance(labels, TagLabels):
        tags = tags_of_words(read_tags(example, where), example.text)
        return _tag_row(tags, words, row, tokenizer, labels)
    count, spans = read_spans(example, where)
    written = len(words) - example.text.endswith(NEWLINE)
    if count is not None and count not in (written, len(words)):
        raise UserError(f"the tree has {count} words, but the text {written}")
    return _span_cells(spans, words, row, labels)


def _field_values(said: Mapping[str, str | None], labels: AttributeLabels) -> np.ndarray:
    """Return a label per field; FREE where the value is none of those that are told apart."""
    fields = labels.fields
    known = {name: v for name, v in said.items() if v is not None and v in fields.get(name, ())}
    values = labels.encode(known, rest=ABSENT)
    unknown = [name in said and name not in known for name in labels.fields]
    return np.where(unknown, FREE, values).astype(np.int32)


def tags_of_words(tags: Sequence[str], text: str) -> list[str]:
    """Return one tag for each word; that of a line end, tagged or not, is ``NEWLINE_TAG``.

    Raises:
        UserError: there are more or fewer tags than words.
    """
    words = words_of(text)
    if len(tags) == len(words) - 1 and words[-1] == NEWLINE:
        tags = [*tags, NEWLINE_TAG]
    if len(tags) != len(words):
        raise UserError(f"there are {len(tags)} tags for the {len(words)} words of the text")
    return [NEWLINE_TAG if word == NEWLINE else tag for tag, word in zip(tags, words)]


def _tag_row(
    tags: Sequence[str], words: list[range], row: Row, tokenizer: Tokenizer, labels: TagLabels
) -> np.ndarray:
    """Return the tag of each position; those of the special tokens are their own."""
    targets = np.full(len(row.input_ids), FREE, np.int32)
    special = {"START": tokenizer.start_id, "END": tokenizer.end_id, "PAD": tokenizer.pad_id}
    for name, token_id in special.items():
        targets[row.input_ids == token_id] = labels.tags.index(name)
    for tag in tags:
        # Those of the special tokens are no tags of words.
        lookup(tag, UNIVERSAL_TAGS, "tag")
    # Token 0 stands behind START; what was cut off has no position.
    numbers = [labels.tags.index(tag) for tag in tags_of_tokens(tags, words)]
    room = len(targets) - 1
    targets[1 : 1 + min(len(numbers), room)] = numbers[:room]
    return targets


def _span_cells(
    spans: Sequence[Span], words: list[range], row: Row, labels: SpanLabels
) -> tuple[tuple[int, int, int], ...]:
    # Token 0 stands behind START.
    return tuple(
        (first + 1, last + 1, labels.labels.index(label))
        for first, last, label in spans_of_tokens(spans, words)
        if last + 1 < len(row.input_ids) and label in labels.labels
    )


def tags_of_tokens(tags: Sequence[str], words: Sequence[range]) -> list[str]:
    """Return one tag for each token, given one for each word: pieces of a word share its tag.

    Args:
        tags: of the words.
        words: the tokens of each word, as ``word_positions``.
    """
    return [tag for tag, tokens in zip(tags, words) for _ in tokens]


def spans_of_tokens(spans: Sequence[Span], words: Sequence[range]) -> list[Span]:
    """Return spans of words as spans of tokens: first piece to last piece, ends inclusive.

    Args:
        spans: (first word, last word, label).
        words: the tokens of each word, as ``word_positions``.

    Raises:
        UserError: a span is not inside the words.
    """
    for start, end, _ in spans:
        if not 0 <= start <= end < len(words):
            raise UserError(f"span {start}:{end} is not inside the {len(words)} words of the text")
    return [(words[start].start, words[end].stop - 1, label) for start, end, label in spans]


def _chart(cells: Sequence[tuple[int, int, int]], length: int) -> np.ndarray:
    """Return [L, L]: FREE below the diagonal, 0 where there is no constituent."""
    chart = np.full((length, length), FREE, np.int32)
    chart[np.triu_indices(length)] = 0
    for first, last, label in cells:
        chart[first, last] = label
    return chart


def word_positions(text: str, tokenizer: Tokenizer) -> list[range]:
    """Return which tokens each word of ``text`` becomes (words stand between spaces).

    A word tokenizer makes one token of each; a subword tokenizer several, and then all pieces of a
    word get its tag, and a span runs from the first piece of its first word to the last piece of
    its last.

    Raises:
        UserError: encoding word by word differs from encoding the text, so that nobody can say
            which token belongs to which word.
    """
    ids: list[int] = []
    ranges: list[range] = []
    for word in words_of(text):
        pieces = tokenizer.encode(word)
        ranges.append(range(len(ids), len(ids) + len(pieces)))
        ids += pieces
    if ids != tokenizer.encode(text):
        raise UserError(
            f"the tokenizer ({tokenizer.kind}) does not split {text!r} word by word, so that "
            "labels of words cannot be given to its tokens"
        )
    return ranges
