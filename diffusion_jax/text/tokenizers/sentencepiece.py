"""SentencePiece: sub-word pieces learned from the training text, inside the program."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import sentencepiece

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import check_file
from diffusion_jax.text.tokenizers.base import (
    END_TEXT,
    PAD_TEXT,
    START_TEXT,
    UNK_TEXT,
    content_ids,
    write_description,
)

MODEL_FILE = "sentencepiece.model"
# The trainer holds its sentences in memory; pieces do not improve with more than this.
_MAX_TRAINING_TEXTS = 2_000_000


class SentencePieceTokenizer:
    """Sub-word pieces of a trained SentencePiece model (Kudo and Richardson, 2018).

    Trained here, the special ids are those of the word vocabulary: START=0, END=1, UNK=2, PAD=3.
    Whitespace is normalised, so a newline is a space. SEP is END, as for word vocabularies.
    """

    kind = "sentencepiece"

    def __init__(self, model_proto: bytes):
        """Make a tokenizer of a serialised model.

        Raises:
            UserError: The bytes are no SentencePiece model, or it lacks a special token.
        """
        self.model_proto = model_proto
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        self.start_id: int = self._processor.bos_id()
        self.end_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        self.pad_id: int = self._processor.pad_id()
        self.sep_id: int = self.end_id
        if min(self.start_id, self.end_id, self.pad_id) < 0:
            raise UserError(
                "the SentencePiece model has no <s>, </s> or <pad>; train it with bos_id, eos_id "
                "and pad_id set, or let this program train one"
            )

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        model_type: Literal["unigram", "bpe"] = "unigram",
        lowercase: bool = False,
    ) -> "SentencePieceTokenizer":
        """Train a model on the first two million texts.

        Args:
            texts: The training texts.
            vocab_size: Number of ids, special tokens included.
            model_type: ``"unigram"`` or ``"bpe"``.
            lowercase: Fold case before anything else, now and whenever the model is used.

        Raises:
            UserError: The texts cannot give a vocabulary of this size.
        """
        model = io.BytesIO()
        lines = (line for line in (" ".join(text.split()) for text in texts) if line)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                bos_id=0,
                eos_id=1,
                unk_id=2,
                pad_id=3,
                bos_piece=START_TEXT,
                eos_piece=END_TEXT,
                unk_piece=UNK_TEXT,
                pad_piece=PAD_TEXT,
                unk_surface=UNK_TEXT,
                input_sentence_size=_MAX_TRAINING_TEXTS,
                shuffle_input_sentence=False,
                # One thread, so that the same text gives the same model on every machine.
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(_why_training_failed(str(error), vocab_size)) from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, directory: str | Path) -> "SentencePieceTokenizer":
        """Read what ``save`` wrote."""
        return cls.from_model_file(Path(directory) / MODEL_FILE)

    @classmethod
    def from_model_file(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Read a ``.model`` file that SentencePiece wrote."""
        file = check_file(path)
        try:
            return cls(file.read_bytes())
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of ``text``, without special tokens."""
        return self._processor.encode(text)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return one piece per id, special tokens included."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the pieces up to the first END."""
        return self._processor.decode(content_ids(ids, self))

    def options(self) -> dict[str, bool]:
        """Return the constructor's options beside the model: none."""
        return {}

    def save(self, directory: str | Path) -> None:
        """Write the model file."""
        write_description(directory, self.kind, self.options())
        (Path(directory) / MODEL_FILE).write_bytes(self.model_proto)

    def fingerprint(self) -> str:
        """Return a digest of the model."""
        return hashlib.sha256(self.kind.encode() + self.model_proto).hexdigest()


def _why_training_failed(message: str, vocab_size: int) -> str:
    """Turn the trainer's message into what was given, what is allowed and what to do."""
    if "value <=" in message:
        largest = message.rsplit("value <=", 1)[1].strip(" .\n")
        return (
            f"vocab_size {vocab_size} is too large for this text: it gives at most {largest} "
            f"pieces; set vocab_size to {largest} or less, or give more text"
        )
    if "required_chars" in message or "smaller than" in message:
        return (
            f"vocab_size {vocab_size} is too small: it must hold every character of the text; "
            "raise vocab_size"
        )
    return f"SentencePiece could not learn {vocab_size} pieces from this text: {message.strip()}"
