"""Tokenizers: word vocabularies, SentencePiece and BERT WordPiece behind one protocol."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import check_file, listing
from diffusion_jax.text.tokenizers.base import (
    DESCRIPTION_FILE,
    SpecialIds,
    Tokenizer,
    content_ids,
)
from diffusion_jax.text.tokenizers.sentencepiece import SentencePieceTokenizer
from diffusion_jax.text.tokenizers.word import WordTokenizer
from diffusion_jax.text.tokenizers.wordpiece import WordPieceTokenizer

__all__ = [
    "SentencePieceTokenizer",
    "SpecialIds",
    "Tokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "build_tokenizer",
    "content_ids",
    "load_tokenizer",
]

# What users call an option, where it is not its name here.
_NAMES = {"threshold": "min_count"}
# What build_tokenizer takes for each kind, beside the texts.
_OPTIONS = {
    "word": ("threshold", "vocab_file"),
    "sentencepiece": ("vocab_size", "model_type", "vocab_file", "lowercase"),
    "wordpiece": ("vocab_file", "lowercase"),
}
_LOADERS: dict[str, Callable[..., Tokenizer]] = {
    "word": WordTokenizer.load,
    "sentencepiece": SentencePieceTokenizer.load,
    "wordpiece": WordPieceTokenizer.load,
}


def build_tokenizer(
    kind: str,
    texts: Iterable[str] = (),
    *,
    threshold: int | None = None,
    vocab_size: int | None = None,
    model_type: str | None = None,
    vocab_file: str | Path | None = None,
    lowercase: bool | None = None,
) -> Tokenizer:
    """Learn a tokenizer from texts, or read it from a vocabulary file.

    Args:
        kind: ``"word"``, ``"sentencepiece"`` or ``"wordpiece"``.
        texts: The training texts, streamed once; not read where a file is given.
        threshold: ``word``: words seen this often or less become UNK (default 10).
        vocab_size: ``sentencepiece``: number of ids (needed without ``vocab_file``).
        model_type: ``sentencepiece``: ``"unigram"`` (default) or ``"bpe"``.
        vocab_file: A published vocabulary (``word``), a trained model (``sentencepiece``), or a
            BERT vocabulary (``wordpiece``, needed).
        lowercase: ``wordpiece``: whether the vocabulary is uncased (default true).
            ``sentencepiece``: whether to learn one that is (default false).

    Raises:
        UserError: Unknown kind, an option that the kind does not have or needs, or a vocabulary
            that cannot be made or read.
    """
    if kind not in _OPTIONS:
        raise UserError(f"unknown tokenizer kind {kind!r}; {listing(kind, _OPTIONS)}")
    given: dict[str, Any] = {
        "threshold": threshold,
        "vocab_size": vocab_size,
        "model_type": model_type,
        "vocab_file": vocab_file,
        "lowercase": lowercase,
    }
    options = {name: value for name, value in given.items() if value is not None}
    _check_options(kind, options)
    if kind == "word":
        if vocab_file is not None:
            return WordTokenizer.from_vocab_file(vocab_file)
        return WordTokenizer.build(texts, **options)
    if kind == "sentencepiece":
        if vocab_file is not None:
            return SentencePieceTokenizer.from_model_file(vocab_file)
        return SentencePieceTokenizer.build(texts, **options)
    return WordPieceTokenizer.from_vocab_file(options.pop("vocab_file"), **options)


def load_tokenizer(directory: str | Path, *, fingerprint: str | None = None) -> Tokenizer:
    """Read a tokenizer that ``Tokenizer.save`` wrote.

    Args:
        directory: Where it was saved.
        fingerprint: What the model was trained with, if that must be checked.

    Raises:
        UserError: No tokenizer there, or another one than ``fingerprint`` says.
    """
    path = check_file(Path(directory) / DESCRIPTION_FILE)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kind, options = record["kind"], record["options"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a tokenizer description") from None
    if kind not in _LOADERS:
        raise UserError(f"{path}: unknown tokenizer kind {kind!r}; {listing(kind, _LOADERS)}")
    try:
        tokenizer = _LOADERS[kind](directory, **options)
    except TypeError:
        raise UserError(f"{path}: tokenizer {kind!r} has no options {options}") from None
    if fingerprint is not None and tokenizer.fingerprint() != fingerprint:
        raise UserError(
            f"{directory}: this vocabulary does not fit the checkpoint, which was trained with "
            "another one; use the tokenizer that was saved beside the checkpoint"
        )
    return tokenizer


def _check_options(kind: str, options: dict[str, Any]) -> None:
    """Refuse an option that this kind would ignore, and miss one that it needs."""
    for name in options:
        if name not in _OPTIONS[kind]:
            raise UserError(
                f"tokenizer {kind!r} has no option {name}; it takes {', '.join(_OPTIONS[kind])}"
            )
    if kind == "sentencepiece" and {"vocab_file", "lowercase"} <= options.keys():
        raise UserError(
            "a trained SentencePiece model folds case or not; leave out lowercase or vocab_file"
        )
    if kind == "wordpiece" and "vocab_file" not in options:
        raise UserError("tokenizer 'wordpiece' needs vocab_file: the vocab.txt of a BERT model")
    if kind == "sentencepiece" and not {"vocab_file", "vocab_size"} & options.keys():
        raise UserError("tokenizer 'sentencepiece' needs vocab_size (or vocab_file, a model)")
    if kind != "wordpiece" and "vocab_file" in options and len(options) > 1:
        raise UserError(
            f"tokenizer {kind!r}: vocab_file {options['vocab_file']} is a finished vocabulary, to "
            f"which {', '.join(_NAMES.get(n, n) for n in sorted(options.keys() - {'vocab_file'}))} "
            "would do nothing; leave out one or the other"
        )
