"""From a corpus to packed rows in one streaming pass, counting what happens on the way."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Corpus, Example
from diffusion_jax.text.packing import (
    PAIR_SPECIALS,
    TEXT_SPECIALS,
    OnLong,
    Row,
    pack_blocks,
    pack_pair,
    pack_text,
    pair_overflow,
    text_overflow,
)
from diffusion_jax.text.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Packing:
    """How examples become rows.

    Attributes:
        length: Row length L.
        mode: ``"pad"``: one example a row; ``"block"``: texts concatenated and cut.
        on_long: What to do with an example that does not fit (mode ``"pad"``): ``"error"``,
            ``"truncate"`` or ``"drop"``.
    """

    length: int
    mode: Literal["pad", "block"] = "pad"
    on_long: OnLong = "error"

    def __post_init__(self):
        if self.length <= TEXT_SPECIALS:
            raise UserError(
                f"length is {self.length}, but must be more than the {TEXT_SPECIALS} special "
                "tokens of a text"
            )
        if self.mode not in ("pad", "block"):
            raise UserError(f'mode is {self.mode!r}, but must be "pad" or "block"')
        if self.on_long not in ("error", "truncate", "drop"):
            raise UserError(
                f'on_long is {self.on_long!r}, but must be "error", "truncate" or "drop"'
            )


@dataclass
class PackingReport:
    """What happened to a corpus on its way into rows.

    Attributes:
        examples: Examples read.
        rows: Rows made.
        tokens: Tokens of all examples, without special tokens, before truncation.
        unknown_tokens: Those of them that are UNK.
        truncated: Examples cut to the row length.
        dropped: Examples left out because they are too long.
    """

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    truncated: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        unknown = 100 * self.unknown_tokens / max(self.tokens, 1)
        return (
            f"{self.examples} examples, {self.rows} rows, {self.tokens} tokens "
            f"({unknown:.2f}% unknown), {self.truncated} truncated, {self.dropped} dropped"
        )


class CorpusPacker:
    """Iterate over a corpus as packed rows, once; ``report`` counts along.

    Pairs are packed as DiffuSeq does, texts as Diffusion-LM does.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, options: Packing):
        """Check that corpus and options go together.

        Raises:
            UserError: Pairs cannot be packed in blocks, or the length is too short for a pair.
        """
        if corpus.paired and options.mode == "block":
            raise UserError(
                f'{corpus.describe}: pairs cannot be packed in mode "block"; use mode "pad"'
            )
        if corpus.paired and options.length <= PAIR_SPECIALS:
            raise UserError(
                f"{corpus.describe}: length is {options.length}, but must be more than the "
                f"{PAIR_SPECIALS} special tokens of a pair"
            )
        self.report = PackingReport()
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._options = options

    def __iter__(self) -> Iterator[Row]:
        if self._options.mode == "block":
            id_lists = (self._encode(example.text) for example in self._examples())
            rows = pack_blocks(id_lists, self._options.length, self._tokenizer)
        else:
            rows = (row for _, row in self._packed())
        for row in rows:
            self.report.rows += 1
            yield row

    def with_examples(self) -> Iterator[tuple[Example, Row]]:
        """Yield every example that is not dropped with its row (mode ``"pad"``), once.

        Raises:
            UserError: The mode is ``"block"``, in which a row holds several examples.
        """
        if self._options.mode == "block":
            raise UserError(
                f'{self._corpus.describe}: rows of mode "block" hold several texts, so that labels '
                'of texts do not belong to rows; use mode "pad"'
            )
        for example, row in self._packed():
            self.report.rows += 1
            yield example, row

    def _packed(self) -> Iterator[tuple[Example, Row]]:
        for example in self._examples():
            row = self._pack(example)
            if row is not None:
                yield example, row

    def _examples(self) -> Iterator[Example]:
        for example in self._corpus:
            self.report.examples += 1
            yield example

    def _encode(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        self.report.tokens += len(ids)
        self.report.unknown_tokens += ids.count(self._tokenizer.unk_id)
        return ids

    def _pack(self, example: Example) -> Row | None:
        """Pack one example, or return None when it is dropped."""
        length, on_long = self._options.length, self._options.on_long
        if example.src is None or example.trg is None:
            ids = self._encode(example.text)
            too_long = text_overflow(ids, length) > 0
            pack = partial(pack_text, ids)
        else:
            src_ids, trg_ids = self._encode(example.src), self._encode(example.trg)
            too_long = pair_overflow(src_ids, trg_ids, length) > 0
            pack = partial(pack_pair, src_ids, trg_ids)
        if too_long and on_long == "drop":
            self.report.dropped += 1
            return None
        self.report.truncated += too_long
        cut = "truncate" if on_long == "truncate" else "error"
        try:
            return pack(length, self._tokenizer, on_long=cut)
        except UserError as error:
            raise UserError(f"{self._corpus.describe}, example {example.id}: {error}") from None
