"""What every tokenizer promises, and the one rule for removing special tokens."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

DESCRIPTION_FILE = "tokenizer.json"
PAD_TEXT = "[PAD]"
START_TEXT = "[START]"
END_TEXT = "[END]"
UNK_TEXT = "[UNK]"


class SpecialIds(Protocol):
    """The four ids that packing needs."""

    @property
    def start_id(self) -> int:
        """Id before the first token of a text."""
        ...

    @property
    def end_id(self) -> int:
        """Id after the last token of a text."""
        ...

    @property
    def sep_id(self) -> int:
        """Id between source and target."""
        ...

    @property
    def pad_id(self) -> int:
        """Id that fills a row."""
        ...


class Tokenizer(SpecialIds, Protocol):
    """Text to ids and back.

    ``encode`` never adds special tokens and never emits their ids (the unknown id excepted):
    packing adds START, END, SEP and PAD.
    """

    kind: str

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        ...

    @property
    def unk_id(self) -> int:
        """Id of every unknown token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without special tokens."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first END, without START, SEP and PAD."""
        ...

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return one string per id, special tokens included."""
        ...

    def save(self, directory: str | Path) -> None:
        """Write plain files from which ``load_tokenizer`` restores this tokenizer."""
        ...

    def fingerprint(self) -> str:
        """Return a digest that is equal exactly when encoding is equal."""
        ...


def special_ids(special: SpecialIds) -> list[int]:
    """Return the ids that packing adds, sorted, each once."""
    return sorted({special.start_id, special.end_id, special.sep_id, special.pad_id})


def content_ids(ids: Iterable[int], special: SpecialIds) -> list[int]:
    """Return the ids before the first END, without START, SEP and PAD.

    Args:
        ids: One sentence, as packed or as generated.
        special: The ids of the special tokens; SEP and END may be the same id.
    """
    content = []
    for token_id in map(int, ids):
        if token_id == special.end_id:
            break
        if token_id not in (special.start_id, special.sep_id, special.pad_id):
            content.append(token_id)
    return content


def duplicates(words: Sequence[str]) -> list[str]:
    """Return the words that occur more than once, in order of their second occurrence."""
    seen: set[str] = set()
    repeated = []
    for word in words:
        if word in seen:
            repeated.append(word)
        seen.add(word)
    return repeated


def write_description(directory: str | Path, kind: str, options: dict[str, bool]) -> None:
    """Write which tokenizer the files of a directory belong to; make the directory."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    record = {"kind": kind, "options": options}
    (directory / DESCRIPTION_FILE).write_text(json.dumps(record), encoding="utf-8")
