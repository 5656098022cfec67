"""BERT WordPiece from a vocabulary file, as DiffuSeq uses it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import read_lines
from diffusion_jax.text.tokenizers.base import content_ids, duplicates, write_description

VOCAB_FILE = "vocab.txt"
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class WordPieceTokenizer:
    """BERT's sub-words: START is [CLS], END and SEP are [SEP].

    Needs the extra ``hf``. Text is split as BERT does (punctuation apart, optional lower-casing
    with accents removed), then matched greedily against the vocabulary (Devlin et al. 2019).
    """

    kind = "wordpiece"

    def __init__(self, vocab: Iterable[str], *, lowercase: bool = True):
        """Make a tokenizer of a vocabulary in order of ids.

        Args:
            vocab: One piece per id, special tokens included.
            lowercase: Whether the vocabulary is an uncased one.

        Raises:
            UserError: The extra is not installed, a special token is missing or a piece is there
                twice.
        """
        try:
            import tokenizers
        except ModuleNotFoundError:
            raise UserError(
                'WordPiece needs the package "tokenizers"; install the extra: '
                'pip install "diffusion-jax[hf]"'
            ) from None
        self.vocab = tuple(vocab)
        self.lowercase = lowercase
        id_of = {piece: i for i, piece in enumerate(self.vocab)}
        if missing := [piece for piece in _SPECIALS if piece not in id_of]:
            raise UserError(
                f"the vocabulary has no {', '.join(missing)}; a BERT vocabulary holds "
                f"{', '.join(_SPECIALS)}, one piece a line"
            )
        if repeated := duplicates(self.vocab):
            raise UserError(f"the vocabulary holds {repeated[0]!r} more than once")
        self.pad_id, self.unk_id, self.start_id, self.end_id = (id_of[p] for p in _SPECIALS)
        self.sep_id = self.end_id
        self._impl = tokenizers.BertWordPieceTokenizer(vocab=id_of, lowercase=lowercase)
        # Text that spells "[SEP]" must not become the special token.
        self._impl._tokenizer.encode_special_tokens = True

    @classmethod
    def from_vocab_file(cls, path: str | Path, *, lowercase: bool = True) -> "WordPieceTokenizer":
        """Read a BERT ``vocab.txt``, one piece a line.

        Raises:
            UserError: The file is missing, not UTF-8 or no BERT vocabulary.
        """
        try:
            return cls([line for _, line in read_lines(path)], lowercase=lowercase)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def load(cls, directory: str | Path, *, lowercase: bool) -> "WordPieceTokenizer":
        """Read what ``save`` wrote."""
        return cls.from_vocab_file(Path(directory) / VOCAB_FILE, lowercase=lowercase)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of ``text``, without special tokens."""
        return self._impl.encode(text, add_special_tokens=False).ids

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return one piece per id, special tokens included."""
        return [self.vocab[int(i)] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first [SEP]; spaces around punctuation as BERT's users write.

        That is what `transformers` makes of BERT's pieces, and so what DiffuSeq's files hold.
        """
        text = self._impl.decode(content_ids(ids, self), skip_special_tokens=False)
        # The library looks at one piece at a time, so it does not see an apostrophe in a word.
        return text.replace(" ' ", "'")

    def options(self) -> dict[str, bool]:
        """Return the constructor's options beside the vocabulary."""
        return {"lowercase": self.lowercase}

    def save(self, directory: str | Path) -> None:
        """Write the vocabulary, one piece a line."""
        write_description(directory, self.kind, self.options())
        path = Path(directory) / VOCAB_FILE
        path.write_text("\n".join(self.vocab) + "\n", encoding="utf-8")

    def fingerprint(self) -> str:
        """Return a digest of the vocabulary, its order and the casing."""
        content = json.dumps([self.kind, self.options(), self.vocab])
        return hashlib.sha256(content.encode()).hexdigest()
