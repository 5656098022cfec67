"""Word-level vocabulary of Diffusion-LM and DiffuSeq: one id per whitespace-separated word."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import read_lines
from diffusion_jax.text.tokenizers.base import (
    END_TEXT,
    PAD_TEXT,
    START_TEXT,
    UNK_TEXT,
    content_ids,
    duplicates,
    write_description,
)

VOCAB_FILE = "vocab.json"
_SPECIAL_TEXTS = (START_TEXT, END_TEXT, UNK_TEXT, PAD_TEXT)
# Diffusion-LM writes the same four without brackets.
_SPECIAL_WORDS_OF_DIFFUSION_LM = ("START", "END", "UNK", "PAD")
# A newline is a word: Diffusion-LM keeps the line end of E2E sentences as a token before END.
_WORD = re.compile(r"\n|\S+")


class WordTokenizer:
    """Split on whitespace; every known word has an id, every other word is UNK.

    Ids are START=0, END=1, UNK=2, PAD=3, then ``words`` in the given order (Diffusion-LM,
    Li et al. 2022, and DiffuSeq's own vocabulary files). A newline is a word of its own. The
    separator between source and target is END, as DiffuSeq has it for word vocabularies.
    """

    kind = "word"
    start_id = 0
    end_id = 1
    unk_id = 2
    pad_id = 3
    sep_id = end_id

    def __init__(self, words: Sequence[str], *, bpe_markers: bool = False):
        """Make a tokenizer of a list of words.

        Args:
            words: The vocabulary without the special tokens, in order of their ids.
            bpe_markers: Whether words are sub-word pieces that end in ``@@`` or ``__``, which
                ``decode`` then glues to the next piece.

        Raises:
            UserError: A word occurs twice.
        """
        if repeated := duplicates(words):
            raise UserError(
                f"the vocabulary holds {repeated[0]!r} more than once; every word needs one id"
            )
        self.words = tuple(words)
        self.bpe_markers = bpe_markers
        self._id_of = {word: i for i, word in enumerate(self.words, start=len(_SPECIAL_TEXTS))}

    @classmethod
    def build(cls, texts: Iterable[str], *, threshold: int = 10) -> "WordTokenizer":
        """Collect the words seen more than ``threshold`` times, in order of first occurrence.

        Args:
            texts: The training texts.
            threshold: Words seen this often or less become UNK. Diffusion-LM uses 10.

        Raises:
            UserError: No word is frequent enough.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_WORD.findall(text))
        for special in _SPECIAL_TEXTS:
            counts.pop(special, None)
        words = [word for word, count in counts.items() if count > threshold]
        if not words:
            raise UserError(
                f"no word occurs more than {threshold} times among {len(counts)} different words; "
                "lower the threshold or give more text"
            )
        return cls(words)

    @classmethod
    def from_vocab_file(cls, path: str | Path) -> "WordTokenizer":
        """Read a published vocabulary: Diffusion-LM's ``vocab.json`` or DiffuSeq's text file.

        The JSON form maps every word to its id and contains the four special tokens. The text
        form holds one word a line (further columns are ignored) without special tokens; its
        pieces may carry ``@@`` or ``__``.

        Raises:
            UserError: The file is missing or is neither form.
        """
        path = Path(path)
        if path.suffix == ".json":
            return cls(_words_of_json(path))
        rows = (line.split() for _, line in read_lines(path))
        words = [row[0] for row in rows if row]
        return cls([w for w in words if w not in _SPECIAL_TEXTS], bpe_markers=True)

    @classmethod
    def load(cls, directory: str | Path, *, bpe_markers: bool = False) -> "WordTokenizer":
        """Read what ``save`` wrote."""
        return cls(_words_of_json(Path(directory) / VOCAB_FILE), bpe_markers=bpe_markers)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(_SPECIAL_TEXTS) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words of ``text``, without special tokens."""
        return [self._id_of.get(word, self.unk_id) for word in _WORD.findall(text)]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return one string per id, special tokens included."""
        table = _SPECIAL_TEXTS + self.words
        return [table[int(i)] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words up to the first END, joined by spaces."""
        text = " ".join(self.tokens(content_ids(ids, self))).strip()
        if self.bpe_markers:
            text = text.replace("__ ", "").replace("@@ ", "")
        return text

    def options(self) -> dict[str, bool]:
        """Return the constructor's options beside the vocabulary."""
        return {"bpe_markers": self.bpe_markers}

    def save(self, directory: str | Path) -> None:
        """Write the vocabulary as JSON, word to id."""
        write_description(directory, self.kind, self.options())
        table = {word: i for i, word in enumerate(_SPECIAL_TEXTS + self.words)}
        path = Path(directory) / VOCAB_FILE
        path.write_text(json.dumps(table, ensure_ascii=False, indent=0), encoding="utf-8")

    def fingerprint(self) -> str:
        """Return a digest of the vocabulary and its order."""
        content = json.dumps([self.kind, self.options(), self.words])
        return hashlib.sha256(content.encode()).hexdigest()


def _words_of_json(path: Path) -> list[str]:
    """Return the words of a word-to-id table, in order, after checking its special tokens."""
    text = "\n".join(line for _, line in read_lines(path))
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a vocabulary, invalid JSON: {error}") from None
    ids = list(table.values()) if isinstance(table, dict) else []
    if not ids or any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{path}: a vocabulary must map every word to its id, 0 to size - 1")
    ordered = sorted(table, key=table.__getitem__)
    specials, words = tuple(ordered[:4]), ordered[4:]
    if specials not in (_SPECIAL_TEXTS, _SPECIAL_WORDS_OF_DIFFUSION_LM):
        raise UserError(
            f"{path}: ids 0 to 3 are {', '.join(map(repr, specials))}, but must be "
            f"{', '.join(_SPECIAL_TEXTS)}; this vocabulary does not fit"
        )
    return words
